"""`unsway chat` as a process: on a terminal, in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from steering.model.loading import LanguageModel
from tests.command_line import unsway
from tests.models import tiny_model
from tests.server.packs import save_packs

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from server.cli import main; main()", "chat", "--threads", "1")
CTRL_C, CTRL_D = b"\x03", b"\x04"


@pytest.fixture(scope="module")
def options(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The tiny model as a folder, and packs for it."""
    model: LanguageModel = tiny_model()
    packs = tmp_path_factory.mktemp("packs")
    save_packs(packs, model, tiny_model(seed=1))
    return ("--model", str(tiny_folder), "--packs", str(packs), "--profile", "candid", "--max-tokens", "16")


def _take(fd: int) -> None:
    """The terminal becomes the process's own, or Ctrl-C would be a key like any other; nor may it ignore that, as what
    a shell starts in the background does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(command: tuple[str, ...], cwd: Path) -> Iterator[Terminal]:
    """The process behind a pseudo-terminal."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UNSWAY_", "NO_COLOR"))}
    environment = clean | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color"}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=environment,
        start_new_session=True,
        preexec_fn=partial(_take, theirs),
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)


class Terminal:
    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process, self.fd, self.seen = process, fd, b""

    def write(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def press_until(self, key: bytes, pattern: bytes) -> None:
        """Again if need be: a Ctrl-C that comes between the prompt and the read behind it waits for the next key."""
        for _ in range(10):
            self.write(key)
            with suppress(AssertionError):
                self.wait_for(pattern, seconds=6)
                return
        raise AssertionError(self.seen)

    def wait_for(self, pattern: bytes, seconds: float = 60) -> bytes:
        """All that was shown up to where the pattern ends, from where the last one ended."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.seen, re.DOTALL)) is None:
            assert time.monotonic() < deadline, self.seen
            with suppress(OSError):  # EIO: the process has ended
                if select.select([self.fd], [], [], 0.5)[0]:
                    self.seen += os.read(self.fd, 4096)
        shown, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return shown


def test_on_a_terminal(options: tuple[str, ...], tmp_path: Path) -> None:
    with terminal((*COMMAND, *options), tmp_path) as shell:
        shell.wait_for(rb"tiny-llama, steering on.*> ")
        shell.write(b"Is it so?\n")
        answer = shell.wait_for(rb"candid@[0-9a-f]{12} on .* fired at \d+ of \d+ tokens[^\n]*\n.*> ")
        assert b"\x1b[1;35m" in answer  # a token that fired
        shell.write(b"/steer off\n")
        shell.wait_for(rb"steering off.*> ")
        shell.write(b"Is it so?\n")
        assert b"\x1b[1;35m" not in shell.wait_for(rb"off \xc2\xb7 \d+ tokens.*> ")
        shell.press_until(CTRL_C, rb"Ctrl-D or /quit ends the chat.*> ")
        shell.write(CTRL_D)
        assert shell.process.wait(30) == 0


def test_in_a_pipe(options: tuple[str, ...]) -> None:
    plain = unsway("chat", *options, stdin="Is it so?\n")
    assert plain.code == 0 and plain.err == "", plain
    objects = unsway("chat", *options, "--json", stdin="Is it so?\n/strength 99\n/steer off\nIs it so?\n")
    steered, unsteered = map(json.loads, objects.out.splitlines())
    assert plain.out == steered["choices"][0]["message"]["content"] + "\n"
    assert steered["choices"][0]["steering"]["applied"] and "steering" not in unsteered["choices"][0]
    assert objects.code == 1 and objects.err.count("\n") == 1 and "strength must be" in objects.err


def test_without_a_default_profile_it_does_not_steer(options: tuple[str, ...]) -> None:
    without = options[: options.index("--profile")]
    assert "steering" not in json.loads(unsway("chat", *without, "--json", stdin="So?\n").out)["choices"][0]
    unsway("chat", *without, "--steer", "on").refuses("--profile", "candid", "firm", "watch")


def test_L13_a_chat_that_cannot_begin(options: tuple[str, ...]) -> None:
    unsway("chat", *options, "--profile", "nothing").refuses("no profile named 'nothing'")
    unsway("chat", *options, "--temperature", "9").refuses("temperature must be")
    unsway("chat", *options, "--max-tokens", "9999").refuses("max_tokens can be at most")
    unsway("chat", *options, "--steer", "sideways").refuses("--steer", "compare")
    unsway("chat", *options, "--host", "::1").refuses("--host")
