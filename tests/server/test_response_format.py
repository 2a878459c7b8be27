"""`response_format` over HTTP: JSON comes whole and in streams, steered and not; what is wrong is told at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.serving import load
from server.settings import Settings
from steering.model.loading import load_model
from tests.grammar.check import valid
from tests.grammar.hostile import HOSTILE
from tests.models import tiny_model
from tests.server.live import Live, serve
from tests.server.packs import save_packs
from tests.server.refusals import refused

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "why": {"enum": ["Paris", "東京"]}},
    "required": ["ok", "why"],
    "additionalProperties": False,
}
PARAM = "response_format.json_schema.schema"


def by_schema(schema: object, **fields: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


@pytest.fixture(scope="module")
def real(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    packs = tmp_path_factory.mktemp("packs")
    save_packs(packs, load_model(str(tiny_folder)), tiny_model(seed=1))
    settings = Settings(
        model=str(tiny_folder), packs=packs, default_profile="candid", served_model_name="tiny", max_rows=8, threads=1
    )
    with serve(lambda: load(settings), settings) as live:
        yield live


def streamed(live: Live, **fields: Any) -> tuple[str, str | None]:
    """The text of a stream, and why it ended."""
    lines = live.chat(stream=True, **fields).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content", "") for c in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("steering", [False, True, "candid"], ids=str)
@pytest.mark.parametrize("strict", [True, None])
def test_a_schema_holds_whole_and_streamed(real: Live, steering: object, strict: bool | None) -> None:
    texts = set()
    for seed in range(4):
        fields = {"response_format": by_schema(SCHEMA, strict=strict), "steering": steering, "seed": seed}
        choice = real.chat(**fields).json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
        assert reason == "stop" and valid(json.loads(text), SCHEMA), text
        assert streamed(real, **fields) == (text, "stop")
        texts.add(text)
    assert len(texts) > 1


def test_a_json_object_is_one(real: Live) -> None:
    fields = {"response_format": {"type": "json_object"}, "max_tokens": 400, "n": 4}
    ended = [c for c in real.chat(**fields).json()["choices"] if c["finish_reason"] == "stop"]
    assert ended and all(isinstance(json.loads(c["message"]["content"]), dict) for c in ended)


def test_an_answer_that_is_cut_says_so(real: Live) -> None:
    choice = real.chat(response_format=by_schema(SCHEMA), max_tokens=2).json()["choices"][0]
    assert choice["finish_reason"] == "length" and choice["message"]["content"].startswith("{")


def test_text_asks_for_nothing(real: Live) -> None:
    plain, text = (real.chat(seed=5, max_tokens=9, **f).json() for f in ({}, {"response_format": {"type": "text"}}))
    assert text["choices"] == plain["choices"]


def test_S11_hostile_schemas_end_in_400_while_others_are_served(live: Live) -> None:
    """Three at once hold up nobody: an ordinary request that comes after them is answered before the slow one."""
    names = ["all of many patterns", "10,000 values", "product"]
    with ThreadPoolExecutor(3) as pool:
        bad = [pool.submit(live.chat, response_format=by_schema(HOSTILE[name])) for name in names]
        time.sleep(0.1)
        assert live.chat().status_code == 200
        assert not bad[0].done()
        for reply in (future.result() for future in bad):
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, PARAM)
            assert error["code"] in ("unsupported_parameter", "invalid_value")


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ({"type": "xml"}, "invalid_value", "response_format"),
        ("json", "invalid_value", "response_format"),
        ({"type": "json_schema"}, "missing_required_parameter", "response_format.json_schema"),
        ({"type": "json_object", "x": 1}, "unknown_parameter", "response_format.x"),
        (by_schema([]), "invalid_type", PARAM),
        (by_schema({"type": "objct"}), "invalid_value", PARAM),
        (by_schema({"not": {}}), "invalid_value", PARAM),
        (by_schema({"items": {"x-guidance": {"lenient": True}}}), "unsupported_parameter", PARAM),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(live: Live, value: object, code: str, param: str) -> None:
    refused(live, code, param, response_format=value)


def test_other_ends_are_refused(live: Live) -> None:
    fields = {"response_format": {"type": "json_object"}, "stop_token_ids": [5]}
    refused(live, "invalid_value", "stop_token_ids", says="constrained", **fields)
