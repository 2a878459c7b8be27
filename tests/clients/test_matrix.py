"""Client libraries, each in its own environment, against the live server: `make test-clients`.

What a client cannot do is said here, and in docs/use-from, by name: a cell that begins to work fails its test.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.conftest import Matrix
from tests.clients.programs.cells import CODES, ECHO, WAYS
from tests.live_question import CAVED, HELD

pytestmark = pytest.mark.clients

PROGRAMS = {
    "openai2": "openai_sdk.py",
    "openai3": "openai_sdk.py",
    "langchain": "langchain_openai_.py",
    "llamaindex": "llama_index_.py",
    "litellm": "litellm_.py",
}
SENDS = {"queue_full": 3, "internal_error": 3, "numerical_error": 1, "invalid_value": 1}
LLAMA_INDEX_SENDS = {"queue_full": 12, "internal_error": 12, "numerical_error": 3, "invalid_value": 1}
"""It tries three times what the openai package under it sends four times, and does not look at x-should-retry."""


@pytest.fixture(params=PROGRAMS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def cell(matrix: Matrix, client: str) -> Any:
    return lambda name: matrix.cell(client, PROGRAMS[client], name)


@pytest.mark.parametrize("way", ["chat", "stream", "off_by_model_id"])
def test_without_steering(cell: Any, way: str) -> None:
    assert cell(way) == CAVED


@pytest.mark.parametrize("channel", ["by_header", "by_model_id"])
def test_steering_without_touching_the_body(cell: Any, channel: str) -> None:
    assert cell(channel) == HELD


def test_steering_in_the_body(cell: Any) -> None:
    assert cell("by_body")["text"] == HELD and cell("by_body_streamed")["text"] == HELD


def test_X12_the_trace_is_whole_streamed_or_not(cell: Any) -> None:
    whole, streamed = cell("by_body")["trace"], cell("by_body_streamed")["trace"]
    assert [entry["fired"] for entry in whole].count(True) == 1 and whole == streamed


def test_receipts(cell: Any) -> None:
    """In the reply; LangChain's by ChatUnsway; that of a stream of LiteLLM by the reply's id."""
    for way in ("by_body", "by_body_streamed"):
        assert cell(way)["receipt"]["fired_tokens"] == 1, way


def test_json_schema(cell: Any) -> None:
    assert json.loads(cell("json_schema"))["capital"] in ("Paris", "Lyon")


def test_tools(cell: Any) -> None:
    """A call that is demanded, whole and streamed: the same, and as its schema says."""
    (name, arguments), streamed = cell("tools")
    assert name == "answer" and json.loads(arguments)["capital"] in ("Paris", "Lyon")
    assert streamed == [name, arguments]


def test_errors_say_what_the_server_said(cell: Any) -> None:
    error = cell("bad_steering")
    assert "BadRequestError" in error["classes"] and "steering.strenght" in error["text"]


def test_an_error_in_a_stream_is_an_error(cell: Any) -> None:
    assert "not finite" in cell("cut_off")["text"] or "NaN" in cell("cut_off")["text"]


@pytest.mark.parametrize("code", CODES)
def test_retries(cell: Any, matrix: Matrix, client: str, code: str) -> None:
    """As often as docs/use-from says: what may pass is sent three times, what cannot once."""
    assert code in cell("faults")[code]["text"]
    assert matrix.counts[client, code] == (LLAMA_INDEX_SENDS if client == "llamaindex" else SENDS)[code]


@pytest.mark.parametrize("way", WAYS)
def test_X10_proxies_may_cut_and_join(cell: Any, way: str) -> None:
    assert cell("through_proxies")[way] == ECHO


@pytest.mark.parametrize("client", ["openai2", "openai3"], indirect=True)
def test_X13_a_chunk_without_choices_only_where_asked_for(cell: Any) -> None:
    assert cell("usage") == [[True, False], [True, False], [False, True]]


@pytest.mark.parametrize("client", ["openai2", "openai3"], indirect=True)
def test_what_openais_own_package_has(cell: Any) -> None:
    """The accumulating helper loses the receipt and keeps the trace; completions are steered too."""
    assert cell("by_body_helper") == {"text": HELD, "trace": cell("by_body")["trace"]}
    assert cell("by_body")["steered_tokens"] > 0 and "applied" in cell("completion")


def test_langchain_as_it_is_drops_the_receipt(matrix: Matrix) -> None:
    """And keeps the trace; the receipt of a whole reply is had by its id."""
    plain = matrix.cell("langchain", PROGRAMS["langchain"], "plain_class")
    assert [told["receipt"] for told in plain] == [None, None] and all(told["trace"] for told in plain)
    assert matrix.cell("langchain", PROGRAMS["langchain"], "kept_by_id")["fired_tokens"] == 1


def test_litellm_loses_the_receipt_of_a_stream(matrix: Matrix) -> None:
    assert matrix.cell("litellm", PROGRAMS["litellm"], "by_body_streamed")["in_chunks"] is False


def test_llamaindex_without_retries(matrix: Matrix) -> None:
    assert matrix.cell("llamaindex", PROGRAMS["llamaindex"], "faults_without_retries")
    assert [matrix.counts["llamaindex-0", code] for code in CODES] == [1, 1, 1, 1]


def test_llamaindex_prefers_what_the_model_was_made_with(matrix: Matrix) -> None:
    """A call cannot overrule `additional_kwargs`."""
    assert matrix.cell("llamaindex", PROGRAMS["llamaindex"], "per_call_is_overruled") == HELD


@pytest.mark.parametrize("client", ["langchain", "llamaindex", "litellm"], indirect=True)
def test_steering_of_one_call(cell: Any) -> None:
    assert cell("per_call") == HELD
