"""A field that is not known is refused, wherever it stands, and what was meant is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import httpx
import pytest
from pydantic import AliasChoices, BaseModel, Tag

from server.schemas import generation, jobs, openai, response_format, responses, steering, tools
from server.schemas.completions import IGNORED_IN_COMPLETIONS, CompletionRequest
from server.schemas.lens import LensRequest
from server.schemas.strict import TAG_PREFIX
from server.schemas.verify import VerifyRequest
from server.schemas.violations import models_in
from server.serving import Served
from server.settings import Settings
from server.translate.steering import HEADER
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.test_openapi import DOCUMENT

STEERING = {"profile": "candid", "corrections": [{"site": "attn_z.1", "groups": [0], "scale": 0.0}]}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {"role": "assistant", "tool_calls": [CALLED]},
    {"role": "tool", "content": "1", "tool_call_id": "call_1"},
]
CHAT = {
    "model": "tiny",
    "messages": MESSAGES,
    "stream": True,
    "stream_options": {"include_usage": True},
    "steering": STEERING,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
}
RESPONSE = {
    "model": "tiny",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ],
    "stream": True,
    "stream_options": {},
    "steering": STEERING,
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}},
}
COMPLETION = {"model": "tiny", "prompt": "Hello", "stream": True, "stream_options": {}, "steering": STEERING}
QUESTION = {"question": "Why?", "correct": "So", "incorrect": ["No"]}
CALIBRATE = {"kind": "calibrate", "profile": "steady", "questions": [QUESTION]}
LENS, VERIFY = {"messages": MESSAGES}, {"messages": MESSAGES, "answer": "Yes"}


class Place(NamedTuple):
    """An object in a request, and what it is taken for."""

    route: str
    body: Mapping[str, Any]
    path: str
    model: type[BaseModel]


def places(route: str, body: Mapping[str, Any], models: Mapping[str, type[BaseModel]]) -> list[Place]:
    return [Place(route, body, path, model) for path, model in models.items()]


ASKED = {"stream_options": generation.StreamOptions, "steering": steering.SteeringOptions} | {
    "steering.corrections.0": steering.CustomCorrection
}
TURNS = {
    "messages.0": openai.Message,
    "messages.0.content.0": openai.TextPart,
    "messages.1.tool_calls.0": tools.ToolCall,
    "messages.1.tool_calls.0.function": tools.CalledFunction,
}
CHATS: dict[str, type[BaseModel]] = {
    "": openai.ChatRequest,
    **ASKED,
    **TURNS,
    "tools.0": tools.Tool,
    "tools.0.function": tools.FunctionTool,
    "tool_choice": tools.NamedTool,
    "tool_choice.function": tools.NamedFunction,
    "response_format": response_format.JsonSchemaFormat,
    "response_format.json_schema": response_format.JsonSchema,
}
RESPONSES: dict[str, type[BaseModel]] = {
    "": responses.ResponsesRequest,
    **ASKED,
    "input.0": responses.MessageItem,
    "input.0.content.0": responses.ItemText,
    "input.1": responses.ReasoningItem,
    "input.1.summary.0": responses.ItemText,
    "input.2": responses.CallItem,
    "input.3": responses.CallOutputItem,
    "tools.0": responses.ResponseTool,
    "tool_choice": responses.ResponseNamedTool,
    "text": responses.TextOptions,
    "text.format": responses.ResponseJsonSchema,
}
PLACES = [
    *places("/v1/chat/completions", CHAT, CHATS),
    *places(
        "/v1/chat/completions",
        CHAT | {"response_format": {"type": "text"}},
        {"response_format": response_format.TextFormat},
    ),
    *places(
        "/v1/chat/completions",
        CHAT | {"response_format": {"type": "json_object"}},
        {"response_format": response_format.JsonObjectFormat},
    ),
    *places("/v1/completions", COMPLETION, {"": CompletionRequest, **ASKED}),
    *places("/v1/responses", RESPONSE, RESPONSES),
    *places("/v1/steering/lens", LENS, {"": LensRequest, **TURNS}),
    *places("/v1/steering/verify", VERIFY, {"": VerifyRequest, **TURNS}),
    *places("/v1/steering/jobs", CALIBRATE, {"": jobs.CalibrateJob, "questions.0": jobs.JobQuestion}),
    *places("/v1/steering/jobs", {"kind": "evaluate", "suites": ["answer"]}, {"": jobs.EvaluateJob}),
]
REQUESTS = {place.model for place in PLACES if not place.path}
FORMS = {
    ("/v1/chat/completions", "response_format.type"),
    ("/v1/responses", "input.1.type"),
    ("/v1/responses", "input.2.type"),
    ("/v1/responses", "input.3.type"),
    ("/v1/responses", "input.0.content.0.type"),
    ("/v1/responses", "input.1.summary.0.type"),
    ("/v1/responses", "tools.0.type"),
    ("/v1/responses", "text.format.type"),
    ("/v1/steering/jobs", "kind"),
}
"""Fields that say which form an object has: without them it has none, and they themselves are asked for."""


def names(model: type[BaseModel]) -> list[str]:
    """Of its fields, as they are sent."""
    found = []
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        found.append(
            str(alias.choices[0]) if isinstance(alias, AliasChoices) else alias if isinstance(alias, str) else name
        )
    return found


def misspellings(name: str) -> list[str]:
    """One letter doubled; two next to each other swapped."""
    i = len(name) // 2
    doubled = name[:i] + name[i] + name[i:]
    swaps = (name[:k] + name[k + 1] + name[k] + name[k + 2 :] for k in range(len(name) - 1) if name[k] != name[k + 1])
    return [doubled, *list(swaps)[:1]]


def at(body: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        body = body[int(part) if part.isdigit() else part]
    return body


CASES = [(place, name) for place in PLACES for name in names(place.model)]


def titled(case: tuple[Place, str]) -> str:
    place, name = case
    return f"{place.route.rpartition('/')[2]}:{place.path}{'.' if place.path else ''}{name}"


@pytest.fixture(scope="module")
def server(model: LanguageModel, store: PackStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """With jobs."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    served = Served(model, FakeEngine(model), store, default_profile="candid", created=1)  # type: ignore[arg-type]
    with serve(lambda: served, Settings(jobs=folder, benchmarks=folder)) as live:
        yield live


def error_of(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


@pytest.mark.parametrize("case", CASES, ids=titled)
def test_a_misspelt_field_is_refused_and_the_right_one_named(server: Live, case: tuple[Place, str]) -> None:
    place, name = case
    for wrong in misspellings(name):
        body = deepcopy(dict(place.body))
        at(body, place.path)[wrong] = "x"
        error = error_of(server.client.post(place.route, json=body))
        param = f"{place.path}.{wrong}".lstrip(".")
        assert (error["code"], error["param"]) == ("unknown_parameter", param), error
        assert error["message"] == f"{param} is not a known parameter (did you mean {name}?)."


@pytest.mark.parametrize("case", [(p, n) for p, n in CASES if n in at(p.body, p.path)], ids=titled)
def test_it_is_named_also_where_the_right_one_is_missing_for_it(server: Live, case: tuple[Place, str]) -> None:
    place, name = case
    wrong, body = misspellings(name)[-1], deepcopy(dict(place.body))
    inner = at(body, place.path)
    inner[wrong] = inner.pop(name)
    error, path = error_of(server.client.post(place.route, json=body)), f"{place.path}.{name}".lstrip(".")
    if (place.route, path) in FORMS:
        assert error["param"] in (path, path.rpartition(".")[0]) and error["code"] != "unknown_parameter"
    else:
        assert error["code"] == "unknown_parameter" and f"did you mean {name}?" in error["message"], error


@pytest.mark.parametrize(
    ("route", "body", "name"),
    [
        *(("/v1/chat/completions", CHAT, name) for name in sorted(openai.IGNORED)),
        *(("/v1/completions", COMPLETION, name) for name in sorted(IGNORED_IN_COMPLETIONS)),
        *(("/v1/responses", RESPONSE, name) for name in sorted(responses.IGNORED_IN_RESPONSES)),
    ],
)
def test_fields_that_are_ignored_are_known_too(server: Live, route: str, body: dict[str, Any], name: str) -> None:
    for wrong in misspellings(name):
        error = error_of(server.client.post(route, json=body | {wrong: "x"}))
        assert error["code"] == "unknown_parameter" and f"did you mean {name}?" in error["message"]


@pytest.mark.parametrize("name", names(steering.SteeringOptions))
def test_steering_as_a_text_and_as_a_header(server: Live, name: str) -> None:
    for wrong in misspellings(name):
        text = error_of(server.chat(steering=json.dumps({wrong: 1})))
        header = error_of(server.chat({HEADER: f"candid;{wrong}=1"}))
        for error, param in ((text, f"steering.{wrong}"), (header, f"{HEADER}.{wrong}")):
            assert (error["code"], error["param"]) == ("unknown_parameter", param)
            assert f"did you mean {name}?" in error["message"]


def test_what_resembles_nothing_is_refused_without_a_guess(server: Live) -> None:
    for place in PLACES:
        body = deepcopy(dict(place.body))
        at(body, place.path)["qqqq"] = "x"
        error = error_of(server.client.post(place.route, json=body))
        assert error["code"] == "unknown_parameter" and "did you mean" not in error["message"]


# That the tables above are whole.


def reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            found |= reachable(inner)
    return found


def test_every_model_of_every_body_stands_in_the_table() -> None:
    assert {place.model for place in PLACES} == set().union(*map(reachable, REQUESTS))
    posts = {path for path, operations in DOCUMENT["paths"].items() if "post" in operations}
    assert {place.route for place in PLACES} == posts
    for place in PLACES:
        assert isinstance(at(place.body, place.path), dict)


def test_the_bodies_are_right_but_for_the_misspelling(server: Live) -> None:
    """Of what is refused, nothing is a field that is not known."""
    for place in PLACES:
        reply = server.client.post(place.route, json=place.body)
        assert reply.status_code < 500 and '"unknown_parameter"' not in reply.text, (place.route, reply.text)


def unions(annotation: Any) -> Iterator[list[Any]]:
    """Of every union in it the members, but for null."""
    if get_origin(annotation) in (Union, UnionType):
        yield [member for member in get_args(annotation) if member is not type(None)]
    for part in get_args(annotation):
        yield from unions(part)


@pytest.mark.parametrize("model", sorted({place.model for place in PLACES}, key=str))
def test_forms_of_a_field_are_told_apart(model: type[BaseModel]) -> None:
    """Else the errors of all forms would be told, under names that pydantic gives them."""
    for name, field in model.model_fields.items():
        for members in unions(field.annotation):
            tags = [part for member in members for part in get_args(member) if isinstance(part, Tag)]
            assert len(members) == 1 or len(tags) == len(members), name
            assert all(tag.tag.startswith(TAG_PREFIX) for tag in tags)
