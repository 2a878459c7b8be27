"""Kept results: numbers and texts appended to a file as they come, from which a run that was stopped continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steering.errors import AnotherRun


class KeptResults:
    """Name -> JSON. A line holds what was added together; the first, the passport, says which run they belong to."""

    def __init__(self, path: Path | None, passport: Mapping[str, object]) -> None:
        """path: None keeps them in memory alone. Raises `AnotherRun` if the file is of another run, or of none."""
        self._path = path
        self._results: dict[str, Any] = {}
        if path is None:
            return
        if lines := _whole_lines(path):
            try:
                found, *entries = map(json.loads, lines)
                self._results = {name: values for entry in entries for name, values in entry.items()}
                differing = sorted(key for key in found.keys() | passport.keys() if found.get(key) != passport.get(key))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise AnotherRun(f"{path} holds no kept results; name another file or delete it.") from None
            if differing:
                parts = ", ".join(differing)
                raise AnotherRun(
                    f"{path} holds results of another run ({parts} differ); name another file or delete it."
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(passport) + "\n")

    def get(self, name: str) -> Any:
        """What was kept, an array as lists; None if nothing was."""
        return self._results.get(name)

    def add(self, name: str, values: Any) -> Any:
        """Keeps JSON, or an array, whose float64 values stay as they are to the last bit; returns what `get` will."""
        self.add_all({name: values})
        return self.get(name)

    def add_all(self, results: Mapping[str, Any]) -> None:
        """Keeps them together: whole, or, where the run is killed meanwhile, not at all."""
        told = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in results.items()}
        self._results |= told
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(told) + "\n")


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, none if there is no such file; a last one that was cut off is removed from it."""
    if not path.exists():
        return []
    with path.open("r+b") as file:
        lines = [line for line in file.readlines() if line.endswith(b"\n")]
        file.truncate(sum(map(len, lines)))
    return lines
