"""A command line, run in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import server.cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def refuses(self, *words: str) -> None:
        """Exit code 2, and one line on stderr that has these words."""
        assert self.code == 2, self
        assert len(self.err.splitlines()) == 1 and self.err.startswith("unsway: "), self.err
        assert all(word in self.err for word in words), self.err


def unsway(*arguments: str, main: Callable[[], None] = server.cli.main, stdin: str = "") -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    given = patch.multiple(sys, argv=["unsway", *arguments], stdin=io.StringIO(stdin))
    with given, redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())
