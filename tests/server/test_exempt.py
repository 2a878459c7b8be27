"""`steering.exempt` over HTTP: what is refused, what the receipt and the trace say, whichever way an answer comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.caller import LOCAL
from server.serving import Served
from server.settings import Settings
from server.translate.chat import prepare
from server.translate.completions import prepare as prepare_completion
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.store import PackStore
from tests.engine.test_spans import with_template
from tests.models import CHAT_TEMPLATE, endless_model, sentencepiece_tokenizer, tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs
from tests.server.test_tools import CITY, function
from tests.tool_models import tool_model

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "logprobs": True}
ALL = ["code", "tool_calls", "reasoning"]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A model whose template has reasoning and tool calls, without an end of its own."""
    folder: Path = tmp_path_factory.mktemp("packs")
    template = CHAT_TEMPLATE + "{# <think></think> <tool_call></tool_call> #}"
    model = replace(endless_model(), name="tiny", tokenizer=with_template(template))
    save_packs(folder, model, tiny_model(seed=1))

    def load() -> Served:
        engine = Engine(model, EngineConfig(max_rows=4, context=192, deterministic=True))
        return Served(model, engine, PackStore(folder, model), "firm", 1)

    with serve(load) as live:
        yield live


def begun(text: str) -> list[dict[str, str]]:
    return [*HELLO, {"role": "assistant", "content": text}]


def choice(live: Live, **fields: Any) -> dict[str, Any]:
    reply = live.chat(**GREEDY | fields)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["choices"][0]
    return found


def said(choice: dict[str, Any]) -> str:
    text: str = choice["message"].get("reasoning_content", "") + choice["message"]["content"]
    return text


@pytest.mark.parametrize(
    ("text", "kind"),
    [("Here:\n```py\n", "code"), ("<tool_call>\n{", "tool_calls"), ("<think>\nHm. ", "reasoning")],
)
def test_an_answer_that_goes_on_in_a_span(marked: Live, text: str, kind: str) -> None:
    """Is the plain answer if that kind is exempt, and the steered one if it is not."""
    plain, steered = (choice(marked, messages=begun(text), steering=on) for on in (False, True))
    assert said(plain) != said(steered)
    for exempt in ([kind], ALL):
        free = choice(marked, messages=begun(text), steering={"exempt": exempt})
        assert (free["message"], free["logprobs"]) == (plain["message"], plain["logprobs"])
        told = free["steering"]
        assert (told["exempt"], told["exempt_tokens"], told["tokens"]) == (sorted(exempt), 12, 12)
        assert told["skipped"] == "all of it exempt" and not told["applied"]
    others = choice(marked, messages=begun(text), steering={"exempt": [other for other in ALL if other != kind]})
    assert others["logprobs"] == steered["logprobs"] and others["steering"]["exempt_tokens"] == 0


def test_a_span_that_was_closed_is_none(marked: Live) -> None:
    text = "<think>\nHm.\n```\n</think>\nSo: "
    assert choice(marked, messages=begun(text), steering={"exempt": ALL})["steering"]["exempt_tokens"] == 0
    other = [{"role": "user", "content": "<think>\n```\n<tool_call>"}]
    assert choice(marked, messages=other, steering={"exempt": ALL})["steering"]["exempt_tokens"] == 0


@pytest.mark.parametrize("said", ["```\nnever closed", "Why?\n~~~", "x \u241e"])
def test_what_others_leave_open_is_theirs(said: str, tmp_path: Path) -> None:
    """Where no control token parts the turns, too: a user's fence makes no code of the answer."""
    model = replace(tiny_model(), name="tiny", tokenizer=sentencepiece_tokenizer())
    save_packs(tmp_path, model, tiny_model(seed=1))
    served = Served(model, FakeEngine(model), PackStore(tmp_path, model), "firm", 1)  # type: ignore[arg-type]
    user = {"role": "user", "content": said}
    for messages, kinds in (([user], set()), ([user, {"role": "assistant", "content": "So:\n```\n"}], {"code"})):
        body = {"model": "tiny", "messages": messages, "steering": {"exempt": ["code"]}}
        (request,) = prepare(json.dumps(body).encode(), (), served, "off", LOCAL).requests
        assert request.spans is not None and request.spans.kinds == kinds


def test_traces_and_usage_say_it(marked: Live) -> None:
    fields = {"messages": begun("```\n"), "steering": {"exempt": ["code"], "trace": "tokens"}}
    reply = marked.chat(**GREEDY | fields).json()
    (one,) = reply["choices"]
    assert [entry["steering"] for entry in one["logprobs"]["content"]] == [
        {"fired": False, "steered": False, "exempt": True}
    ] * 12
    assert reply["usage"]["completion_tokens_details"]["steered_tokens"] == 0
    kept = marked.client.get(f"/v1/steering/traces/{reply['id']}").json()["choices"][0]
    assert kept["steering"] == one["steering"] and kept["tokens"][0]["steering"]["exempt"]


def test_completions_and_streams_too(marked: Live) -> None:
    steering = {"exempt": ["code"]}
    done = marked.complete(prompt="A list:\n```\n", max_tokens=9, steering=steering).json()["choices"][0]
    assert done["steering"]["exempt_tokens"] == 9
    lines = marked.chat(**GREEDY, messages=begun("~~~\n"), steering=steering, stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["choices"][0]["steering"]["exempt_tokens"] == 12


def test_beside_several_answers_and_comparison(marked: Live) -> None:
    fields = {"messages": begun("```\n"), "steering": {"exempt": ["code"], "mode": "compare"}}
    steered, plain = marked.chat(**GREEDY | fields).json()["choices"]
    assert steered["logprobs"] == plain["logprobs"] and "exempt" not in plain["steering"]
    drawn = {"temperature": 1.2, "seed": 4, "n": 3, "messages": begun("```\n"), "max_tokens": 12}
    many = marked.chat(**drawn, steering={"exempt": ["code"]}).json()["choices"]
    bare = marked.chat(**drawn).json()["choices"]
    assert [one["message"] for one in many] == [one["message"] for one in bare]
    assert len({one["message"]["content"] for one in many}) == 3


def serving(shape: str, folder: Path) -> Served:
    """A model that calls tools, without an end of its own."""
    model = replace(tool_model(shape), name="tiny", stop_ids=frozenset())
    save_packs(folder, model, tiny_model(seed=1))
    return Served(model, Engine(model, EngineConfig(max_rows=4, context=512)), PackStore(folder, model), "firm", 1)


@pytest.mark.parametrize("shape", ["thinking", "qwen", "llama"])
@pytest.mark.parametrize("begun_with", ["", "So:"])
def test_a_call_that_must_be_is_exempt(shape: str, begun_with: str, tmp_path: Path) -> None:
    """Whatever the prompt seems to open: the grammar leaves no room for reasoning."""
    messages = begun(begun_with) if begun_with else HELLO
    fields = {"tools": [function("weather", CITY)], "tool_choice": "required", "parallel_tool_calls": False, "seed": 3}
    with serve(lambda: serving(shape, tmp_path), Settings(threads=1)) as live:
        told = live.chat(messages=messages, **fields, max_tokens=200, steering={"exempt": ["tool_calls"]}).json()
    (one,) = told["choices"]
    steered = told["usage"]["completion_tokens_details"]["steered_tokens"]
    assert one["message"]["tool_calls"] and one["steering"]["tokens"] > 8
    assert steered <= 2 and one["steering"]["exempt_tokens"] == one["steering"]["tokens"] - steered


def test_json_that_must_be_is_no_reasoning(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["xxxxxx", "yyyyyy"]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}}}
    with serve(lambda: serving("thinking", tmp_path), Settings(threads=1)) as live:
        one = live.chat(response_format=form, max_tokens=60, steering={"exempt": ["reasoning"]}).json()["choices"][0]
    assert one["steering"]["exempt_tokens"] == 0 and one["steering"]["applied"]


def test_prompts_are_read_before_the_engine_has_them(tmp_path: Path) -> None:
    """The engine's thread, which serves all, copies what was read."""
    served = serving("qwen", tmp_path)
    body = {"messages": begun("```\n"), "n": 3, "steering": {"exempt": ["code"]}}
    (request,) = prepare(json.dumps(body | {"model": "tiny"}).encode(), (), served, "off", LOCAL).requests
    raw = {"model": "tiny", "prompt": "A:\n```\n", "steering": {"exempt": ["code"]}}
    (plain,) = prepare_completion(json.dumps(raw).encode(), (), served, "off", LOCAL).requests
    for one in (request, plain):
        assert one.spans is not None and one.spans.kinds == {"code"}
        twins = [one.spans.copy() for _ in range(2)]
        for token_id in served.model.tokenizer.encode("```\n", add_special_tokens=False):
            twins[0].push(token_id)
        assert (twins[0].kinds, twins[1].kinds, one.spans.kinds) == (set(), {"code"}, {"code"})
