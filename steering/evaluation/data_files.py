"""The benchmarks' own files, where the user has them: found by name, read strictly, refused in one line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from steering.errors import DataFileError

Row = dict[str, Any]


def find(data: Path, names: Collection[str], source: str) -> Path:
    """The first file of these names (patterns) in the folder or in a folder of it. Raises `DataFileError`."""
    if not data.is_dir():
        raise DataFileError(f"--data {data} is no folder.")
    for name in names:
        for pattern in (name, f"*/{name}"):
            if files := sorted(path for path in data.glob(pattern) if path.is_file()):
                return files[0]
    raise DataFileError(f"no {' or '.join(names)} in {data} or a folder of it; it comes from {source}.")


def read_text(path: Path) -> str:
    """UTF-8 with or without a mark, maybe gzipped."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataFileError(f"{path} cannot be read: {reason}.") from error
    if not text.strip():
        raise DataFileError(f"{path} is empty.")
    return text


def read_lines(path: Path) -> list[str]:
    """Lines that hold anything."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_csv(path: Path, columns: Collection[str]) -> list[Row]:
    """Rows that have all these columns; the cells stripped."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        found = ", ".join(reader.fieldnames or ())
        raise DataFileError(f"{path} has no column {missing[0]!r} (it has: {found[:200]}).")
    rows = [{key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader]
    return _checked(path, rows, columns)


def read_jsonl(path: Path, keys: Collection[str]) -> list[Row]:
    """One object a line, each with these keys."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(_object(path, line, f"line {number}"))
    return _checked(path, rows, keys)


def read_json(path: Path, keys: Collection[str]) -> list[Row]:
    """An array of objects, each with these keys."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not valid JSON.") from error
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataFileError(f"{path} must be an array of objects.")
    return _checked(path, value, keys)


def check_differ(paths: Collection[Path]) -> None:
    """Refuses files that are byte for byte the same where they should be different benchmarks."""
    seen: dict[str, Path] = {}
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if (other := seen.setdefault(digest, path)) != path:
            raise DataFileError(
                f"{path} is byte for byte {other.name}: one of them is a faulty copy; take it from its source."
            )


def _object(path: Path, line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path}, {where}: not valid JSON.") from error
    if not isinstance(row, dict):
        raise DataFileError(f"{path}, {where}: expected an object.")
    return row


def _checked(path: Path, rows: list[Row], keys: Collection[str]) -> list[Row]:
    if not rows:
        raise DataFileError(f"{path} has no rows.")
    for number, row in enumerate(rows, start=1):
        for key in keys:
            if row.get(key) in (None, ""):
                raise DataFileError(f"{path}, row {number}: {key!r} is missing or empty.")
    return rows
