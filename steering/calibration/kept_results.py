"""Kept results: arrays appended to a file as they come, from which a run that was stopped continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steering.errors import AnotherRun
from steering.evaluation.stats import Floats


class KeptResults:
    """Name -> array. One JSON line each; the first line, the passport, says which run they belong to."""

    def __init__(self, path: Path | None, passport: Mapping[str, object]) -> None:
        """path: None keeps them in memory alone. Raises `AnotherRun` if the file is of another run, or of none."""
        self._path = path
        self._results: dict[str, Floats] = {}
        if path is None:
            return
        if lines := _whole_lines(path):
            try:
                found, *entries = map(json.loads, lines)
                self._results = {entry["name"]: np.array(entry["values"], dtype=np.float64) for entry in entries}
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

    def get(self, name: str) -> Floats | None:
        return self._results.get(name)

    def add(self, name: str, values: Floats) -> Floats:
        """Keeps float64 values to the last bit."""
        self._results[name] = values
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"name": name, "values": values.tolist()}) + "\n")
        return values


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, none if there is no such file; a last one that was cut off is removed from it."""
    if not path.exists():
        return []
    with path.open("r+b") as file:
        lines = [line for line in file.readlines() if line.endswith(b"\n")]
        file.truncate(sum(map(len, lines)))
    return lines
