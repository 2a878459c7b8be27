"""The engine thread: a full inbox, faults at step k, its death, shutdown, loading (FAULTS O1, X7-X9, L2, L12)."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from server.serving import Served
from server.settings import Settings
from steering.engine.config import EngineConfig
from steering.errors import UnsupportedModel
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import DEATH_SEED, FakeEngine
from tests.server.live import HELLO, Live, serve


def fake_of(served: Served) -> FakeEngine:
    return served.engine  # type: ignore[return-value]


def error_of(reply: httpx.Response) -> dict[str, object]:
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error  # type: ignore[no-any-return]


def last_frame(text: str) -> dict[str, object]:
    return json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))  # type: ignore[no-any-return]


def test_O1_a_full_inbox(fake: Served) -> None:
    gate = threading.Event()
    fake_of(fake).gate = gate
    with serve(lambda: fake, capacity=3) as live, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(live.chat, stream=stream) for stream in (True, False, True)]
        live.wait_until(lambda: live.engine.num_open == 3)
        start = time.monotonic()
        for stream in (True, False):
            reply = live.chat(stream=stream)
            assert (reply.status_code, error_of(reply)["code"]) == (429, "queue_full")
            assert 1 <= int(reply.headers["retry-after"]) <= 60 and reply.headers["content-type"] == "application/json"
        assert time.monotonic() - start < 2.0
        assert live.client.get("/health").status_code == 200
        gate.set()
        assert [future.result().status_code for future in waiting] == [200] * 3
        assert live.chat().status_code == 200


def test_O1_the_engine_s_own_queue_is_full(model: LanguageModel, store: PackStore) -> None:
    """Known in the engine thread alone; still a status, since nothing has been sent."""
    engine = FakeEngine(model, EngineConfig(max_rows=1, queue=1), delay=0.02)
    served = Served(model, engine, store, None, 1)  # type: ignore[arg-type]
    with serve(lambda: served, capacity=64) as live, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(live.chat, seed=0, max_tokens=30) for _ in range(2)]
        live.wait_until(lambda: engine.num_running == 2)
        for stream in (True, False):
            reply = live.chat(stream=stream)
            assert (reply.status_code, error_of(reply)["code"]) == (429, "queue_full")
        assert [future.result().status_code for future in running] == [200] * 2


def test_X7_an_error_before_the_first_token_has_a_status(live: Live) -> None:
    for stream in (True, False):
        reply = live.chat(seed=14, stream=stream)
        assert (reply.status_code, error_of(reply)["code"]) == (500, "numerical_error")
        assert reply.headers["x-should-retry"] == "false"


def test_X7_an_error_at_token_k_is_the_end_of_that_stream_alone(live: Live) -> None:
    with ThreadPoolExecutor(2) as pool:
        well = pool.submit(live.chat, stream=True)
        broken = live.chat(seed=13, stream=True)
    assert broken.status_code == 200 and broken.text.count("data: ") == 5  # opening, three tokens, the error
    assert "[DONE]" not in broken.text and '"error":null' not in broken.text
    assert last_frame(broken.text)["error"]["code"] == "numerical_error"  # type: ignore[index]
    assert well.result().text.endswith("data: [DONE]\n\n")
    whole = live.chat(seed=13)
    assert (whole.status_code, error_of(whole)["code"]) == (500, "numerical_error")


def test_X7_a_request_that_cannot_be_added_ends_alone(fake: Served, caplog: pytest.LogCaptureFixture) -> None:
    with serve(lambda: fake) as live:
        original = fake.engine.add
        fake.engine.add = lambda request: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        reply = live.chat()
        assert (reply.status_code, error_of(reply)["code"]) == (500, "internal_error")
        fake.engine.add = original  # type: ignore[method-assign]
        assert live.chat().status_code == 200
    assert "could not be added" in caplog.text


def test_X9_the_engine_thread_dies(fake: Served) -> None:
    fake_of(fake).delay = 0.01
    with serve(lambda: fake) as live, ThreadPoolExecutor(2) as pool:
        streamed, whole = pool.submit(live.chat, seed=0, stream=True), pool.submit(live.chat, seed=0)
        live.wait_until(lambda: fake_of(fake).num_running == 2 and fake_of(fake).steps > 3)
        killer = live.chat(seed=DEATH_SEED)
        for reply in (killer, whole.result()):
            assert (reply.status_code, error_of(reply)["code"]) == (503, "engine_dead")
        assert last_frame(streamed.result().text)["error"]["code"] == "engine_dead"  # type: ignore[index]
        assert live.engine.state == "dead" and isinstance(live.engine.failure, MemoryError)
        for path in ("/health", "/health/ready", "/health/live", "/v1/models"):
            reply = live.client.get(path)
            assert reply.status_code == 503 and reply.headers["retry-after"]
        assert error_of(live.chat())["code"] == "engine_dead"


def test_L2_shutdown_ends_streams_with_an_error_of_their_own(fake: Served) -> None:
    fake_of(fake).delay = 0.01
    with ThreadPoolExecutor(2) as pool, serve(lambda: fake) as live:
        streamed, whole = pool.submit(live.chat, seed=0, stream=True), pool.submit(live.chat, seed=0)
        live.wait_until(lambda: fake_of(fake).num_running == 2 and fake_of(fake).steps > 3)
        with httpx.Client(base_url=live.url, trust_env=False) as other:  # an open connection survives the listener
            assert other.get("/health/ready").status_code == 200
            live.engine.stop()
            assert last_frame(streamed.result(5).text)["error"]["code"] == "server_shutdown"  # type: ignore[index]
            assert (whole.result(5).status_code, error_of(whole.result())["code"]) == (503, "server_shutdown")
            assert error_of(other.get("/health/ready"))["code"] == "draining"
            assert other.get("/health/live").status_code == 200
            assert error_of(live.chat())["code"] == "draining"


def test_L12_while_the_model_loads(fake: Served) -> None:
    loaded = threading.Event()

    def load() -> Served:
        loaded.wait(10)
        return fake

    with serve(load, wait=False) as live:
        assert live.client.get("/health/live").json() == {"status": "live"}
        assert live.client.get("/").status_code == 200
        for reply in (
            live.chat(),
            live.client.get("/health/ready"),
            live.client.get("/health"),
            live.client.get("/v1/models"),
        ):
            assert (reply.status_code, error_of(reply)["code"]) == (503, "model_loading")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
        loaded.set()
        live.wait_until(lambda: live.engine.state == "ready")
        assert live.client.get("/health/ready").json() == {"status": "ready"}
        assert live.chat().status_code == 200


def test_L12_stopped_while_the_model_loads(fake: Served) -> None:
    loaded = threading.Event()
    with serve(lambda: loaded.wait(10) and fake, wait=False) as live:  # type: ignore[arg-type, return-value]
        live.engine.stop()
        loaded.set()
    assert live.engine.state == "stopped"


def test_L13_loading_fails(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Served:
        raise UnsupportedModel("no such model.")

    with serve(load) as live:
        assert live.engine.state == "failed" and str(live.engine.failure) == "no such model."
        assert live.client.get("/health/live").status_code == 503
    assert not [record for record in caplog.records if record.exc_info]  # an expected reason needs no traceback


def test_an_unexpected_error_says_nothing_of_itself(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.routes.chat.prepare", lambda *_: {}["/secret/path"])
    # The server closes the connection then: nobody may send another request on it meanwhile.
    reply = live.chat(headers={"X-Request-Id": "find-me", "Connection": "close"})
    assert (reply.status_code, error_of(reply)["code"]) == (500, "internal_error")
    assert reply.headers["x-request-id"] == "find-me" and "secret" not in reply.text
    live.wait_until(lambda: "find-me" in caplog.text and "secret" in caplog.text)  # the log has what the reply has not
    monkeypatch.undo()


def test_health_tells_what_runs(fake: Served) -> None:
    fake_of(fake).gate = threading.Event()
    with serve(lambda: fake, Settings()) as live, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(live.chat)
        live.wait_until(lambda: fake_of(fake).num_running == 1)
        health = live.client.get("/health").json()
        assert health["requests_running"] == 1 and health["free_rows"] == 15 and health["model"] == "tiny"
        assert (health["requests_open"], health["requests_waiting"], health["preemptions"]) == (1, 0, 0)
        assert health["kv_bytes"] == 0 < health["kv_budget"]
        assert health["prefix_cache"] == {"queries": 0, "hits": 0, "bytes": 0}
        fake_of(fake).gate.set()  # type: ignore[union-attr]
        assert waiting.result().status_code == 200


def test_HELLO_is_what_the_fake_engine_echoes(live: Live) -> None:
    assert live.chat().json()["choices"][0]["message"]["content"] == HELLO[0]["content"]
