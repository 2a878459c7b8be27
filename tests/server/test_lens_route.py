"""POST /v1/steering/lens: the grid over HTTP, by the one engine; what is too much is refused before any work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import TypeAdapter

from server.schemas.lens import LensReply
from server.serving import Served
from server.settings import Settings
from server.translate import lens as translated
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.model.chat import encode_chat, token_text
from steering.model.loading import LanguageModel
from steering.pack import Pack, save_pack
from steering.plan import Detector
from steering.store import PackStore
from tests.models import endless_model, tiny_hf
from tests.plans import tuned_lens
from tests.server.live import HELLO, Live, serve
from tests.server.test_metrics import counting, key
from tests.server.test_request_log import LOGGER, last

REPLY = TypeAdapter(LensReply)
TEXT = "What is the capital of France? The answer is"


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return replace(endless_model(), name="tiny")


@pytest.fixture(scope="module")
def real(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("packs")
    detector = Detector(tuned_lens(tiny.layout, 2), 0.5)
    save_pack(Pack("tuned", "Has a lens.", "tiny", tiny.fingerprint, detector=detector), folder / "tuned")
    save_pack(Pack("blind", "Has none.", "tiny", tiny.fingerprint), folder / "blind")

    def load() -> Served:
        engine = Engine(tiny, EngineConfig(max_rows=4, context=256, prefill_tokens=32))
        return Served(tiny, engine, PackStore(folder, tiny), None, 1)

    with serve(load, Settings()) as live:
        yield live


def ask(live: Live, **fields: Any) -> httpx.Response:
    return live.client.post("/v1/steering/lens", json=fields)


def grid(live: Live, **fields: Any) -> dict[str, Any]:
    reply = ask(live, **fields)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    REPLY.validate_python(told, strict=False, extra="forbid")
    return told


def test_the_grid_says_what_a_stock_model_says(real: Live, tiny: LanguageModel) -> None:
    told = grid(real, messages=HELLO, candidates=["Paris", "Lyon"], profile="tuned", top_logprobs=3)
    ids = encode_chat(tiny, HELLO)
    assert told["prompt_tokens"] == len(ids) == len(told["positions"])
    assert [column["lens"] for column in told["layers"]] == ["logit", "logit", "tuned", "logit", "output"]
    assert told["profile"].startswith("tuned@")
    hf, lens = tiny_hf(), tuned_lens(tiny.layout, 2)
    with torch.no_grad():
        out = hf(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        states = list(out.hidden_states[:4])
        states[2] = lens.translate(states[2])
        rows = torch.stack([*(hf.lm_head(hf.model.norm(h))[0] for h in states), out.logits[0]], 1).log_softmax(-1)
    first = [candidate["id"] for candidate in told["candidates"]]
    for position, (one, layers) in enumerate(zip(told["positions"], rows, strict=True)):
        assert (one["position"], one["id"], one["token"]) == (position, ids[position], token_text(tiny, ids[position]))
        for cell, row in zip(one["layers"], layers, strict=True):
            assert [text for text, _ in cell["top"]] == [token_text(tiny, int(i)) for i in row.topk(3).indices]
            assert [value for _, value in cell["top"]] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
            assert cell["candidates"] == pytest.approx([row[i].item() for i in first], abs=1e-4)
        assert one["layers"][-1]["kl"] == 0.0 and one["layers"][0]["kl"] > 0.01


def test_the_output_is_what_completions_score(real: Live) -> None:
    """Two routes, one engine: log-probabilities of a prompt's own tokens."""
    scored = real.complete(prompt=TEXT, echo=True, max_tokens=0, logprobs=5).json()["choices"][0]["logprobs"]
    told = grid(real, text=TEXT)
    assert [one["token"] for one in told["positions"]] == scored["tokens"]
    for one, best in zip(told["positions"], scored["top_logprobs"][1:], strict=False):
        values = [value for _, value in one["layers"][-1]["top"]]
        assert values[0] == pytest.approx(max(best.values()), abs=1e-4)
        assert all(min(abs(value - given) for value in values) < 1e-4 for given in sorted(best.values())[-2:])


def test_positions_and_layers_are_chosen(real: Live) -> None:
    whole, part = grid(real, text=TEXT), grid(real, text=TEXT, positions=2, layers=[3, 0, 4])
    assert [column["layer"] for column in part["layers"]] == [0, 3, 4]
    assert [one["position"] for one in part["positions"]] == [one["position"] for one in whole["positions"][-2:]]
    for mine, theirs in zip(part["positions"], whole["positions"][-2:], strict=True):
        assert [cell["top"][0][0] for cell in mine["layers"]] == [theirs["layers"][i]["top"][0][0] for i in (0, 3, 4)]
    assert [column["lens"] for column in grid(real, text=TEXT, layers=[])["layers"]] == ["output"]
    assert len(grid(real, text=TEXT, positions=10_000)["positions"]) == whole["prompt_tokens"]


@pytest.mark.parametrize(
    "prompt",
    [{"text": TEXT}, {"messages": HELLO}, {"messages": [*HELLO, {"role": "assistant", "content": "The answer is"}]}],
    ids=["text", "chat", "continued"],
)
def test_a_candidate_is_the_token_that_would_follow(real: Live, tiny: LanguageModel, prompt: dict[str, Any]) -> None:
    told = grid(real, candidates=[" Paris", " Lyon", "東"], positions=1, **prompt)
    for candidate in told["candidates"]:
        rest = tiny.tokenizer.encode(candidate["text"], add_special_tokens=False)
        assert (candidate["id"], candidate["num_tokens"]) == (rest[0], len(rest))
        assert candidate["token"] == token_text(tiny, rest[0])


def test_what_was_called_last_is_not_dropped(real: Live) -> None:
    """Nothing is read after a call that the template would not show: chats refuse it too."""
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [called]}]
    refused(real, "invalid_value", "messages.1.tool_calls", messages=turns)


def test_a_candidate_that_melts_into_the_prompt_is_refused(real: Live) -> None:
    refused(real, "invalid_value", "candidates.1", text="It is Par", candidates=[" x", "is."])


def test_others_run_on_beside_it(real: Live) -> None:
    """A long answer and a grid in one batch: the answer's text is that of the answer alone."""
    fields = {"temperature": 0, "max_tokens": 100}
    alone = real.chat(**fields).json()["choices"][0]["message"]
    texts: list[Any] = []
    thread = threading.Thread(target=lambda: texts.append(real.chat(**fields).json()["choices"][0]["message"]))
    thread.start()
    for _ in range(3):
        grid(real, text=TEXT * 4)
    thread.join(60)
    assert texts == [alone]


def test_nothing_is_left_when_the_client_goes(real: Live) -> None:
    with httpx.Client(base_url=real.url, timeout=0.01, trust_env=False) as client:
        for _ in range(5):
            with pytest.raises(httpx.TimeoutException):
                client.post("/v1/steering/lens", json={"text": TEXT * 4})
    real.wait_until(lambda: real.engine.num_open == 0, 20)
    real.wait_until(lambda: not real.served.engine.has_work, 20)


def refused(live: Live, code: str, param: str | None, *, status: int = 400, says: str = "", **fields: Any) -> None:
    reply = ask(live, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param), reply.text
    assert says in error["message"] and len(reply.content) < 4000


def test_too_much_is_refused_with_what_would_do(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translated, "MAX_CELLS", 10)
    refused(live, "integer_above_max_value", "positions", text=TEXT, says="at most 2 here")
    assert ask(live, text=TEXT, positions=2).status_code == 200
    assert ask(live, text=TEXT, positions=5, layers=[1]).status_code == 200
    monkeypatch.setattr(translated, "MAX_NUMBERS", 40)
    refused(live, "integer_above_max_value", "positions", text=TEXT, positions=2, top_logprobs=9, says="at most 0 here")
    monkeypatch.setattr(translated, "MAX_ENCODED", 3)
    refused(live, "array_above_max_length", "candidates", text=TEXT, positions=1, candidates=[" a"])


@pytest.mark.parametrize(
    ("code", "param", "fields"),
    [
        ("missing_required_parameter", "messages", {}),
        ("invalid_value", "messages", {"text": "a", "messages": HELLO}),
        ("array_below_min_length", "messages", {"messages": []}),
        ("string_below_min_length", "text", {"text": ""}),
        ("context_length_exceeded", "text", {"text": "a " * 300}),
        ("context_length_exceeded", "messages", {"messages": [{"role": "user", "content": "a " * 30_000}]}),
        ("unknown_parameter", "candidate", {"text": "a", "candidate": ["b"]}),
        ("array_above_max_length", "candidates", {"text": "a", "candidates": [" b"] * 65}),
        ("string_below_min_length", "candidates.0", {"text": "a", "candidates": [""]}),
        ("invalid_type", "candidates", {"text": "a", "candidates": " b"}),
        ("integer_above_max_value", "top_logprobs", {"text": "a", "top_logprobs": 21}),
        ("integer_below_min_value", "top_logprobs", {"text": "a", "top_logprobs": 0}),
        ("integer_below_min_value", "positions", {"text": "a", "positions": 0}),
        ("invalid_type", "positions", {"text": "a", "positions": True}),
        ("layer_out_of_range", "layers.1", {"text": "a", "layers": [0, 5]}),
        ("layer_out_of_range", "layers.0", {"text": "a", "layers": [-1]}),
        ("invalid_value", "layers", {"text": "a", "layers": [1, 1]}),
        ("invalid_type", "layers.0", {"text": "a", "layers": ["1"]}),
        ("invalid_name", "profile", {"text": "a", "profile": "../x"}),
        ("invalid_value", "profile", {"text": "a", "profile": "blind"}),
        ("non_finite_number", "positions", {"text": "a", "positions": float("inf")}),
    ],
)
def test_bad_requests(real: Live, code: str, param: str, fields: dict[str, Any]) -> None:
    if code == "non_finite_number":
        body = b'{"text": "a", "positions": 1e999}'
        reply = real.client.post("/v1/steering/lens", content=body, headers={"content-type": "application/json"})
        assert reply.json()["error"]["code"] == code
        return
    refused(real, code, param, **fields)


def test_what_is_not_there(real: Live, live: Live) -> None:
    refused(real, "steering_profile_not_found", "profile", status=404, text="a", profile="tunes", says="tuned?")
    refused(real, "model_not_found", "model", status=404, text="a", model="tiny+tuned")
    refused(live, "profile_unavailable", "profile", status=503, text="a", profile="broken")
    assert ask(real, text="a", model="tiny").status_code == 200


def test_it_is_counted_and_logged_like_any_request(real: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER), counting(real) as changed:
        told = grid(real, text=TEXT, profile="tuned")
        line = last(real, caplog, route="/v1/steering/lens")
    assert changed[key("unsway_requests_total", endpoint="/v1/steering/lens", stream="false")] == 1
    assert changed[key("unsway_prompt_tokens_total")] == told["prompt_tokens"] == line["prompt_tokens"]
    assert (line["model"], line["profile"], line["completion_tokens"]) == ("tiny", told["profile"], 0)
