"""The committed description of the API is the one the code gives, and says what the code does.

All of it against a real server: tests/e2e/test_schemathesis.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonschema
import pytest

from openapi.export import FILE, document
from server.access import need
from server.caller import LOCAL
from server.schemas.completions import CompletionRequest
from server.schemas.document_errors import CODES, errors_of, examples
from server.schemas.document_requests import EXAMPLES, TOOLS_EXAMPLE
from server.schemas.openai import ChatRequest
from server.serving import Served
from server.settings import Settings, field_help
from server.translate import lens, verify
from steering.model.loading import BUNDLED
from tests.server.live import Live

DOCUMENT = json.loads(document())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
"""Id -> (method, path, operation)"""
UNREADY = {"create_job": (503, "jobs_unavailable")}
"""What the server of these tests has no folder for."""


PREPARED: dict[str, Callable[[bytes, Served], object]] = {
    "read_lens": lens.prepare,
    "verify_answer": partial(verify.prepare, caller=LOCAL),
}
"""What the engine of these tests cannot run: it reads no layers."""


def valid(value: object, schema: dict[str, Any]) -> bool:
    """Against a schema of the document."""
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).is_valid(value)


def test_the_committed_file_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == document(), "run: python openapi/export.py"


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    for kind in ("schemas", "headers", "examples"):
        named = {part.split('"')[0] for part in text.split(f"#/components/{kind}/")[1:]}
        assert named and named <= DOCUMENT["components"][kind].keys()
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert {"ChatRequest", "ChatCompletion", "ChatCompletionChunk", "ErrorReply", "Receipt"} <= named
    assert {
        "CompletionRequest",
        "TextCompletion",
        "LensRequest",
        "LensReply",
        "VerifyRequest",
        "Trace",
        "Config",
        "JobRequest",
        "Job",
    } <= named
    assert {"ResponsesRequest", "ResponseReply", "ResponseEvent", "Tool", "ToolCall"} <= named


def test_operations_have_stable_names_and_errors() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.") and OPERATIONS.keys() == CODES.keys()
    assert len(OPERATIONS) == sum(map(len, DOCUMENT["paths"].values())) == 26
    for name, (method, path, operation) in OPERATIONS.items():
        replies, needed = operation["responses"], need(path, method.upper())
        assert "default" not in replies and "422" not in replies
        assert replies.keys() >= errors_of(name, needed).keys() | {"500"}
        assert ("401" in replies) == (needed != "open") == bool(operation["security"])
        assert all("x-request-id" in reply["headers"] for reply in replies.values())


def test_what_scope_an_operation_needs_is_said() -> None:
    said = {name: operation["security"] for name, (_, _, operation) in OPERATIONS.items()}
    assert said["create_chat_completion"] == [{"key": ["chat"]}] and said["delete_profile"] == [{"key": ["profiles"]}]
    assert said["retrieve_me"] == [{"key": []}] and said["health_ready"] == []


def test_links_lead_to_operations_that_take_what_they_give() -> None:
    links = [
        link
        for _, _, operation in OPERATIONS.values()
        for reply in operation["responses"].values()
        for link in reply.get("links", {}).values()
    ]
    assert len(links) == 14
    for link in links:
        _, path, _ = OPERATIONS[link["operationId"]]
        assert re.findall(r"{(\w+)}", path) == list(link["parameters"])


def test_examples_of_errors_are_errors_that_there_are() -> None:
    told = {code for codes in CODES.values() for code in codes}
    assert told <= examples().keys()
    for code, example in DOCUMENT["components"]["examples"].items():
        assert valid(example["value"], SCHEMAS["ErrorReply"]) and example["value"]["error"]["code"] == code


def test_every_body_has_examples() -> None:
    with_json = {
        name
        for name, (_, _, operation) in OPERATIONS.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert with_json == EXAMPLES.keys()
    for name, (_, _, operation) in OPERATIONS.items():
        assert all("example" in one or not one.get("required") for one in operation.get("parameters", ())), name


@pytest.mark.parametrize(("name", "example"), [(name, key) for name, some in EXAMPLES.items() for key in some])
def test_examples_fit_their_schema_and_are_accepted(name: str, example: str, live: Live) -> None:
    method, path, operation = OPERATIONS[name]
    content = operation["requestBody"]["content"]["application/json"]
    body = content["examples"][example]["value"]
    assert valid(body, content["schema"]) and not valid({**body, "surprise": 1}, content["schema"])
    body = body | ({"model": "tiny"} if "model" in body else {})
    if name in PREPARED:
        PREPARED[name](json.dumps(body).encode(), live.served)
        return
    reply = live.client.request(method, path, json=body)
    if name in UNREADY:
        assert (reply.status_code, reply.json()["error"]["code"]) == UNREADY[name]
        return
    assert reply.status_code == 200, reply.text


def test_an_example_with_tools_fits() -> None:
    assert valid(TOOLS_EXAMPLE, SCHEMAS["ChatRequest"])


def test_operations_without_a_body_take_their_examples(live: Live) -> None:
    """What is there is found; what cannot be is 404."""
    known = {"retrieve_job", "stream_job_events", "list_jobs", "metrics"}
    for name, (method, path, operation) in OPERATIONS.items():
        if method != "get":
            continue
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                assert valid(parameter["example"], parameter["schema"])
                path = path.replace(f"{{{parameter['name']}}}", parameter["example"].replace(BUNDLED, "tiny"))
        reply = live.client.get(path)
        expected = 503 if "job" in name else 404 if name == "retrieve_trace" else 200
        assert reply.status_code == expected or name in known, (name, reply.text)
        assert str(reply.status_code) in operation["responses"]


@pytest.mark.parametrize(
    ("schema", "body", "wrong"),
    [
        ("ChatRequest", {"stream": True, "stream_options": {}}, {"stream": False}),
        ("ChatRequest", {"logprobs": True, "top_logprobs": 2}, {"logprobs": None}),
        ("ChatRequest", {"stop_token_ids": [3]}, {"response_format": {"type": "json_object"}}),
        ("ChatRequest", {"messages": [{"role": "user", "content": "?"}]}, {"messages": [{"role": "user"}]}),
        ("ChatRequest", {"steering": "candid"}, {"steering": "on"}),
        ("ChatRequest", {"logit_bias": {"3": 1}}, {"logit_bias": {"x": 1}}),
        ("CompletionRequest", {"max_tokens": 0, "echo": True}, {"echo": None}),
        ("LensRequest", {"messages": None, "text": "Paris"}, {"messages": [{"role": "user", "content": "?"}]}),
        ("LensRequest", {"layers": [1, 2]}, {"layers": [1, 1]}),
        ("VerifyRequest", {"answer": None, "max_tokens": 2}, {"answer": "Lyon."}),
    ],
)
def test_rules_between_fields_are_said(schema: str, body: dict[str, Any], wrong: dict[str, Any], live: Live) -> None:
    name = next(
        name
        for name, (_, _, operation) in OPERATIONS.items()
        if json.dumps(operation.get("requestBody", "")).count(f"/{schema}")
    )
    _, path, _ = OPERATIONS[name]
    whole = next(iter(EXAMPLES[name].values())) | body
    assert valid(whole, SCHEMAS[schema]) and not valid(whole | wrong, SCHEMAS[schema])
    sent = whole | wrong | ({"model": "tiny"} if "model" in whole else {})
    assert live.client.post(path, json=sent).status_code == 400


def test_every_body_is_described() -> None:
    posts = {path: operations["post"] for path, operations in DOCUMENT["paths"].items() if "post" in operations}
    assert len(posts) == 6 and all("requestBody" in operation for operation in posts.values())
    assert "requestBody" in DOCUMENT["paths"]["/v1/steering/profiles/{name}"]["put"]


def test_fields_of_the_request_are_described() -> None:
    described = SCHEMAS["ChatRequest"]["properties"]
    assert {"steering", "messages", "temperature"} <= described.keys() <= ChatRequest.model_fields.keys()
    assert "functions" not in described  # refused, so not offered
    described = SCHEMAS["CompletionRequest"]["properties"]
    assert {"steering", "prompt", "echo", "logit_bias"} <= described.keys() <= CompletionRequest.model_fields.keys()


def test_every_setting_has_its_line() -> None:
    assert Settings().model == BUNDLED
    lines = field_help()
    assert lines.keys() == Settings.__dataclass_fields__.keys()
    assert all(line.endswith(".") and "\n" not in line for line in lines.values())
