"""FAULTS M1-M12: roles, contents and templates."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from server.caller import LOCAL
from server.translate.chat import prepare
from steering.engine.request import Request
from tests.server.live import HELLO, Live
from tests.server.refusals import refused, user


def test_M1_no_messages_and_too_many(live: Live) -> None:
    refused(live, "array_below_min_length", "messages", messages=[])
    refused(live, "invalid_type", "messages", messages=None)
    refused(live, "array_above_max_length", "messages", says="at most 1024", messages=HELLO * 10_000)
    reply = live.post('{"model": "tiny"}').json()["error"]
    assert (reply["code"], reply["param"]) == ("missing_required_parameter", "messages")


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "root", "content": ""}, "role", "invalid_value"),
        ({"role": "tool", "content": ""}, "tool_call_id", "missing_required_parameter"),
        ({"role": "tool", "content": "", "tool_call_id": "x"}, "tool_call_id", "invalid_value"),
        ({"role": "user", "content": "", "tool_call_id": "x"}, "tool_call_id", "invalid_value"),
        ({"role": "user", "content": "", "reasoning_content": "x"}, "reasoning_content", "invalid_value"),
        ({"role": 5, "content": ""}, "role", "invalid_type"),
        ({"content": ""}, "role", "missing_required_parameter"),
        ({"role": "user"}, "content", "missing_required_parameter"),
        ({"role": "user", "content": 5}, "content", "invalid_type"),
        ({"role": "user", "content": None}, "content", "invalid_type"),
        ({"role": "user", "content": {"type": "text"}}, "content", "invalid_type"),
        ({"role": "user", "content": []}, "content", "array_below_min_length"),
        ({"role": "user", "content": [["a"]]}, "content.0", "invalid_type"),
        ({"role": "user", "content": ["a"]}, "content.0", "invalid_type"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "content.0.text", "invalid_type"),
        ({"role": "user", "content": [{"type": "text"}]}, "content.0.text", "missing_required_parameter"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "tool_calls.0.id", "missing_required_parameter"),
        ("hello", "", "invalid_type"),
    ],
)
def test_M2_roles_and_contents(live: Live, message: object, param: str, code: str) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, message]
    refused(live, code, f"messages.2.{param}".rstrip("."), messages=turns)


@pytest.fixture
def sinkhole() -> Iterator[list[str]]:
    """A port that nobody may connect to: whoever does is in the list."""
    visitors: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, address = listener.accept()
                    visitors.append(str(address))
                    connection.close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        visitors_url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        yield [visitors_url]
        stop.set()
        thread.join()
    assert not visitors


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_M3_content_that_is_not_text_is_never_fetched(live: Live, sinkhole: list[str], kind: str) -> None:
    for url in (sinkhole[0], "http://169.254.169.254/", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        part = {"type": kind, kind: {"url": url}}
        refused(live, "unsupported_content", "messages.0.content.0", messages=user([part]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ 'A' * 10**9 }}"),
        ("chat_template_kwargs", {"tokenize": True}),
        ("chat_template_kwargs", {"chat_template": "x"}),
    ],
)
def test_M4_templates_are_never_taken_from_a_request(live: Live, name: str, value: object) -> None:
    refused(live, "unknown_parameter", name, **{name: value})


def test_M5_the_template_refuses(live: Live) -> None:
    reply = live.chat(messages=HELLO * 2)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "template_error", "messages")
    assert "alternate" in error["message"] and "/" not in error["message"].replace("user/assistant/user/assistant/", "")


@pytest.mark.parametrize(
    "text", ["x" * 3_900_000, "😀" * 250_000, "👩‍👩‍👧" * 10_000, "e\u0301" * 100_000, "שלום" * 10_000]
)
def test_M8_messages_far_over_the_context(live: Live, text: str) -> None:
    refused(live, "context_length_exceeded", "messages", messages=user(text))


@pytest.mark.parametrize("text", ["😀🎉", "👩‍👩‍👧 👍🏽", "e\u0301a\u0308", "שלום مرحبا", "東京 Москва"])
def test_M8_any_script_comes_back_as_it_went(live: Live, text: str) -> None:
    """The fake engine echoes; a template may add its own marks around."""
    assert live.chat(messages=user(text)).json()["choices"][0]["message"]["content"].startswith(text)


@pytest.mark.parametrize("stream", [False, True])
def test_M12_nothing_to_continue(live: Live, stream: bool) -> None:
    for empty in ("", " \n"):
        turns = [*HELLO, {"role": "assistant", "content": empty}]
        refused(live, "invalid_value", "messages.1.content", says="leave it out", messages=turns, stream=stream)


def test_M12_the_answer_continues_the_assistant_s_last_message(live: Live) -> None:
    """Not closed by the template, and not opened again. The prompt is that of a plain render, cut at the text's end."""
    tokenizer, seen = live.served.model.tokenizer, []
    original = live.served.engine.add
    live.served.engine.add = lambda request: (seen.append(request), original(request))[1]  # type: ignore[method-assign, func-returns-value]
    for stream in (False, True):
        turns = [*HELLO, {"role": "assistant", "content": "Once upon"}]
        assert live.chat(messages=turns, stream=stream).status_code == 200
    live.served.engine.add = original  # type: ignore[method-assign]
    for request in seen:
        assert request.continues
        text = tokenizer.decode(request.prompt_ids)
        assert text == "<|begin|><|user|>Hello there<|end|><|assistant|>Once upon"
    assert not any(request.continues for request in _requests(live, HELLO))


def _requests(live: Live, messages: object) -> list[Request]:
    body = json.dumps({"model": "tiny", "messages": messages}).encode()
    return list(prepare(body, [], live.served, "off", LOCAL).requests)


def test_M12_a_template_without_a_place_for_it(live: Live) -> None:
    tokenizer = live.served.model.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    try:
        turns = [*HELLO, {"role": "assistant", "content": "Once upon"}]
        for stream in (False, True):
            refused(live, "template_error", "messages.1.role", says="continued", messages=turns, stream=stream)
    finally:
        tokenizer.chat_template = before
