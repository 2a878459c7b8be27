"""Templates that loop, or write without end, end themselves; whoever rendered goes on."""

from __future__ import annotations

import copy
import os
import signal
import time
from pathlib import Path

import pytest

from steering.errors import TemplateError
from steering.model import render, render_worker
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel, wrap
from steering.model.render import Renderer, TemplateFailure, renderer
from tests.models import byte_tokenizer, tiny_hf, tiny_model

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": (LOOP, "did not end within 2 seconds"),
    "loops over what was said": (
        "{% for a in messages[0].content %}{% for b in messages[0].content %}{% for c in messages[0].content %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "did not end within 2 seconds",
    ),
    "writes a text without end": ("{{ 'A' * 10**9 }}", "memory|more than"),
    "asks for more than there is": ("{{ 'A' * 10**15 }}", "memory"),
    "writes too much": ("{{ 'A' * 20000000 }}", "more than 16,777,216 characters"),
    "nests without end": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
}


def with_template(template: str) -> LanguageModel:
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = template
    return wrap(tiny_hf(), tokenizer, "hostile")


def ask(model: LanguageModel, text: str = "hello " * 400) -> list[int]:
    return encode_chat(model, [{"role": "user", "content": text}])


@pytest.mark.parametrize("name", HOSTILE)
def test_M6_a_template_ends_within_its_limits(name: str) -> None:
    template, says = HOSTILE[name]
    with pytest.raises(TemplateError, match=says) as caught:
        ask(with_template(template))
    assert caught.value.param == "messages" and "/" not in str(caught.value)
    assert ask(tiny_model())  # the next one is rendered


def test_M6_the_limit_is_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends itself by a signal: nobody has to look at a clock."""
    monkeypatch.setattr(render_worker, "SECONDS", 0.2)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        render_worker.limited(
            b'{"template": "' + LOOP.encode() + b'", "messages": [], "tools": null, '
            b'"continues": false, "prompts": true, "special_tokens": {}}'
        )
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGPROF and time.monotonic() - started < 60


def test_a_process_that_was_killed_is_started_again() -> None:
    made = Renderer()
    task = {"tools": None, "continues": False, "prompts": True, "special_tokens": {}}
    try:
        assert made.render("{{ messages[0].content }}", [{"content": "a"}], **task) == "a"
        first = made._process
        assert first is not None
        first.kill()
        first.wait()
        assert made.render("{{ messages[0].content }}", [{"content": "b"}], **task) == "b"
        assert made._process is not first
    finally:
        made.close()
    assert made._process is None


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.render_worker, "__file__", "/nowhere.py")
    made = Renderer()
    with pytest.raises(TemplateFailure, match="did not end"):
        made.render("x", [], tools=None, continues=False, prompts=True, special_tokens={})


def test_all_models_share_one_process() -> None:
    ask(tiny_model())
    process = renderer()._process
    ask(with_template("{{ messages[0].content }}"))
    assert renderer()._process is process is not None


def test_rendering_costs_little() -> None:
    """Of a conversation, against the same template in this process, which may run away: a fraction of a millisecond
    more. The bound leaves room for a busy machine."""
    model, messages = tiny_model(), [{"role": "user", "content": "What is the capital of France?"}]
    encode_chat(model, messages)
    best = min(_seconds(lambda: encode_chat(model, messages)) for _ in range(30))
    assert best < 0.02


def _seconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_the_process_does_not_get_the_server_s_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSWAY_API_KEY", "secret")
    own = Renderer()
    own.start()
    try:
        assert own._process is not None
        path = Path(f"/proc/{own._process.pid}/environ")
        while not (environment := path.read_bytes()):  # in the midst of exec
            assert own._process.poll() is None
        assert b"OMP_NUM_THREADS=1" in environment and b"secret" not in environment
    finally:
        own.close()
