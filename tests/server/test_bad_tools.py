"""FAULTS S13 and what else may be wrong with tools: each is told by name, before any work; and M6 over HTTP."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.model import chat
from steering.model.loading import wrap
from steering.store import PackStore
from tests.grammar.hostile import HOSTILE
from tests.model.test_render import HOSTILE as TEMPLATES
from tests.models import byte_tokenizer, tiny_hf
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve
from tests.server.refusals import refused
from tests.server.test_tools import CITY, TOOLS, function, named
from tests.tool_models import tool_model


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from _serving(named("qwen"), tmp_path_factory.mktemp("none"))


def _serving(model: Any, folder: Path) -> Iterator[Live]:
    served = Served(model, FakeEngine(model, EngineConfig(max_rows=4)), PackStore(folder, model), None, 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        yield live


def by(parameters: object) -> list[dict[str, Any]]:
    return [function("f", parameters)]


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(20):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("tools", "code", "param"),
    [
        ([{}], "missing_required_parameter", "tools.0.type"),
        ([{"type": "web_search"}], "invalid_value", "tools.0.type"),
        ([{"type": "function"}], "missing_required_parameter", "tools.0.function"),
        ([function("a b")], "invalid_value", "tools.0.function.name"),
        ([function("x" * 65)], "invalid_value", "tools.0.function.name"),
        ([function("f", colour="red")], "unknown_parameter", "tools.0.function.colour"),
        ([function("f", description="x" * 20_000)], "string_above_max_length", "tools.0.function.description"),
        ([function("f"), function("f")], "invalid_value", "tools.1.function.name"),
        ([function(f"f{i}") for i in range(129)], "array_above_max_length", "tools"),
        (by("object"), "invalid_type", "tools.0.function.parameters"),
        (by([]), "invalid_type", "tools.0.function.parameters"),
        (by({"type": "string"}), "invalid_value", "tools.0.function.parameters"),
        (by({"type": "objct"}), "invalid_value", "tools.0.function.parameters"),
        (by({"properties": {"a": {"type": "strin"}}}), "invalid_value", "tools.0.function.parameters"),
        (by({"properties": {"a": {"items": {"type": 5}}}}), "invalid_value", "tools.0.function.parameters"),
        (by({"properties": {"a": "string"}}), "invalid_value", "tools.0.function.parameters"),
        (by({"properties": []}), "invalid_value", "tools.0.function.parameters"),
        (by({"required": "a"}), "invalid_value", "tools.0.function.parameters"),
        (by({"anyOf": [5]}), "invalid_value", "tools.0.function.parameters"),
        (by({"properties": {"a": {"x-guidance": {}}}}), "unsupported_parameter", "tools.0.function.parameters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_S13_what_is_wrong_with_tools(scripted: Live, tools: object, code: str, param: str) -> None:
    refused(scripted, code, param, tools=tools)


def test_S13_what_is_only_odd_is_told_to_the_model(scripted: Live) -> None:
    """Where nothing is promised of the arguments, schemas may have what cannot be promised."""
    odd = {"type": "object", "properties": {"a": {"not": {"const": 1}}, "b": True}, "oneOf": [{"required": ["a"]}]}
    assert scripted.chat(tools=by(odd)).status_code == 200
    assert scripted.chat(tools=by(DEEP)).status_code == 200
    refused(scripted, "invalid_value", "tools", says="parameters of f", tools=by(odd), tool_choice="required")


@pytest.mark.parametrize("name", ["all of many patterns", "endless reference", "contradiction"])
def test_S11_hostile_parameters_end_in_400(scripted: Live, name: str) -> None:
    tools = by({"type": "object", "properties": {"a": HOSTILE[name]}, "required": ["a"]})
    reply = scripted.chat(tools=tools, tool_choice="required")
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "tools"
    assert scripted.chat().status_code == 200


@pytest.mark.parametrize(
    ("choice", "code", "param"),
    [
        ("always", "invalid_value", "tool_choice"),
        (5, "invalid_type", "tool_choice"),
        ({"type": "function"}, "missing_required_parameter", "tool_choice.function"),
        ({"type": "custom", "function": {"name": "now"}}, "invalid_value", "tool_choice.type"),
        ({"type": "function", "function": {"name": "g"}}, "invalid_value", "tool_choice.function.name"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_choice(scripted: Live, choice: object, code: str, param: str) -> None:
    refused(scripted, code, param, tools=TOOLS, tool_choice=choice)


def test_a_choice_without_tools(scripted: Live) -> None:
    refused(scripted, "invalid_value", "tool_choice", says="only allowed with tools", tool_choice="required")
    assert scripted.chat(tool_choice="auto").status_code == 200
    assert scripted.chat(parallel_tool_calls=False).headers["x-ignored-params"] == "parallel_tool_calls"
    assert "x-ignored-params" not in scripted.chat(tools=TOOLS, parallel_tool_calls=True).headers


def test_what_has_to_be_a_call_ends_where_it_is_whole(scripted: Live) -> None:
    fields = {"tools": TOOLS, "tool_choice": "required", "stop_token_ids": [5]}
    # the scripted engine takes anything: what the real one refuses is refused where its request is made
    refused(scripted, "invalid_value", "stop_token_ids", says="constrained", **fields)


def call(arguments: object = "{}", **fields: object) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}} | fields


@pytest.mark.parametrize(
    ("told", "code", "param"),
    [
        (call("{"), "invalid_value", "tool_calls.0.function.arguments"),
        (call("[]"), "invalid_value", "tool_calls.0.function.arguments"),
        (call({}), "invalid_type", "tool_calls.0.function.arguments"),
        (call('{"a": ' * 5000), "invalid_value", "tool_calls.0.function.arguments"),
        (call('{"a":' * 65 + "1" + "}" * 65), "invalid_value", "tool_calls.0.function.arguments"),
        (call('{"a":' * 900 + "1" + "}" * 900), "invalid_value", "tool_calls.0.function.arguments"),
        (call('{"a": NaN}'), "invalid_value", "tool_calls.0.function.arguments"),
        (call('{"a": [1e999]}'), "invalid_value", "tool_calls.0.function.arguments"),
        (call("{}", id=""), "string_below_min_length", "tool_calls.0.id"),
        (call("{}", type="custom"), "invalid_value", "tool_calls.0.type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_earlier_call(scripted: Live, told: object, code: str, param: str) -> None:
    turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [told]}]
    refused(scripted, code, f"messages.1.{param}", messages=turns)


def test_a_call_has_to_be_answered(scripted: Live) -> None:
    turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call("")]}]
    refused(scripted, "invalid_value", "messages.1.tool_calls", messages=turns)
    assert scripted.chat(messages=[*turns, {"role": "tool", "tool_call_id": "c1", "content": "x"}]).status_code == 200
    deep = '{"a":' * 63 + "[1]" + "}" * 63
    for arguments in ("  ", deep):
        turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call(arguments)]}]
        said = [*turns, {"role": "tool", "tool_call_id": "c1", "content": "x"}]
        assert scripted.chat(messages=said).status_code == 200
    refused(scripted, "invalid_type", "messages.1.content", messages=[*HELLO, {"role": "assistant", "content": None}])


def test_tools_that_are_far_too_long_are_refused_unread(scripted: Live) -> None:
    tools = [function(f"f{i}", description="x" * 16_000) for i in range(100)]
    refused(scripted, "context_length_exceeded", "tools", says="at least", tools=tools)


def test_a_conversation_that_is_far_too_long_is_refused_unencoded(
    scripted: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it is long: what the template wrote is measured before a tokenizer sees it."""
    encoded = list[int]()
    monkeypatch.setattr(chat, "_encode_marked", lambda _, rendered, __: encoded.append(len(rendered)) or [])
    words = "<|im_end|> word " * 20_000
    for said in ({"reasoning_content": words}, {"tool_calls": [call(json.dumps({"a": words}))]}):
        turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call()]} | said]
        answered = [*turns, {"role": "tool", "tool_call_id": "c1", "content": "x"}]
        refused(scripted, "context_length_exceeded", "messages", says="at least", messages=answered)
    assert not encoded


def test_a_promise_that_cannot_be_kept_is_not_made(tmp_path: Path) -> None:
    """Calls that begin with plain text cannot be told from a text: `strict` is then for calls that have to be."""
    tokenizer = copy.deepcopy(tool_model("qwen").tokenizer)
    plain = wrap(tiny_hf("qwen3", vocab_size=512, max_position_embeddings=4096), tokenizer, "tiny")
    tokenizer.chat_template = tokenizer.chat_template.replace("tool_call>", "TOOLCALL>")
    model = replace(plain, name="tiny")
    for live in _serving(model, tmp_path):
        strict = [function("weather", CITY, strict=True)]
        refused(live, "unsupported_parameter", "tools.0.function.strict", tools=strict)
        refused(live, "unsupported_parameter", "parallel_tool_calls", tools=TOOLS, parallel_tool_calls=False)
        assert live.chat(tools=strict, tool_choice="required").status_code == 200
        assert live.chat(tools=TOOLS).status_code == 200


def test_what_the_prompt_opened_is_thought(tmp_path: Path) -> None:
    """A template that opens reasoning itself: the answer begins within it, and one that is JSON does not."""
    model = named("thinking")
    engine = FakeEngine(model, EngineConfig(max_rows=4), says={1: "Hm.</think>\n\nHi."})
    served = Served(model, engine, PackStore(tmp_path, model), None, 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        message = live.chat().json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi.")
        form = {"response_format": {"type": "json_object"}}
        assert live.chat(**form).json()["choices"][0]["message"]["content"] == "Hm.</think>\n\nHi."


def test_M6_a_template_that_loops_holds_up_nobody_for_long(tmp_path: Path) -> None:
    """Each such request is 400 after two seconds of processor time; a server of another model goes on beside it."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = "{% if 'loop' in messages[0].content %}" + TEMPLATES["loops"][0] + "{% endif %}x"
    model = replace(wrap(tiny_hf(), tokenizer, "tiny"), name="tiny")
    for live in _serving(model, tmp_path):
        assert live.chat().status_code == 200
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(live.chat, messages=[{"role": "user", "content": "loop"}])
            time.sleep(0.3)
            assert live.client.get("/health/live").status_code == 200 and not slow.done()
            error = slow.result().json()["error"]
        assert (error["code"], error["param"]) == ("template_error", "messages") and "2 seconds" in error["message"]
        assert live.chat().status_code == 200
