"""The backend over HTTP: against a stub for what others say, and against our own server for what ours says."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.errors import BackendError
from steering.evaluation.backend import Ask, Chat, Message, Read, Weigh
from steering.evaluation.core import Reply
from steering.evaluation.engine_backend import EngineBackend
from steering.evaluation.http_backend import HttpBackend
from steering.evaluation.openai_client import Client
from steering.pack import Overrides
from steering.store import PackStore
from tests.evaluation.stub_server import Answer, parted, said, stub_server
from tests.models import tiny_model
from tests.server.live import Live, serve
from tests.server.packs import save_packs

USER: tuple[Message, ...] = ({"role": "user", "content": "What is it?"},)
OPENED = (*USER, {"role": "assistant", "content": "Answer:"})
OPTIONS = (" (A)", " (B)")


def backend(url: str, model: str = "", steering: str | bool | None = None, key: str | None = None) -> HttpBackend:
    return HttpBackend(Client(url, key, pause=0.001), model, steering)


def replies(asked: HttpBackend | EngineBackend, *asks: Ask) -> list[Reply]:
    got = dict(asked.answer(asks))
    return [got[i] for i in range(len(asks))]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Our server with a real engine and packs."""
    model = replace(tiny_model(), name="tiny")
    folder: Path = tmp_path_factory.mktemp("packs")
    save_packs(folder, model, tiny_model(seed=1))
    engine = Engine(model, EngineConfig(max_rows=4))
    with serve(lambda: Served(model, engine, PackStore(folder, model), None, 1)) as running:
        yield running


@pytest.mark.parametrize("profile", ["off", "firm"])
def test_our_server_answers_as_the_engine_does(live: Live, profile: str) -> None:
    chats = [Chat(USER, 9), Chat(OPENED, 9), Chat(({"role": "user", "content": "a b c"},), 9)]
    over_http = replies(backend(live.url, steering=profile if profile != "off" else False), *chats)
    plan = live.served.store.get("firm").plan(Overrides(mode="off" if profile == "off" else "on"))
    engine = Engine(tiny_model(), EngineConfig(max_rows=4))
    assert [reply.text for reply in over_http] == [r.text for r in replies(EngineBackend(engine, plan), *chats)]
    engine.close()


def test_receipts_come_along(live: Live) -> None:
    [steered] = replies(backend(live.url, steering="candid"), Chat(USER, 9))
    assert steered.fired_tokens > 0 and steered.max_drift is not None and steered.max_drift > 0
    [plain] = replies(backend(live.url), Chat(USER, 9))
    assert plain.fired_tokens == 0 and plain.max_drift is None and plain.cut


def test_our_server_reads_texts_as_the_engine_does(live: Live) -> None:
    text = "The answer is Paris. It is 東京."
    engine = Engine(tiny_model(), EngineConfig(max_rows=4))
    [own], [other] = replies(EngineBackend(engine), Read(text)), replies(backend(live.url), Read(text))
    engine.close()
    assert other.logprobs == pytest.approx(own.logprobs, abs=1e-3) and len(own.logprobs) > 5


def test_our_server_weighs_by_its_most_probable_tokens(live: Live) -> None:
    """A random model has neither option among them: that is told, not made up."""
    [reply] = replies(backend(live.url), Weigh(OPENED, OPTIONS))
    assert len(reply.logprobs) == 2 and reply.error is None and reply.layers == ()


def test_weighing_sums_what_an_option_can_begin_with() -> None:
    listed = parted(("A", -1.0), ("A)", -2.0), ("B", -3.0), (")", -0.5), ("", -0.1))
    with stub_server(lambda path, body: (200, listed)) as stub:
        [reply] = replies(backend(stub.url), Weigh(OPENED, OPTIONS))
        assert reply.logprobs == pytest.approx((math.log(math.exp(-1) + math.exp(-2)), -3.0))
        [body] = stub.bodies
        assert body["messages"][-1] == {"role": "assistant", "content": "Answer: ("}
        assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
        assert "steering" not in body and "add_generation_prompt" not in body
        [bare] = replies(backend(stub.url), Weigh(USER, ("yes", "no")))
        assert stub.bodies[1]["messages"] == list(USER), "white space alone is no turn of the assistant's"
        assert bare.logprobs == (None, None)


def test_minus_infinity_is_no_probability() -> None:
    with stub_server(lambda path, body: (200, parted(("A", -9999.0), ("B", -1.0)))) as stub:
        assert replies(backend(stub.url), Weigh(OPENED, OPTIONS))[0].logprobs == (None, -1.0)


def test_vllm_is_told_to_continue() -> None:
    with stub_server(lambda path, body: (200, said("ok")), owner="vllm") as stub:
        replies(backend(stub.url), Chat(OPENED), Chat(USER))
        told = [("continue_final_message" in body, body["messages"][-1]["role"]) for body in stub.bodies]
        assert sorted(told) == [(False, "user"), (True, "assistant")]


def test_the_first_model_listed_is_asked_and_named() -> None:
    with stub_server(lambda path, body: (200, said("ok"))) as stub:
        asked = backend(stub.url + "/v1/", key="secret")
        assert asked.identity == {"url": stub.url + "/v1", "model": "some-model", "steering": "None"}
        assert "secret" not in repr(asked)
        replies(asked, Chat(USER, 5, 0.5, 3))
        assert stub.bodies[0] == {
            "model": "some-model",
            "messages": list(USER),
            "max_tokens": 5,
            "temperature": 0.5,
            "seed": 3,
        }
        assert stub.headers[0]["authorization"] == "Bearer secret"


def test_newer_names_of_the_limit() -> None:
    def answer(path: str, body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead."}}
        return 200, said(str(body["max_completion_tokens"]))

    with stub_server(answer) as stub:
        asked = backend(stub.url)
        assert [reply.text for reply in replies(asked, Chat(USER, 5))] == ["5"]
        assert [reply.text for reply in replies(asked, Chat(USER, 6))] == ["6"]
        assert len(stub.bodies) == 3, "learnt once"


def test_what_passes_is_tried_again() -> None:
    statuses = iter([(503, {}), (429, {"error": {"message": "slow"}}, {"retry-after": "0"}), (200, said("ok"))])
    with stub_server(lambda path, body: next(statuses)) as stub:
        assert replies(backend(stub.url, "m"), Chat(USER))[0].text == "ok"
        assert len(stub.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "message", "tries"),
    [
        ((401, {"error": {"message": "Wrong\nkey."}}), "answered 401: Wrong key.", 1),
        ((404, {"error": "no such model"}), "answered 404: no such model", 1),
        ((500, {"error": {"message": "broken"}}, {"x-should-retry": "false"}), "answered 500: broken", 1),
        ((502, b"<html>bad gateway</html>"), "answered 502: <html>bad gateway", 5),
        ((200, b"hello"), "what is not JSON", 1),
        ((200, [1]), "JSON that is no object", 1),
        ((200, {"choices": []}), "not answer in OpenAI's form", 1),
        ((200, {"choices": [{"message": {}}]}), "not answer in OpenAI's form", 1),
        ((200, {"choices": 3}), "not answer in OpenAI's form", 1),
    ],
)
def test_what_does_not_is_one_line(answer: Answer, message: str, tries: int) -> None:
    with stub_server(lambda path, body: answer) as stub:
        with pytest.raises(BackendError, match=message) as error:
            replies(backend(stub.url, "m"), Chat(USER))
        assert len(stub.bodies) == tries and "\n" not in str(error.value)


def test_one_request_that_is_refused_leaves_the_others() -> None:
    def answer(path: str, body: dict[str, Any]) -> Answer:
        long = len(body["messages"][0]["content"]) > 100
        return (400, {"error": {"message": "too long"}}) if long else (200, said("ok"))

    with stub_server(answer) as stub:
        ok, refused = replies(backend(stub.url, "m"), Chat(USER), Chat(({"role": "user", "content": "x" * 200},)))
        assert ok.text == "ok" and refused.error is not None and refused.error.endswith("answered 400: too long")


def test_servers_that_give_no_logprobs() -> None:
    with stub_server(lambda path, body: (200, said("x", logprobs=None))) as stub:
        weighed, read = replies(backend(stub.url, "m"), Weigh(USER, OPTIONS), Read("some text"))
        assert weighed.error is not None and "gives no log-probabilities." in weighed.error
        assert read.error is not None and "of a prompt" in read.error


@pytest.mark.parametrize("models", [(), {"data": None}, {"data": ["x"]}, {}])
def test_servers_that_list_no_models(models: object) -> None:
    with (
        stub_server(lambda path, body: (200, said("x")), models=models) as stub,
        pytest.raises(BackendError, match="lists"),
    ):
        _ = backend(stub.url).identity


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BackendError, match=r"cannot reach http://127.0.0.1:\d+/v1/models: .*refused"):
        _ = backend(f"http://127.0.0.1:{port}").identity


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "file:///etc/passwd", ""])
def test_no_url(url: str) -> None:
    with pytest.raises(BackendError, match="is no URL"):
        Client(url)
