"""Kept results: arrays appended to a file as they come, from which a run that was stopped continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steering.errors import AnotherRun
from steering.evaluation.stats import Floats


class KeptResults:
    """Name -> array. One JSON line each; the first line says which run they belong to."""

    def __init__(self, path: Path | None, passport: Mapping[str, object]) -> None:
        """path: None keeps them in memory alone. Raises `AnotherRun` if the file's passport is not this one."""
        self._path = path
        self._results: dict[str, Floats] = {}
        if path is None:
            return
        lines = _whole_lines(path) if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(passport) + "\n")
            return
        found = json.loads(lines[0])
        if found != passport:
            parts = ", ".join(
                sorted(key for key in found.keys() | passport.keys() if found.get(key) != passport.get(key))
            )
            raise AnotherRun(f"{path} holds results of another run ({parts} differ); name another file or delete it.")
        for line in lines[1:]:
            entry = json.loads(line)
            self._results[entry["name"]] = np.array(entry["values"], dtype=np.float64)
        path.write_text("".join(lines))  # without a line that was cut off

    def get(self, name: str) -> Floats | None:
        return self._results.get(name)

    def add(self, name: str, values: Floats) -> Floats:
        """Keeps float64 values to the last bit."""
        self._results[name] = values
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"name": name, "values": values.tolist()}) + "\n")
        return values


def _whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
