"""The real engine behind the real server, on the tiny model: what is promised about steering holds over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.serving import load
from server.settings import BadSettings, Settings
from steering.errors import PackNotFound
from steering.model.loading import load_model
from tests.models import tiny_model
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs

LONG_SEED = 3
"""With this seed the tiny model finds no end of its answer for 400 tokens."""
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 2}


@pytest.fixture(scope="module")
def settings(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    packs = tmp_path_factory.mktemp("packs")
    save_packs(packs, load_model(str(tiny_folder)), tiny_model(seed=1))
    return Settings(
        model=str(tiny_folder),
        packs=packs,
        default_profile="candid",
        served_model_name="tiny",
        deterministic=True,
        max_rows=4,
        threads=1,
    )


@pytest.fixture(scope="module")
def real(settings: Settings) -> Iterator[Live]:
    with serve(lambda: load(settings), settings) as live:
        yield live


def answer(live: Live, **fields: Any) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Text, log-probabilities without traces, receipt."""
    reply = live.chat(**GREEDY | fields)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    entries = [{k: v for k, v in entry.items() if k != "steering"} for entry in choice["logprobs"]["content"]]
    return choice["message"]["content"], entries, choice.get("steering", {})


def test_off_is_the_plain_model_and_on_is_not(real: Live) -> None:
    plain = answer(real)
    for off in (False, {"mode": "off"}, {"strength": 0}, {"profile": "firm", "strength": 0}, {"threshold": 1}):
        assert answer(real, steering=off)[:2] == plain[:2]
    for profile in ("candid", "firm"):
        steered = answer(real, steering=profile)
        assert steered[0] != plain[0] and steered[2]["applied"] is True  # else the equalities above say nothing


def test_observing_changes_nothing_and_measures(real: Live) -> None:
    plain, observed = answer(real), answer(real, steering={"mode": "observe", "trace": "tokens"})
    assert observed[:2] == plain[:2]
    assert 0 < observed[2]["max_drift"] <= 1 and observed[2]["skipped"] == "observe"


def test_a_shut_gate_says_so(real: Live) -> None:
    receipt = answer(real, steering={"threshold": 1})[2]
    assert receipt["skipped"] == "gate did not open" and receipt["fired_tokens"] == 0
    opened = answer(real, steering={"threshold": 0})[2]
    assert opened["applied"] and opened["at"] == 0


def test_the_trace_says_what_each_gate_can_know(real: Live) -> None:
    """A drift gate reads before it corrects; with `always` there is no uncorrected pass to read."""
    drift = real.chat(**GREEDY, steering={"profile": "firm", "gate": "drift", "trace": "tokens"}).json()
    entries = [e["steering"] for e in drift["choices"][0]["logprobs"]["content"]]
    assert any(e["fired"] for e in entries) and all(isinstance(e["late"], list) for e in entries)
    assert all("base_logprob" in e for e in entries)
    always = real.chat(**GREEDY, steering={"profile": "firm", "trace": "tokens"}).json()
    entries = [e["steering"] for e in always["choices"][0]["logprobs"]["content"]]
    assert all(e["late"] == "steered" and "base_logprob" not in e for e in entries)


@pytest.mark.parametrize(
    "fields", [{}, {"steering": {"trace": "tokens"}}, {"temperature": 1, "seed": 5}, {"stop": "e"}]
)
def test_X12_stream_and_whole_say_the_same(real: Live, fields: dict[str, Any]) -> None:
    whole = real.chat(**GREEDY | fields).json()
    text = real.chat(**GREEDY | fields, stream=True, stream_options={"include_usage": True}).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"].get("content", "") for c in choices) == whole["choices"][0]["message"]["content"]
    entries = [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]
    assert entries == whole["choices"][0]["logprobs"]["content"]
    assert choices[-1].get("steering") == whole["choices"][0].get("steering")
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_seed_makes_it_repeatable(real: Live) -> None:
    hot = {"temperature": 1.5, "max_tokens": 12}
    assert answer(real, seed=3, **hot) == answer(real, seed=3, **hot) != answer(real, seed=4, **hot)


def test_C1_together_as_alone(real: Live) -> None:
    """Ten mixed requests over four rows, some leaving: each comes out bit for bit as it does alone."""
    asked: list[dict[str, Any]] = [
        {"steering": steering, "messages": [{"role": "user", "content": text}], "max_tokens": 8 + 3 * i}
        for i, (steering, text) in enumerate(
            (steering, text)
            for text in ("Hello there", "What is the capital of France?")
            for steering in (None, "candid", "firm", False, True)
        )
    ]
    alone = [answer(real, **fields) for fields in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda fields: answer(real, **fields), asked))
    assert together == alone
    assert len({text for text, *_ in alone}) > 4


def test_X1_leaving_frees_the_row(real: Live) -> None:
    body = {"model": "tiny", "messages": HELLO, "temperature": 2, "seed": LONG_SEED, "max_tokens": 400}
    assert real.chat(**body).json()["usage"]["completion_tokens"] == 400  # it would go on for long
    with (
        httpx.Client(base_url=real.url, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply,
    ):
        next(reply.iter_lines())
        assert real.served.engine.num_running == 1
    real.wait_until(lambda: real.served.engine.free_rows == 4 and real.engine.num_open == 0)


def test_the_prompt_counts_and_so_does_the_context(real: Live) -> None:
    usage = real.chat(max_tokens=5, temperature=0).json()["usage"]
    assert usage["completion_tokens"] == 5 and usage["total_tokens"] == usage["prompt_tokens"] + 5
    error = real.chat(max_tokens=512).json()["error"]
    assert error["code"] == "context_length_exceeded" and "512" in error["message"]


def test_settings_that_only_a_loaded_model_can_refuse(settings: Settings, tiny_folder: Path) -> None:
    with pytest.raises(PackNotFound, match="nobody"):
        load(Settings(model=str(tiny_folder), packs=settings.packs, default_profile="nobody"))
    with pytest.raises(BadSettings, match="--default-profile"):
        load(Settings(model=str(tiny_folder), default_mode="on"))
