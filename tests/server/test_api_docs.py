"""docs/api.md against the code: the routes of steering, keys and limits of the lens, the example word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from openapi.export import document
from server.errors import _KINDS, MAX_MESSAGE
from server.schemas.document_requests import EXAMPLES
from server.schemas.lens import MAX_CANDIDATES, LensRequest
from server.schemas.responses import NEUTRAL_IN_RESPONSES, ResponsesRequest
from server.schemas.steering import MAX_CORRECTIONS, MAX_SCALE, MAX_UNITS, SteeringOptions
from server.schemas.tools import MAX_CALLS, MAX_TOOLS
from server.schemas.verify import VerifyRequest
from server.schemas.violations import MAX_SHOWN, validate
from server.settings import Settings
from server.traces import MAX_TRACE, MAX_TRACES
from server.translate import uploads
from server.translate.lens import MAX_CELLS, MAX_NUMBERS
from server.translate.tools import MAX_PARALLEL
from server.translate.verify import DEFAULT_MAX_TOKENS
from server.translate.verify_reading import MAX_COMPUTED, MAX_READ
from steering.gate import SpanKind
from steering.grammar.compiler import MAX_SCHEMA
from steering.model.markers import _REASONING, _TOOL_CALLS
from steering.verification import MAX_CONTINUED
from tests.server.refusals import LASTING

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
    assert (
        all(text in DOCS for text in (*limits, *bounds)) and Settings().trace_seconds == 600 and "ten minutes" in DOCS
    )


def test_the_table_of_codes_is_that_of_the_code() -> None:
    types = {
        status: kind
        for statuses, kind in re.findall(r"^\| ([\d, ]+) \| `(\w+)` \|", DOCS, re.MULTILINE)
        for status in statuses.split(", ")
    }
    rows = re.findall(r"^\| (`[^|]+) \| (\d{3}) \| ([^|]{10,}) \|$", DOCS, re.MULTILINE)
    codes = [(code, status, " *" in names) for names, status, _ in rows for code in re.findall(r"`(\w+)`", names)]
    assert len(codes) == len(_KINDS)  # none twice
    assert {code: (int(status), types[status]) for code, status, _ in codes} == _KINDS
    assert {code for code, _, lasts in codes if lasts} == LASTING
    assert types.keys() == {str(status) for status, _ in _KINDS.values()}


def test_what_the_table_of_codes_says_is_not_there() -> None:
    absent = re.findall(r"No\s`(\w+)`", DOCS)
    assert absent == ["slow_down", "queue_timeout", "all_tokens_masked"] and not _KINDS.keys() & set(absent)
    assert f"{MAX_MESSAGE:,} characters at most" in DOCS and MAX_SHOWN == 5 and "the first five" in DOCS


def test_every_refusal_of_an_upload_is_named() -> None:
    named = {*uploads._CODE_OF.values(), "profile_exists", "profile_in_use", "etag_mismatch", "profile_read_only"}
    named |= {"profile_quota_exceeded", "insufficient_scope", "storage_full", "request_too_large"}
    assert named <= _KINDS.keys() and all(f"`{code}`" in DOCS for code in named - {"invalid_value"})


def test_every_field_of_responses_is_named() -> None:
    assert all(
        f"`{name}" in DOCS
        for name in ResponsesRequest.model_fields.keys() - {"model", "stream_options", "image", "text"}
    )
    assert "`text.format`" in DOCS and "image" in NEUTRAL_IN_RESPONSES


def test_the_examples_are_requests() -> None:
    examples = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)]
    lens = next(example for example in examples if "positions" in example)
    assert validate(LensRequest, lens).candidates == ["Paris", "Lyon"]
    assert lens == EXAMPLES["read_lens"]["chat"]
    verify = next(example for example in examples if "answer" in example)
    assert validate(VerifyRequest, verify) and verify == EXAMPLES["verify_answer"]["candidates"]
    custom = next(example for example in examples if "corrections" in example)
    assert len(validate(SteeringOptions, custom).corrections or []) == 2


def test_what_is_said_of_spans_and_corrections() -> None:
    markers = [marker for some in (_TOOL_CALLS, _REASONING) for marker in some]
    named = set(re.findall(r"`(</?think>|\[/?THINK\]|<tool_call>|\[TOOL_CALLS\]|<\\?\|python_tag\\?\|>)`", DOCS))
    known = {text for marker in markers for text in (marker.opens, marker.closes)}
    assert len(named) == 7 and {name.replace("\\", "") for name in named} <= known
    assert all(f"`{kind}`" in DOCS for kind in get_args(SpanKind))
    limits = (f"{-MAX_SCALE:g} to {MAX_SCALE:g}", f"At most {MAX_CORRECTIONS} ", f"{MAX_UNITS:,} units")
    assert all(text in DOCS for text in limits)
    verified = (
        f"{MAX_COMPUTED:,} tokens at most",
        f"2 to {MAX_CANDIDATES} ",
        f"{MAX_READ} tokens",
        f"in {MAX_CONTINUED} ",
    )
    assert all(text in DOCS for text in (*verified, f"({DEFAULT_MAX_TOKENS})"))
    assert all(f"`{key}`" in DOCS for key in ("false_alarms", "calibrated_tokens", "margin", "at", "gap", "reason"))
