"""HumanEval: what is taken for code, and a sandbox that holds, or none at all."""

from __future__ import annotations

import socket
import threading
from functools import cache
from pathlib import Path

import pytest

from steering.errors import EvaluationError
from steering.evaluation import sandbox
from steering.evaluation.core import Reply
from steering.evaluation.human_eval import Function, suites
from steering.evaluation.protocol import Source
from steering.evaluation.sandbox import Sandbox, find_sandbox
from tests.evaluation.fakes import write_data

PROMPT = "from typing import List\n\ndef helper():\n    return 1\n\ndef add(a, b):\n    ''' Adds. '''\n"
TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(0, 0) == 0\n"


@cache
def found() -> Sandbox | None:
    try:
        return find_sandbox()
    except EvaluationError:
        return None


needs_sandbox = pytest.mark.skipif(
    "found() is None", reason="no bubblewrap and no unshare with user namespaces on this machine"
)


def function(box: Sandbox | None = None) -> Function:
    return Function("T/0", PROMPT, "add", TEST, box or Sandbox(("false",)))


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b):\n    return a + b\n"),
        ("First\n```\nx = 1\n```\nthen\n```py\ndef add(a, b): return 2\n```\nBye", "def add(a, b): return 2\n"),
        ("```python\ndef add(a, b):\n    return a", "def add(a, b):\n    return a"),
        ("def add(a, b):\n    return 3\n", "def add(a, b):\n    return 3\n"),
    ],
)
def test_the_last_block_that_defines_the_function(reply: str, code: str) -> None:
    assert function().code(reply) == PROMPT[: PROMPT.index("def add")] + code


def test_anything_else_continues_the_prompt() -> None:
    assert function().code("    return a + b\n") == PROMPT + "    return a + b\n"
    assert function().code("```python\n    return a + b\n```") == PROMPT + "    return a + b\n"


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "passed"),
    [
        ("return a + b", 1.0),
        ("return a - b", 0.0),
        ("return undefined", 0.0),
        ("import os; os._exit(0)", 0.0),
        ("import sys; sys.exit(0)", 0.0),
        ("print('x' * 10); return a + b", 1.0),
    ],
)
def test_pass_at_1(body: str, passed: float) -> None:
    graded = function(found()).grade((Reply(f"```python\ndef add(a, b):\n    {body}\n```"),))
    assert graded == {"executed": {"pass_at_1": passed}}


@needs_sandbox
def test_the_sandbox_keeps_from_files_network_and_memory(tmp_path: Path) -> None:
    box = found()
    assert box is not None and box.passes("assert 1 + 1 == 2")
    target = tmp_path / "new"
    for attempt in (
        f"open({str(target)!r}, 'w')",
        f"import os; os.mkdir({str(target)!r})",
        "open('/tmp/from-the-sandbox', 'w').write('x')",
        "bytearray(3 << 30)",
    ):
        assert not box.passes(attempt)
    assert not target.exists()
    called = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        thread = threading.Thread(target=_accept, args=(listener, called))
        thread.start()
        port = listener.getsockname()[1]
        assert not box.passes(f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)")
        thread.join()
    assert not called.is_set()


def _accept(listener: socket.socket, called: threading.Event) -> None:
    try:
        listener.accept()[0].close()
        called.set()
    except TimeoutError:
        pass


@needs_sandbox
def test_the_sandbox_ends_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    box = found()
    assert box is not None
    assert not box.passes("while True: pass")
    assert not box.passes("import time; time.sleep(60)")


def test_a_way_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env` runs the program as it is: the probe sees that it reaches the network."""
    monkeypatch.setattr(sandbox, "_WAYS", (("env",), ("no-such-program",), ("false",)))
    with pytest.raises(EvaluationError, match="no sandbox can be had here"):
        find_sandbox()


def test_off_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(tmp_path / "data")
    [suite] = suites()
    with pytest.raises(EvaluationError, match="--run-code"):
        suite.load(Source(data))
    monkeypatch.setattr("steering.evaluation.human_eval.find_sandbox", lambda: Sandbox(("false",)))
    [question] = suite.load(Source(data, runs_code=True))
    assert isinstance(question, Function) and question.entry_point == "add"
