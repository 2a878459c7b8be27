"""The benchmarks' own files, where the user has them: found by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from steering.errors import DataError


def find(data: Path, names: Collection[str], source: str) -> Path:
    """The first file of these names (patterns) in the folder or in a folder of it. Raises `DataError`."""
    if not data.is_dir():
        raise DataError("is no folder; --data must name one.", file=str(data))
    for name in names:
        for pattern in (name, f"*/{name}"):
            if files := sorted(path for path in data.glob(pattern) if path.is_file()):
                return files[0]
    raise DataError(f"no {' or '.join(names)} in it or a folder of it; it comes from {source}.", file=str(data))


def check_differ(paths: Collection[Path]) -> None:
    """Refuses files that are byte for byte the same where they should be different benchmarks."""
    seen: dict[str, Path] = {}
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if (other := seen.setdefault(digest, path)) != path:
            message = f"is byte for byte {other.name}: one of them is a faulty copy; take it from its source."
            raise DataError(message, file=str(path))
