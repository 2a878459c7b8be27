"""The committed description of the API is the one the code gives, and says what the code does."""

from __future__ import annotations

import json

from openapi.export import FILE, document
from server.schemas.completions import CompletionRequest
from server.schemas.openai import ChatRequest
from server.settings import Settings, field_help
from steering.model.loading import BUNDLED

DOCUMENT = json.loads(document())


def test_the_committed_file_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == document(), "run: python openapi/export.py"


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    text = json.dumps(DOCUMENT)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named and named <= schemas.keys()
    assert {"ChatRequest", "ChatCompletion", "ChatCompletionChunk", "ErrorReply", "Receipt"} <= named
    assert {
        "CompletionRequest",
        "TextCompletion",
        "LensRequest",
        "LensReply",
        "Trace",
        "Config",
        "JobRequest",
        "Job",
    } <= named
    assert {"ResponsesRequest", "ResponseReply", "ResponseEvent", "Tool", "ToolCall"} <= named


def test_operations_have_stable_names_and_errors() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 26
    assert all("default" in operation["responses"] and "422" not in operation["responses"] for operation in operations)


def test_every_body_is_described() -> None:
    posts = {path: operations["post"] for path, operations in DOCUMENT["paths"].items() if "post" in operations}
    assert len(posts) == 6 and all("requestBody" in operation for operation in posts.values())
    assert "requestBody" in DOCUMENT["paths"]["/v1/steering/profiles/{name}"]["put"]


def test_fields_of_the_request_are_described() -> None:
    described = DOCUMENT["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"steering", "messages", "temperature"} <= described.keys() <= ChatRequest.model_fields.keys()
    assert "functions" not in described  # refused, so not offered
    described = DOCUMENT["components"]["schemas"]["CompletionRequest"]["properties"]
    assert {"steering", "prompt", "echo", "logit_bias"} <= described.keys() <= CompletionRequest.model_fields.keys()


def test_every_setting_has_its_line() -> None:
    assert Settings().model == BUNDLED
    lines = field_help()
    assert lines.keys() == Settings.__dataclass_fields__.keys()
    assert all(line.endswith(".") and "\n" not in line for line in lines.values())
