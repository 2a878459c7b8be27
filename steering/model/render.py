"""Chat templates rendered within limits of time and size, by a process that is killed where it meets one."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any

from steering.model import render_worker

TOO_LONG = f"it did not end within {render_worker.SECONDS:g} seconds"


class TemplateFailure(Exception):
    """What a template raised, in its words, or which limit it met."""


class Renderer:
    """One process that renders, started anew where one ended. Any thread may use it; one renders at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Begins to start the process, which takes a second, if there is none."""
        with self._lock:
            self._running()

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None,
        continues: bool,
        prompts: bool,
        special_tokens: Mapping[str, str],
    ) -> str:
        """The conversation as text. Raises `TemplateFailure`.

        continues: up to the end of what the last message says; prompts: with the beginning of an answer.
        """
        task = {
            "template": template,
            "messages": messages,
            "tools": tools,
            "continues": continues,
            "prompts": prompts,
            "special_tokens": special_tokens,
        }
        with self._lock:
            answer = self._ask(json.dumps(task).encode() + b"\n")
        if "error" in answer:
            raise TemplateFailure(answer["error"])
        return str(answer["text"])

    def _ask(self, line: bytes) -> dict[str, Any]:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        try:
            process.stdin.write(line)
            process.stdin.flush()
            told = process.stdout.readline()
        except OSError:  # it is gone
            told = b""
        if told.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(told)
            return answer
        self._end()
        raise TemplateFailure(TOO_LONG)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # killed by someone else, between two renderings
        if self._process is None:
            command = [sys.executable, "-P", render_worker.__file__]
            environment = _environment()
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment, start_new_session=True
            )
        return self._process

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)


def _environment() -> dict[str, str]:
    """Without what is the server's own: a template is somebody's program, and a key is among it. Threads that a
    numerical library would start take address space, and nothing is computed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UNSWAY_")}
    return inherited | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # what could not be written any more
        return


@cache
def renderer() -> Renderer:
    """The one of this process: a template travels with each task, so that it serves all models."""
    made = Renderer()
    atexit.register(made.close)
    return made
