"""The real engine behind the real server, on the tiny model: what is promised about steering holds over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from server.serving import load
from server.settings import BadSettings, Settings
from steering.errors import MemoryTooSmall, PackNotFound
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


SURFACE: list[dict[str, Any]] = [
    {"frequency_penalty": 1.5, "presence_penalty": -0.5},
    {"repetition_penalty": 1.5, "steering": "firm"},
    {"logit_bias": {"40": 8, "41": -100}, "temperature": 1, "seed": 5},
    {"logit_bias": {"60": 100}, "steering": {"mode": "observe"}},
]


COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "Paris is", "echo": True, "logprobs": 2, "max_tokens": 9, "temperature": 0},
    {"prompt": ["Paris is", "Lyon"], "n": 2, "logprobs": 1, "seed": 3, "steering": "firm"},
    {"prompt": "Paris is", "logprobs": 0, "seed": 3, "steering": {"mode": "compare", "profile": "candid"}},
]


@pytest.mark.parametrize("profile", ["candid", "firm"])
def test_T17_strength_0_is_off_on_both_routes(real: Live, profile: str) -> None:
    zero, fields = {"profile": profile, "strength": 0}, {"seed": 5, "n": 2, "frequency_penalty": 0.5, "max_tokens": 9}
    zero |= {"phases": ["prompt", "completion"]} if profile == "firm" else {}
    for ask, more in ((real.chat, {"logprobs": True}), (real.complete, {"logprobs": 2, "echo": True})):
        plain, still = (ask(steering=steering, **fields, **more).json()["choices"] for steering in (False, zero))
        assert [choice.pop("steering")["skipped"] for choice in still] == ["strength 0"] * 2
        assert still == plain


def test_penalties_and_bias_reach_the_model(real: Live) -> None:
    plain = answer(real)[0]
    assert answer(real, frequency_penalty=2, presence_penalty=2)[0] != plain
    assert answer(real, repetition_penalty=2)[0] != plain
    biased = answer(real, logit_bias={"60": 100}, max_tokens=5)
    assert [entry["bytes"] for entry in biased[1]] == [biased[1][0]["bytes"]] * 5
    assert biased[1][0]["logprob"] < -0.5  # the model's own, whatever was drawn
    assert answer(real, presence_penalty=0, frequency_penalty=0, repetition_penalty=1, logit_bias={})[0] == plain
    observed = answer(real, logit_bias={"60": 3}, frequency_penalty=0.5, steering={"mode": "observe"})
    assert observed[:2] == answer(real, logit_bias={"60": 3}, frequency_penalty=0.5)[:2]


@pytest.mark.parametrize("steering", [None, "candid", "firm"])
def test_choice_i_is_the_answer_to_seed_plus_i(real: Live, steering: Any) -> None:
    """More choices than rows."""
    hot = {"temperature": 1.3, "max_tokens": 8, "logprobs": True, "steering": steering}
    computed = real.served.engine.prompt_tokens_computed
    reply = real.chat(n=6, seed=11, **hot).json()
    assert real.served.engine.prompt_tokens_computed - computed == reply["usage"]["prompt_tokens"] - 1
    for i, choice in enumerate(reply["choices"]):
        alone = real.chat(seed=11 + i, **hot).json()["choices"][0]
        assert choice == alone | {"index": i}
    assert reply["usage"]["completion_tokens"] == sum(len(c["logprobs"]["content"]) for c in reply["choices"])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1.3, "seed": 9, "frequency_penalty": 0.5}])
def test_compare_is_on_beside_off(real: Live, fields: dict[str, Any], shared: bool) -> None:
    asked = {"max_tokens": 12, "logprobs": True, "seed": 1} | fields
    steering = {"profile": "firm", "phases": ["completion"] if shared else ["prompt", "completion"]}
    computed = real.served.engine.prompt_tokens_computed
    reply = real.chat(steering=steering | {"mode": "compare"}, **asked).json()
    prompt = reply["usage"]["prompt_tokens"] - 1
    assert real.served.engine.prompt_tokens_computed - computed == prompt * (1 if shared else 2)
    on, off = reply["choices"]
    assert on.pop("steering").pop("prefill_shared") is off.pop("steering").pop("prefill_shared") is shared
    expected_on = real.chat(steering=steering, **asked).json()["choices"][0]
    assert expected_on.pop("steering")["applied"] and on == expected_on
    assert off == real.chat(steering=False, **asked).json()["choices"][0] | {"index": 1}
    assert on["message"] != off["message"]


def test_the_plain_answer_beside_a_traced_one_is_measured_and_not_touched(real: Live) -> None:
    asked = {"max_tokens": 12, "logprobs": True, "temperature": 0}
    reply = real.chat(steering={"mode": "compare", "trace": "tokens"}, **asked).json()
    on, off = reply["choices"]
    receipt = off.pop("steering")
    assert (receipt["mode"], receipt["skipped"]) == ("observe", "plain answer to compare with")
    assert receipt["prefill_shared"] is on["steering"]["prefill_shared"] is True
    traces = [entry.pop("steering") for entry in off["logprobs"]["content"]]
    assert receipt["max_drift"] == max(trace["drift"] for trace in traces) > 0
    assert not any(trace["steered"] for trace in traces) and all(isinstance(trace["late"], list) for trace in traces)
    assert off == real.chat(steering=False, **asked).json()["choices"][0] | {"index": 1}
    assert any(entry["steering"]["steered"] for entry in on["logprobs"]["content"])


@pytest.mark.parametrize("stream", [True, False])
def test_M12_continuing_equals_completing_the_rendered_text(real: Live, stream: bool) -> None:
    """The same tokens, by a chat whose last turn is the assistant's and by a completion of what the template writes."""
    turns = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    text = "<|user|>Hello there<|end|><|assistant|>Once upon"  # and <|begin|>, which the tokenizer adds
    fields = {"temperature": 0, "max_tokens": 12, "stream": stream}
    chat, completion = real.chat(messages=turns, **fields), real.complete(prompt=text, **fields)
    assert _text(chat.text, stream) == _text(completion.text, stream) != ""


def _text(body: str, stream: bool) -> str:
    documents = [line[6:] for line in body.split("\n\n") if line.startswith("data: {")] if stream else [body]
    choices = [choice for document in documents for choice in json.loads(document)["choices"]]
    return "".join(c.get("text") or (c.get("message") or c.get("delta") or {}).get("content", "") for c in choices)


def test_a_completion_s_scores_are_those_of_the_model(real: Live, tiny_folder: Path) -> None:
    """Against a stock model; the scored prompt and the answer after it, and steered where the plan steers prompts."""
    hf, text = AutoModelForCausalLM.from_pretrained(tiny_folder), "The answer is Paris. I think it is Lyon."
    reply = real.complete(prompt=text, echo=True, logprobs=2, temperature=0, max_tokens=6).json()
    logprobs, count = reply["choices"][0]["logprobs"], reply["usage"]["prompt_tokens"]
    ids = real.served.model.tokenizer(reply["choices"][0]["text"])["input_ids"]
    scored = real.complete(prompt=ids[:count], echo=True, logprobs=2, max_tokens=0).json()["choices"][0]["logprobs"]
    assert scored["token_logprobs"] == logprobs["token_logprobs"][:count]
    with torch.no_grad():
        expected = hf(torch.tensor([ids[:count]])).logits[0].log_softmax(-1)
    values = [row[i].item() for row, i in zip(expected, ids[1:count], strict=False)]
    assert scored["token_logprobs"][1:] == pytest.approx(values, abs=1e-4)
    assert [max(top.values()) for top in scored["top_logprobs"][1:]] == pytest.approx(
        expected[:-1].amax(-1).tolist(), abs=1e-4
    )
    steering = {"profile": "firm", "phases": ["prompt", "completion"]}
    steered = real.complete(prompt=text, echo=True, logprobs=2, max_tokens=0, steering=steering).json()["choices"][0]
    assert steered["logprobs"]["token_logprobs"] != scored["token_logprobs"] and steered["steering"]["applied"]


def test_C1_together_as_alone(real: Live) -> None:
    """Mixed requests over four rows, some leaving: each comes out bit for bit as it does alone."""
    asked: list[dict[str, Any]] = [
        {"steering": steering, "messages": [{"role": "user", "content": text}], "max_tokens": 8 + 3 * i}
        for i, (steering, text) in enumerate(
            (steering, text)
            for text in ("Hello there", "What is the capital of France?")
            for steering in (None, "candid", "firm", False, True)
        )
    ]

    def ask(fields: dict[str, Any]) -> list[object]:
        if "prompt" not in fields:
            return [answer(real, **fields)]
        reply = real.complete(**fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"]  # type: ignore[no-any-return]

    asked += SURFACE + COMPLETIONS
    alone = [ask(fields) for fields in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    assert together == alone
    assert len({str(choices) for choices in alone}) > 12


def test_X1_leaving_frees_the_row(real: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a drawn answer ends early hangs on last bits, and these on what the prefix cache holds.
    body = {"model": "tiny", "messages": HELLO, "temperature": 2, "seed": LONG_SEED, "max_tokens": 400}
    body |= {"ignore_eos": True}
    assert real.chat(**body).json()["usage"]["completion_tokens"] == 400  # it would go on for long
    engine, step = real.served.engine, real.served.engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.02), step())[1])
    with (
        httpx.Client(base_url=real.url, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply,
    ):
        next(reply.iter_lines())
        assert engine.num_running == 1
    real.wait_until(lambda: engine.free_rows == 4 and real.engine.num_open == 0)


def test_the_prompt_counts_and_so_does_the_context(real: Live) -> None:
    usage = real.chat(max_tokens=5, temperature=0).json()["usage"]
    assert usage["completion_tokens"] == 5 and usage["total_tokens"] == usage["prompt_tokens"] + 5
    error = real.chat(max_tokens=512).json()["error"]
    assert error["code"] == "context_length_exceeded" and "512" in error["message"]


def test_settings_that_only_a_loaded_model_can_refuse(settings: Settings, tiny_folder: Path) -> None:
    with pytest.raises(PackNotFound, match="nobody"):
        load(Settings(model=str(tiny_folder), packs=settings.packs, default_profile="nobody"))
    with pytest.raises(MemoryTooSmall, match=r"2,000 bytes .* 131,072"):  # one row of the least context
        load(Settings(model=str(tiny_folder), kv_memory="2kB"))
    with pytest.raises(BadSettings, match="--default-profile"):
        load(Settings(model=str(tiny_folder), default_mode="on"))
