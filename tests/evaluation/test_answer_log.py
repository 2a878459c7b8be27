"""The log of answers: nothing is asked twice, a killed run goes on, a strange file is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from steering.errors import BackendError, EvaluationError
from steering.evaluation.answer_log import AnswerLog, key_of
from steering.evaluation.backend import Ask, Chat, Read, Weigh
from steering.evaluation.core import Reply
from tests.evaluation.fakes import Fake

USER = ({"role": "user", "content": "Hi \ud800 \u2028"},)
ASKS: list[Ask] = [
    Chat(USER),
    Chat(USER, draw=1),
    Weigh(USER, ("A", "B")),
    Weigh(USER, ("A", "B"), layers=True),
    Read("x"),
]
REPLY = Reply("Hello\n\u2028", 2, 0.5, True, (-1.0, None), ((1.0, 2.0),), (0.25,))


def replies(backend: AnswerLog, asks: Sequence[Ask]) -> list[Reply]:
    got = dict(backend.answer(asks))
    return [got[i] for i in range(len(asks))]


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    first = Fake(lambda ask: REPLY)
    assert replies(AnswerLog(first, tmp_path / "a" / "log.jsonl"), ASKS) == [REPLY] * 5
    again = Fake(lambda ask: Reply("other"))
    log = AnswerLog(again, tmp_path / "a" / "log.jsonl")
    assert log.num_known == 5 and replies(log, ASKS) == [REPLY] * 5 and not again.asked


def test_keys_tell_all_asks_apart() -> None:
    assert len({key_of(ask) for ask in ASKS}) == len(ASKS)
    assert key_of(Chat(USER)) == key_of(Chat(USER))


def test_equal_asks_are_one(tmp_path: Path) -> None:
    backend = Fake(lambda ask: Reply(str(len(ask.messages)) if isinstance(ask, Chat) else ""))
    assert len(replies(AnswerLog(backend, tmp_path / "log"), [Chat(USER), Read("x"), Chat(USER)])) == 3
    assert len(backend.asked) == 2


def test_a_run_killed_between_and_within_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"

    class Dies(Fake):
        def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
            yield from list(super().answer(asks))[:3]
            raise BackendError("gone")

    def echo(ask: Ask) -> Reply:
        return Reply(key_of(ask))

    with pytest.raises(BackendError):
        replies(AnswerLog(Dies(echo), path), ASKS)
    half = path.read_bytes()[:-20]
    path.write_bytes(half)
    rest = Fake(echo)
    assert replies(AnswerLog(rest, path), ASKS) == [echo(ask) for ask in ASKS]
    assert len(rest.asked) == 3, "two whole lines were there"
    assert len(path.read_text().splitlines()) == 6
    assert replies(AnswerLog(Fake(lambda ask: Reply("no")), path), ASKS) == [echo(ask) for ask in ASKS]


def test_a_run_killed_before_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"answers')
    assert replies(AnswerLog(Fake(lambda ask: REPLY), path), ASKS[:1]) == [REPLY]
    assert json.loads(path.read_text().splitlines()[0]) == {"answers of": {"model": "fake"}}


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    assert replies(AnswerLog(Fake(lambda ask: Reply("", error="too long")), tmp_path / "log"), ASKS[:1])[0].error
    assert replies(AnswerLog(Fake(lambda ask: REPLY), tmp_path / "log"), ASKS[:1]) == [REPLY]


def test_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    AnswerLog(Fake(lambda ask: REPLY), tmp_path / "log")
    other = Fake(lambda ask: REPLY, identity={"model": "other", "plan": "x"})
    with pytest.raises(EvaluationError, match=r"answers of another run \(model, plan differ\): choose another --out"):
        AnswerLog(other, tmp_path / "log")


@pytest.mark.parametrize("content", ["hello\n", '{"x": 1}\n', '{"answers of": {"model": "fake"}}\nnonsense\n', "[]\n"])
def test_files_that_are_no_log(tmp_path: Path, content: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(EvaluationError, match="no log of answers, or damaged"):
        AnswerLog(Fake(lambda ask: REPLY), tmp_path / "log")
