"""Sandbox: runs a Python program that nobody has read, without network, without a place to write, for a short time."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from steering.errors import EvaluationError

SECONDS = 10
"""Of processor time, and as much again of waiting."""
MEMORY = 1 << 30
"""Bytes of address space."""

_READ_ONLY = """
mount --make-rprivate /
while read -r _ _ _ _ point _; do mount -o remount,bind,ro "$point" 2>/dev/null || true; done < /proc/self/mountinfo
cd / && exec "$@"
"""
_WAYS = (
    (
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session"),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--chdir", "/"),
    ),
    (
        *("unshare", "--user", "--map-root-user", "--net", "--mount", "--mount-proc", "--pid", "--ipc"),
        *("--fork", "--kill-child", "sh", "-c", _READ_ONLY, "sh"),
    ),
)
_PROGRAM = """
import os, resource
for limit, most in ((resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {memory}), (resource.RLIMIT_FSIZE, 0),
                    (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
    resource.setrlimit(limit, (most, most))
told, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
os.dup2(nothing, 1), os.dup2(nothing, 2)
exec(compile({program!r}, "program", "exec"), {{"__name__": "__main__"}})
os.write(told, {token!r})
"""
_PROBE = """
import os, socket
def refused(action):
    try:
        action()
    except (OSError, MemoryError):
        return True
    return False
assert refused(lambda: socket.create_connection(("127.0.0.1", {port}), timeout=1)), "network"
assert refused(lambda: open({file!r}, "w")), "files"
assert refused(lambda: os.unlink({kept!r})), "files"
assert refused(lambda: bytearray({memory})), "memory"
"""


@dataclass(frozen=True)
class Sandbox:
    """A way that was tried and found to hold."""

    command: tuple[str, ...]

    def passes(self, program: str) -> bool:
        """Whether the program runs to its end, without an error and in time. What it prints goes nowhere."""
        token = secrets.token_hex(16).encode()  # a program that only stops early does not know it
        source = _PROGRAM.format(seconds=SECONDS, memory=MEMORY, program=program, token=token)
        # -S: without the user's packages, and quicker
        command = [*self.command, sys.executable, "-I", "-S", "-B", "-c", source]
        try:
            done = subprocess.run(  # noqa: S603  that is what this is for
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=2 * SECONDS,
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
            )
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return False
        return done.returncode == 0 and done.stdout == token


def find_sandbox() -> Sandbox:
    """The first way that keeps a probe from the network, from files and from memory. Raises `EvaluationError`."""
    for way in _WAYS:
        if shutil.which(way[0]) and _holds(sandbox := Sandbox(way)):
            return sandbox
    raise EvaluationError(
        "no sandbox can be had here, and without one no code of a model is run: "
        "it takes Linux with bubblewrap, or with unshare and user namespaces."
    )


def _holds(sandbox: Sandbox) -> bool:
    """It runs what is harmless, and refuses network, files and memory to what is not."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        kept = Path(folder) / "kept"
        kept.touch()
        places = {"port": listener.getsockname()[1], "file": f"{folder}/new", "kept": str(kept), "memory": 2 * MEMORY}
        return sandbox.passes("pass") and sandbox.passes(_PROBE.format(**places)) and kept.exists()
