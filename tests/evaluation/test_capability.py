"""GSM8K, StrategyQA, running text: hand-made replies with known scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from steering.errors import DataError
from steering.evaluation import capability, running_text
from steering.evaluation.backend import Read
from steering.evaluation.core import Reply
from steering.evaluation.protocol import Source
from steering.evaluation.running_text import RunningText
from tests.evaluation.fakes import asked_of, judged, last_user, saying, write_data, write_jsonl

GSM8K, STRATEGYQA = capability.suites()
[PERPLEXITY] = running_text.suites()


@pytest.mark.parametrize(
    ("reply", "last", "marked"),
    [
        ("2 + 1 = 3. The answer is 3.", 1, 1),
        ("So she has $3.00 left", 1, 1),
        ("#### 3", 1, 1),
        ("The answer is **3**, not 30.", 0, 1),
        ("The answer is 4", 0, 0),
        ("It is three.", 0, 0),
        ("", 0, 0),
    ],
)
def test_gsm8k(tmp_path: Path, reply: str, last: float, marked: float) -> None:
    question = GSM8K.load(Source(write_data(tmp_path / "data")))[1]
    backend = saying(reply)
    graded = question.grade(asked_of(question, backend))
    assert graded == {"last number": {"accuracy": last}, "marked number": {"accuracy": marked}}
    assert last_user(backend.asked[0]).startswith("What is 2 and 1?\n")


@pytest.mark.parametrize(
    ("reply", "committed", "last"),
    [
        ("Yes. It is even.", 1, 1),
        ("No doubt it is even. So the answer is yes.", 1, 1),
        ("Yes, although some say no.", 1, 0),
        ("It is even, so this is true.", 0, 1),
        ("No.", 0, 0),
        ("Perhaps.", 0, 0),
    ],
)
def test_strategyqa(tmp_path: Path, reply: str, committed: float, last: float) -> None:
    question = STRATEGYQA.load(Source(write_data(tmp_path / "data")))[0]
    graded = question.grade(asked_of(question, saying(reply)))
    assert graded == {"committed": {"accuracy": committed}, "last word": {"accuracy": last}}
    found, asked = judged(question.judge((Reply(reply),)), "yes")
    assert found == {"accuracy": 1.0} and "Right answer: yes" in asked[0].messages[0]["content"]


def test_running_text_by_hand() -> None:
    question = RunningText("0", "a text")
    backend = saying("")
    backend.answers = lambda ask: Reply("", logprobs=(-1.0, -3.0), divergences=(0.5, 0.1) + (0.0,) * 18)
    graded = question.grade(asked_of(question, backend))["exact"]
    assert graded == {"nats": 2.0, "kl": pytest.approx(0.03), "worst_kl": 0.5}
    assert backend.asked == [Read("a text")]
    plain = question.grade((Reply("", logprobs=(None, -1.0)),))["exact"]
    assert plain == {"nats": 1.0, "kl": None, "worst_kl": None}


def test_running_text_files(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    assert [q.id for q in PERPLEXITY.load(Source(data))] == ["0", "1", "2"]
    (data / "neutral_text.txt").write_text("One two\nthree.\n\nword\n\n  Four five.\n")
    texts = [q.text for q in PERPLEXITY.load(Source(data)) if isinstance(q, RunningText)]
    assert texts == ["One two\nthree.", "Four five."]


def test_answers_that_are_none(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    write_jsonl(data / "gsm8k" / "test.jsonl", [{"question": "Q?", "answer": "three"}])
    with pytest.raises(DataError, match="line 1, column 'answer': there is no number after ####"):
        GSM8K.load(Source(data))
    (data / "strategyqa" / "dev.json").write_text('[{"qid": "q0", "question": "Q?", "answer": "yes"}]')
    with pytest.raises(DataError, match="line 1, column 'answer': must be true or false"):
        STRATEGYQA.load(Source(data))
