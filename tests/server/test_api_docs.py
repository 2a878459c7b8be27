"""docs/api.md against the code: the routes of steering, keys and limits of the lens, the example word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

from openapi.export import document
from server.errors import _KINDS
from server.schemas.lens import MAX_CANDIDATES, LensRequest
from server.schemas.responses import NEUTRAL_IN_RESPONSES, ResponsesRequest
from server.schemas.tools import MAX_CALLS, MAX_TOOLS
from server.schemas.violations import validate
from server.traces import KEPT, MAX_TRACE, MAX_TRACES
from server.translate import uploads
from server.translate.lens import MAX_CELLS, MAX_NUMBERS
from server.translate.tools import MAX_PARALLEL
from steering.grammar.compiler import MAX_SCHEMA

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_route_of_steering_has_its_section() -> None:
    paths = {
        path
        for path in json.loads(document())["paths"]
        if path.startswith(("/v1/steering/", "/v1/me", "/v1/responses", "/metrics"))
    }
    headings = re.findall(r"^## (.+)$", DOCS, re.MULTILINE)
    assert {path.split()[-1] for line in headings for path in re.findall(r"`([^`]+)`", line)} == paths


def test_keys_codes_and_limits_are_those_of_the_code() -> None:
    assert set(re.findall(r"^\| ((?:`\w+`(?: or )?)+) \|", DOCS, re.MULTILINE)) >= {
        "`candidates`",
        "`messages` or `text`",
    }
    assert all(f"`{name}`" in DOCS for name in LensRequest.model_fields if name != "model")
    assert set(re.findall(r"\d{3} `(\w+)`", DOCS)) <= _KINDS.keys()
    limits = (f"{MAX_CELLS:,} at most", f"{MAX_NUMBERS:,}", f"up to {MAX_CANDIDATES} texts")
    bounds = (f"{MAX_TRACE // 2**20} MB", f"{MAX_TRACES // 2**20} MB")
    tools = (f"{MAX_TOOLS} tools", f"{MAX_CALLS} calls", f"up to {MAX_PARALLEL}", f"{MAX_SCHEMA // 1024} KB of schemas")
    assert all(text in DOCS for text in tools)
    assert all(text in DOCS for text in (*limits, *bounds)) and KEPT == 600 and "ten minutes" in DOCS


def test_every_refusal_of_an_upload_is_named() -> None:
    named = {*uploads._CODE_OF.values(), "profile_exists", "profile_in_use", "etag_mismatch", "profile_read_only"}
    named |= {"profile_quota_exceeded", "insufficient_scope", "storage_full", "request_too_large"}
    assert named <= _KINDS.keys() and all(f"`{code}`" in DOCS for code in named - {"invalid_value"})


def test_the_example_is_a_request() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    asked = validate(LensRequest, json.loads(example))
    assert (
        asked.candidates == ["Paris", "Lyon"] and json.loads(example) == LensRequest.model_json_schema()["examples"][0]
    )


def test_every_field_of_responses_is_named() -> None:
    assert all(
        f"`{name}" in DOCS
        for name in ResponsesRequest.model_fields.keys() - {"model", "stream_options", "image", "text"}
    )
    assert "`text.format`" in DOCS and "image" in NEUTRAL_IN_RESPONSES
