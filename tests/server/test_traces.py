"""GET /v1/steering/traces/{request_id}: what is kept of a request, how long, and how much of it (T23, C8)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from server.caller import LOCAL
from server.schemas.traces import Trace
from server.serving import Served
from server.traces import OVERHEAD, TraceStore
from server.translate.call import Call
from server.translate.chat import prepare
from server.translate.record import Recorder
from steering.engine.request import Reading, Token, TokenEvent
from tests.server.live import HELLO, Live

TRACE = TypeAdapter(Trace)


def kept(live: Live, request_id: str) -> dict[str, Any]:
    reply = live.client.get(f"/v1/steering/traces/{request_id}")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    trace: dict[str, Any] = reply.json()
    TRACE.validate_python(trace, strict=False, extra="forbid")
    return trace


def not_kept(live: Live, request_id: str) -> None:
    reply = live.client.get(f"/v1/steering/traces/{request_id}")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "trace_not_found", "request_id"), reply.text


@pytest.mark.parametrize("trace", ["off", "summary", "tokens"])
def test_what_the_reply_says_is_what_is_kept(live: Live, trace: str) -> None:
    reply = live.chat(steering={"trace": trace}, n=2).json()
    told = kept(live, reply["id"])
    assert {key: told[key] for key in ("id", "created", "model", "system_fingerprint")} == {
        key: reply[key] for key in ("id", "created", "model", "system_fingerprint")
    }
    for mine, theirs in zip(told["choices"], reply["choices"], strict=True):
        assert (mine["index"], mine["finish_reason"]) == (theirs["index"], theirs["finish_reason"])
        assert mine["steering"] == theirs["steering"]
        if trace != "tokens":
            assert "tokens" not in mine
            continue
        entries = theirs["logprobs"]["content"]
        assert [entry["token"] for entry in mine["tokens"]] == [entry["token"] for entry in entries]
        assert [entry["steering"] for entry in mine["tokens"]] == [entry["steering"] for entry in entries]


@pytest.mark.parametrize("route", ["chat", "complete"])
def test_streams_too_and_at_once(live: Live, route: str) -> None:
    """The last event of an answer comes after its trace is kept."""
    asked = {"steering": {"trace": "tokens"}, "stream": True}
    reply = getattr(live, route)(**asked)
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    told = kept(live, chunks[0]["id"])
    assert told["choices"][0]["steering"] == chunks[-1]["choices"][0]["steering"]
    assert len(told["choices"][0]["tokens"]) == told["choices"][0]["steering"]["tokens"] > 2


def test_compare_keeps_both(live: Live) -> None:
    reply = live.chat(steering={"mode": "compare", "trace": "tokens"}).json()
    first, second = kept(live, reply["id"])["choices"]
    assert first["steering"] == reply["choices"][0]["steering"] and "steering" in first["tokens"][0]
    assert second["steering"] == reply["choices"][1]["steering"] and "steering" in second["tokens"][0]


def test_C8_nothing_of_the_prompt_is_kept(live: Live) -> None:
    """The fake engine says the prompt again: its first token is all there is of the answer."""
    reply = live.complete(
        prompt="Z secretmarker", echo=True, logprobs=1, max_tokens=1, steering={"trace": "tokens"}
    ).json()
    assert "secretmarker" in reply["choices"][0]["text"]
    told = kept(live, reply["id"])
    assert "secret" not in json.dumps(told) and len(told["choices"][0]["tokens"]) == 1


def test_what_was_not_steered_leaves_nothing(live: Live) -> None:
    before = live.traces.nbytes
    not_kept(live, live.chat().json()["id"])
    not_kept(live, live.chat(steering={"mode": "off", "trace": "tokens"}).json()["id"])
    assert live.traces.nbytes == before


def test_what_did_not_end_well_leaves_nothing(live: Live) -> None:
    before = live.traces.nbytes
    assert live.chat(seed=14, steering=True).status_code == 500
    assert live.traces.nbytes == before


@pytest.mark.parametrize("request_id", ["chatcmpl-0", "..", "x" * 3000, "%00", "req_1"])
def test_unknown_ids(live: Live, request_id: str) -> None:
    reply = live.client.get(f"/v1/steering/traces/{request_id}")
    assert reply.status_code == 404 and len(reply.content) < 2000


def test_the_request_id_of_a_header_is_not_one(live: Live) -> None:
    """A client may choose that, and so another's."""
    live.chat(headers={"x-request-id": "mine"}, steering=True)
    not_kept(live, "mine")


def test_they_expire() -> None:
    now = [0.0]
    store = TraceStore(60, clock=lambda: now[0])
    store.put("a", b"1")
    now[0] = 59
    store.put("b", b"2")
    assert store.get("a") == b"1"
    now[0] = 60
    assert store.get("a") is None and store.get("b") == b"2"
    assert store.nbytes == 1 + OVERHEAD
    now[0] = 120
    assert store.get("b") is None and store.nbytes == 0


def test_none_may_be_kept() -> None:
    store = TraceStore(0)
    store.put("a", b"1")
    assert store.get("a") is None and store.nbytes == 0


def test_T23_the_oldest_give_way() -> None:
    store = TraceStore(60, limit=3 * (10 + OVERHEAD))
    for i in range(100):
        store.put(f"t{i}", bytes(10))
        assert store.nbytes <= 3 * (10 + OVERHEAD)
    assert [i for i in range(100) if store.get(f"t{i}")] == [97, 98, 99]
    store.put("t99", bytes(5))
    assert store.get("t97") and store.get("t99") == bytes(5)
    store.put("huge", bytes(10_000))
    assert store.get("huge") is None and store.nbytes == 0


def _call(served: Served) -> Call:
    body = {"model": "tiny", "messages": HELLO, "steering": {"trace": "tokens"}}
    return prepare(json.dumps(body).encode(), [], served, "off", LOCAL)


def test_T23_a_long_one_is_cut_and_says_so(fake: Served) -> None:
    call, store = _call(fake), TraceStore(60)
    recorder = Recorder(call, fake.model, store, limit=2000)
    reading = Reading(0.5, early=((65, -0.5),) * 5, late=((66, -0.25),) * 5)
    for _ in range(1000):
        recorder.take(TokenEvent(call.id, token=Token(70, reading=reading)))
    fake.engine.add(call.requests[0])
    recorder.take(next(event for _ in range(100) for event in fake.engine.step() if event.finish))
    (choice,) = json.loads(store.get(call.id) or b"")["choices"]
    assert choice["truncated"] is True and 2 < len(choice["tokens"]) < 20
    assert len(store.get(call.id) or b"") < 3000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["chat", "complete"])
def test_T23_the_reply_itself_is_cut_and_says_so(
    live: Live, monkeypatch: pytest.MonkeyPatch, route: str, stream: bool
) -> None:
    """What fits is told, whole or streamed; the rest of the reply is as it was."""
    ask = {"steering": {"trace": "tokens"}, "stream": stream, "max_tokens": 200, "seed": 0}
    whole = _content(getattr(live, route)(**ask))
    monkeypatch.setitem(Recorder.__init__.__kwdefaults__, "limit", 1000)
    cut = _content(getattr(live, route)(**ask))
    assert len(cut["tokens"]) == len(whole["tokens"]) == 200 and cut["text"] == whole["text"]
    told = [trace for trace in cut["traces"] if trace]
    assert 2 < len(told) < 20 and cut["traces"][: len(told)] == whole["traces"][: len(told)]
    assert len(json.dumps(told)) < 1300 and not any(cut["traces"][len(told) :])
    assert cut["receipt"]["truncated"] is True and "truncated" not in whole["receipt"]
    assert {**whole["receipt"], "truncated": True} == cut["receipt"]
    kept_ = kept(live, cut["id"])["choices"][0]
    assert kept_["truncated"] is True and len(kept_["tokens"]) == len(told) and kept_["steering"] == cut["receipt"]


def _content(reply: Any) -> dict[str, Any]:
    """Of the first choice, whichever way it came."""
    if reply.headers["content-type"].startswith("text/event-stream"):
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    else:
        chunks = [reply.json()]
    pieces = [choice for chunk in chunks for choice in chunk["choices"]]
    found: dict[str, Any] = {"id": chunks[0]["id"], "text": "", "tokens": [], "traces": []}
    for piece in pieces:
        message = piece.get("message") or piece.get("delta") or {}
        found["text"] += piece.get("text") or message.get("content") or ""
        scores = piece["logprobs"] or {}
        found["tokens"] += scores.get("tokens") or [entry["token"] for entry in scores.get("content") or []]
        found["traces"] += scores.get("steering") or [entry.get("steering") for entry in scores.get("content") or []]
        found["receipt"] = piece.get("steering") or found.get("receipt")
    return found


def test_T23_readings_that_are_left_out_are_held_by_nobody(fake: Served) -> None:
    """32 thousand tokens, each with what the lens saw: what passes on is no more than the trace."""
    call = _call(fake)
    recorder = Recorder(call, fake.model, TraceStore(60))
    reading = Reading(0.5, early=((65, -0.5),) * 5, late=((66, -0.25),) * 5)
    passed = [recorder.take(TokenEvent(call.id, token=Token(70, reading=reading))) for _ in range(32_000)]
    with_reading = [event for event in passed if event.token and event.token.reading]
    assert 5_000 < len(with_reading) < 32_000 and passed[: len(with_reading)] == with_reading
    assert call.truncated == {0}


def test_T23_without_a_trace_nothing_is_cut(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder.__init__, "__defaults__", (1,))
    for trace in ("off", "summary"):
        assert "truncated" not in live.chat(steering={"trace": trace}).json()["choices"][0]["steering"]
    assert "steering" not in live.chat().json()["choices"][0]


def test_without_keys_a_trace_is_its_address_s(live: Live) -> None:
    """As jobs and uploads are."""
    trace_id = live.chat(steering="candid").json()["id"]
    path = f"/v1/steering/traces/{trace_id}"
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=live.url, transport=transport, timeout=20) as other:
        assert other.get(path).status_code == 404
    assert live.client.get(path).status_code == 200
