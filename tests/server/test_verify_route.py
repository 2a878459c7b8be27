"""POST /v1/steering/verify: what it tells is what a stock model says; bad requests are refused before any work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import TypeAdapter

from server.schemas.verify import VerifyReply
from server.serving import Served
from server.settings import Settings
from server.translate import verify_reading
from server.translate.verify_reading import stands_by
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.model.chat import encode_chat, token_text
from steering.model.loading import LanguageModel
from steering.pack import Pack, save_pack
from steering.plan import Detector
from steering.store import PackStore
from tests.models import endless_model, tiny_hf
from tests.plans import tuned_lens
from tests.server.keyed import bearer, keyed
from tests.server.live import HELLO, Live, serve
from tests.server.test_limits import limits, stopped
from tests.server.test_metrics import counting
from tests.server.test_metrics import key as sample
from tests.server.test_request_log import LOGGER, last

REPLY = TypeAdapter(VerifyReply)
ANSWER = "The answer is Paris. You are right."
CALIBRATED = {"false_fires": 0.05, "answer_limit": 24}


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return replace(endless_model(), name="tiny")


@pytest.fixture(scope="module")
def load(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Served]:
    folder: Path = tmp_path_factory.mktemp("packs")
    detector = Detector(tuned_lens(tiny.layout, 2), 0.4, 16)
    of = "tiny", tiny.fingerprint
    save_pack(Pack("tuned", "Calibrated.", *of, detector=detector, evidence=CALIBRATED), folder / "tuned")
    save_pack(Pack("own", "By hand.", *of, detector=detector), folder / "own")
    save_pack(Pack("blind", "No lens.", *of), folder / "blind")

    def load() -> Served:
        engine = Engine(tiny, EngineConfig(max_rows=4, context=256, prefill_tokens=32))
        return Served(tiny, engine, PackStore(folder, tiny), "tuned", 1)

    return load


@pytest.fixture(scope="module")
def real(load: Callable[[], Served]) -> Iterator[Live]:
    with serve(load, Settings()) as live:
        yield live


def ask(live: Live, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return live.client.post("/v1/steering/verify", json={"messages": HELLO, **fields}, headers=headers)


def verdict(live: Live, **fields: Any) -> dict[str, Any]:
    reply = ask(live, **fields)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    REPLY.validate_python(told, strict=False, extra="forbid")
    return told


def layers(text: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, V] log-probabilities of the early layer and of the output, by a stock model."""
    hf, lens = tiny_hf(), tuned_lens(endless_model().layout, 2)
    with torch.no_grad():
        out = hf(torch.tensor([text]), use_cache=False, output_hidden_states=True)
        early = hf.lm_head(hf.model.norm(lens.translate(out.hidden_states[2][0])))
    return early.log_softmax(-1), out.logits[0].log_softmax(-1)


def js(early: torch.Tensor, late: torch.Tensor) -> float:
    """On the 16 most probable of the output, bits."""
    C = late.topk(16).indices
    p, q = early[C].double().softmax(-1), late[C].double().softmax(-1)
    m = (p + q) / 2
    bits: torch.Tensor = ((p * (p / m).log2()).sum() + (q * (q / m).log2()).sum()) / 2
    return bits.item()


def test_candidates_are_scored_where_they_differ(real: Live, tiny: LanguageModel) -> None:
    names = ["Paris", "London", "Pa", "東京"]
    told = verdict(real, answer=ANSWER, candidates=names[:2] + names[3:])
    prompt = encode_chat(tiny, HELLO)
    texts = [
        encode_chat(tiny, [*HELLO, {"role": "assistant", "content": f"The answer is {n}"}]) for n in told_names(told)
    ]
    common = next(i for i in range(200) if len({text[i] for text in texts}) > 1)
    for text, candidate in zip(texts, told["candidates"], strict=True):
        early, late = layers(text)
        for side, key in ((early, "early_logprob"), (late, "late_logprob")):
            expected = sum(side[i - 1, text[i]].item() for i in range(common, len(text)))
            assert candidate[key] == pytest.approx(expected, abs=1e-3)
        assert candidate["tokens"] == [token_text(tiny, i) for i in text[common:]]
    scores = [candidate["early_logprob"] for candidate in told["candidates"]]
    assert told["early"] == told_names(told)[scores.index(max(scores))] and told["said"] == "Paris"
    best, second = sorted(scores, reverse=True)[:2]
    assert told["gap"] == pytest.approx(best - second, abs=1e-3)
    other = texts[scores.index(second if told["early"] == "Paris" else best)]
    part = next(i for i in range(200) if other[i] != texts[0][i])
    assert told["at"] == part - len(prompt)
    assert told["drift"] == pytest.approx(js(*(side[part - 1] for side in layers(texts[0]))), abs=1e-4)


def told_names(told: dict[str, Any]) -> list[str]:
    return [str(candidate["text"]) for candidate in told["candidates"]]


@pytest.mark.parametrize("answer", [ANSWER, None])
def test_an_answer_as_it_stands(real: Live, tiny: LanguageModel, answer: str | None) -> None:
    """Given, or the plain model's own; the first tokens of it that were calibrated are read."""
    told = verdict(real, answer=answer, max_tokens=30 if answer is None else None)
    prompt = encode_chat(tiny, HELLO)
    if answer is None:
        own = real.chat(temperature=0, max_tokens=30).json()["choices"][0]["message"]["content"]
        assert told["answer"] == own and told["answer_tokens"] == 30
        text = list(prompt)
        while len(text) < len(prompt) + 30:
            text.append(int(layers(text)[1][-1].argmax()))
    else:
        text = encode_chat(tiny, [*HELLO, {"role": "assistant", "content": answer}])
    early, late = layers(text)
    read = text[len(prompt) : len(prompt) + 24]
    drifts = [js(early[i - 1], late[i - 1]) for i in range(len(prompt), len(prompt) + len(read))]
    at = told["at"]
    assert told["drift"] == pytest.approx(drifts[at], abs=1e-3) and told["said"] == token_text(tiny, read[at])
    row = early[len(prompt) + at - 1]
    top = row.topk(2)
    same = int(top.indices[0]) == read[at]
    against = top.values[1] if same else row[read[at]]
    assert told["gap"] == pytest.approx((top.values[0] - against).item(), abs=1e-3)
    assert told["early"].startswith(token_text(tiny, int(top.indices[0])).replace("\ufffd", ""))
    expected = {"threshold": 0.4, "false_alarms": 0.05, "calibrated_tokens": 24, "layer": 2, "lens": "tuned"}
    assert {key: told[key] for key in expected} == expected and told["profile"].startswith("tuned@")
    if told["verdict"] == "drifted":
        assert told["drift"] > 0.4 and told["gap"] >= told["margin"] and not same


def test_what_is_decided_beyond_the_calibrated_tokens_is_not(real: Live) -> None:
    told = verdict(real, answer="x " * 30 + ANSWER, candidates=["Paris", "Lyon"])
    assert told["verdict"] == "undecided" and "24 tokens" in told["reason"] and told["at"] >= 24


def test_without_calibration_there_is_no_verdict(real: Live) -> None:
    for fields in ({}, {"candidates": ["Paris", "Lyon"]}):
        told = verdict(real, answer=ANSWER, profile="own", **fields)
        assert told["verdict"] == "undecided" and "not calibrated" in told["reason"] and "false_alarms" not in told
        assert told["drift"] > 0


def test_an_answer_that_stands_by_none(real: Live) -> None:
    told = verdict(real, answer="I do not know.", candidates=["Paris", "Lyon"])
    assert told["verdict"] == "undecided" and "none of the candidates" in told["reason"]
    assert not {"at", "early", "said", "candidates"} & told.keys()


def test_one_that_is_gone_on_with(real: Live) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "The answer is"}]
    whole = verdict(real, answer=ANSWER, candidates=["Paris", "Lyon"])
    part = verdict(real, messages=begun, answer=" Paris.", candidates=["Paris", "Lyon"])
    assert part["candidates"] == whole["candidates"] and part["at"] < whole["at"]
    assert verdict(real, messages=begun)["answer_tokens"] > 0


@pytest.mark.parametrize(
    ("answer", "candidates", "said"),
    [
        ("You say Lyon, but the answer is Paris.", ["Lyon", "Paris"], (1, 32)),
        ("Lyon or Paris, who knows.", ["Paris", "Lyon"], (1, 0)),
        ("It is New York.", ["York", "New York"], (1, 6)),
        ("The answer is paris.", ["Lyon", "Paris"], (1, 14)),
        ("Parisian Lyonnais", ["Paris", "Lyon"], None),
        ("東京です", ["京都", "東京"], (1, 0)),
        ("(B)", ["(A)", "(B)"], (1, 0)),
        ("", ["a", "b"], None),
    ],
)
def test_which_candidate_an_answer_stands_by(answer: str, candidates: list[str], said: object) -> None:
    assert stands_by(answer, candidates) == said


def test_others_run_on_beside_it(real: Live) -> None:
    fields = {"temperature": 0, "max_tokens": 100}
    alone = real.chat(**fields).json()["choices"][0]["message"]
    texts: list[Any] = []
    thread = threading.Thread(target=lambda: texts.append(real.chat(**fields).json()["choices"][0]["message"]))
    thread.start()
    for _ in range(3):
        verdict(real, answer=ANSWER, candidates=["Paris", "Lyon"])
        verdict(real, max_tokens=8)
    thread.join(60)
    assert texts == [alone]


def test_nothing_is_left_when_the_client_goes(real: Live) -> None:
    with httpx.Client(base_url=real.url, timeout=0.02, trust_env=False) as client:
        for _ in range(5):
            with pytest.raises(httpx.TimeoutException):
                client.post("/v1/steering/verify", json={"messages": HELLO, "max_tokens": 200})
    real.wait_until(lambda: real.engine.num_open == 0, 20)
    real.wait_until(lambda: not real.served.engine.has_work, 20)


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def refused(live: Live, code: str, param: str | None, *, status: int = 400, says: str = "", **fields: Any) -> None:
    reply = ask(live, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param), reply.text
    assert says in error["message"] and len(reply.content) < 4000


@pytest.mark.parametrize(
    ("code", "param", "fields"),
    [
        ("array_below_min_length", "messages", {"messages": []}),
        ("missing_required_parameter", "messages.0.role", {"messages": [{"content": "a"}]}),
        ("string_below_min_length", "answer", {"answer": ""}),
        ("string_above_max_length", "answer", {"answer": "a" * (2**16 + 1)}),
        ("context_length_exceeded", "answer", {"answer": "a " * 300}),
        ("context_length_exceeded", "answer", {"answer": "a " * 30_000}),
        ("context_length_exceeded", "messages", {"messages": [{"role": "user", "content": "a " * 300}]}),
        ("invalid_value", "messages.1.tool_calls", {"messages": CALLED}),
        ("invalid_value", "messages.1.tool_calls", {"messages": CALLED, "answer": ANSWER}),
        ("invalid_type", "answer", {"answer": 1}),
        ("array_below_min_length", "candidates", {"candidates": ["a"]}),
        ("array_above_max_length", "candidates", {"candidates": [f"a{i}" for i in range(65)]}),
        ("string_below_min_length", "candidates.1", {"candidates": ["a", ""]}),
        ("invalid_value", "candidates", {"candidates": ["a", " a"]}),
        ("invalid_value", "candidates.1", {"answer": ANSWER, "candidates": ["Paris", "Paris. You"]}),
        ("invalid_value", "max_tokens", {"answer": ANSWER, "max_tokens": 5}),
        ("context_length_exceeded", "max_tokens", {"max_tokens": 250}),
        ("integer_below_min_value", "max_tokens", {"max_tokens": 0}),
        ("unknown_parameter", "candidate", {"candidate": ["a", "b"]}),
        ("invalid_value", "profile", {"profile": "blind"}),
        ("invalid_name", "profile", {"profile": "../x"}),
        ("invalid_unicode", None, {"answer": "\ud800"}),
    ],
)
def test_bad_requests(real: Live, code: str, param: str | None, fields: dict[str, Any]) -> None:
    if code == "invalid_unicode":
        body = b'{"messages": [{"role": "user", "content": "a"}], "answer": "\\ud800"}'
        reply = real.client.post("/v1/steering/verify", content=body, headers={"content-type": "application/json"})
        assert reply.json()["error"]["code"] == code
        return
    refused(real, code, param, **fields)


def test_what_is_not_there(real: Live, live: Live) -> None:
    refused(real, "steering_profile_not_found", "profile", status=404, profile="tunes", says="tuned?")
    refused(real, "model_not_found", "model", status=404, model="tiny+tuned")
    refused(live, "profile_unavailable", "profile", status=503, profile="broken")


def test_too_much_is_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_reading, "MAX_COMPUTED", 20)
    refused(live, "array_above_max_length", "candidates", answer=ANSWER, candidates=["Paris", "Lyon"])
    monkeypatch.setattr(verify_reading, "MAX_COMPUTED", 2**16)
    monkeypatch.setattr(verify_reading, "MAX_NUMBERS", 3)
    refused(live, "array_above_max_length", "candidates", answer=ANSWER, candidates=["Paris", "Lyon"])


def test_who_may_not_switch_off_gets_no_plain_answer_here_either(load: Callable[[], Served], tmp_path: Path) -> None:
    stays = {"scopes": ["chat"], "steering": {"profile": "tuned"}, "policy": {"may_switch_off": False}}
    with keyed(load(), tmp_path, {"stays": stays, "free": {}}) as server:
        reply = ask(server.live, bearer("stays"), max_tokens=4)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (403, "steering_policy", "answer")
        assert ask(server.live, bearer("stays"), answer=ANSWER).status_code == 200
        assert ask(server.live, bearer("free"), max_tokens=4).status_code == 200


CANDIDATES = ["Paris", "Lyon", "Rome", "Oslo"]


@pytest.mark.parametrize(
    "fields", [{"answer": ANSWER, "candidates": CANDIDATES}, {"answer": ANSWER}, {"max_tokens": 9}]
)
def test_tokens_are_taken_at_once_and_given_back(
    load: Callable[[], Served], tmp_path: Path, fields: dict[str, Any]
) -> None:
    """What takes more than a minute's tokens waits for a full minute, runs, and is owed; half of one is never paid."""
    tables = {"small": limits(tokens_per_minute=40), "large": limits(tokens_per_minute=5000)}
    with stopped(load(), tmp_path, tables) as (server, clock):
        assert ask(server.live, bearer("small"), **fields).status_code == 200
        refused = ask(server.live, bearer("small"), **fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        clock.now += 600
        assert ask(server.live, bearer("small"), **fields).status_code == 200
        told = ask(server.live, bearer("large"), **fields)
        prompt = len(encode_chat(server.live.served.model, HELLO))
    assert told.status_code == 200
    spent = 5000 - int(told.headers["x-ratelimit-remaining-tokens"])
    assert spent > prompt * len(fields.get("candidates", "1")), "each text that is read counts"


def test_it_is_counted_and_logged_like_any_request(
    load: Callable[[], Served], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER), serve(load) as live:
        with counting(live) as changed:
            told = verdict(live, max_tokens=5)
        line = last(live, caplog, route="/v1/steering/verify")
    assert changed[sample("unsway_requests_total", endpoint="/v1/steering/verify", stream="false")] == 1
    assert changed[sample("unsway_request_seconds_count")] == 1
    generated = changed[sample("unsway_completion_tokens_total")]
    assert told["answer_tokens"] == 5 < generated <= 5 + 16
    assert (line["prompt_tokens"], line["completion_tokens"]) == (
        changed[sample("unsway_prompt_tokens_total")],
        generated,
    )
    assert (line["model"], line["profile"], line["steered_tokens"]) == ("tiny", told["profile"], 0)
    assert not any(name.startswith("unsway_steering") and count for (name, _), count in changed.items())
