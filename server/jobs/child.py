"""The process of a job, `python -m server.jobs.child NICENESS ARGUMENTS`: the command `unsway ARGUMENTS`, modest and
mortal.

Modest: others go first. It has a session of its own, which on Linux is a scheduling group of its own (`autogroup`): the
group's niceness weighs against the server's group, and that of its processes among themselves alone. Where there are no
such groups (in a container), niceness weighs against each thread of the server and not their sum, so half of it does as
much. It covers disks as well. Mortal: standard input is a pipe that the server holds, which closes
however the server ends. On Linux the kernel ends the process besides, which needs no processor's turn.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import steering.cli

_PR_SET_PDEATHSIG = 1
CRASHED = 70
"""Exit code where the command failed by an error that is not the user's."""


def main() -> NoReturn:
    niceness = int(sys.argv.pop(1))
    _step_back(niceness)
    _end_with_parent()
    threading.Thread(target=_die_with_the_server, name="watch", daemon=True).start()
    try:
        steering.cli.main()  # which exits
    except Exception:
        traceback.print_exc()
    sys.exit(CRASHED)


def _step_back(niceness: int) -> None:
    if not hasattr(os, "nice"):
        return
    os.nice(niceness // 2)
    with suppress(OSError):  # not Linux, or a kernel without
        Path("/proc/self/autogroup").write_text(f"{niceness}\n")


def _end_with_parent() -> None:
    """With the server's thread that started it, the event loop's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_the_server() -> None:
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # a group of its own: nobody else's
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
