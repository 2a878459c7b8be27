"""Rows of data files as people bring them, each with its place for error messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from steering.errors import DataError
from steering.strict_json import strict_loads

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Row:
    values: Mapping[str, object]
    file: str
    line: int
    """From 1; of a JSON list the entry."""

    def fault(self, message: str, column: str | None = None) -> DataError:
        return DataError(message, file=self.file, line=self.line, column=column)

    def text(self, column: str) -> str:
        """Text that is not blank, without space around it."""
        return self.exact(column).strip()

    def exact(self, column: str) -> str:
        """The same, with it."""
        return self._checked(self.value(column), column)

    def texts(self, column: str) -> tuple[str, ...]:
        """One text or a list of them; at least one."""
        value = self.value(column)
        if not isinstance(value, list):
            return (self.text(column),)
        if not value:
            raise self.fault("expected at least one text, got an empty list.", column)
        return tuple(self._checked(text, column).strip() for text in value)

    def nested(self, column: str) -> Row:
        """The object in a column, as a row at the same place."""
        value = self.value(column)
        if not isinstance(value, dict):
            raise self.fault(f"expected an object, got {_kind(value)}.", column)
        return Row(value, self.file, self.line)

    def value(self, column: str) -> object:
        """Whatever is there."""
        if column not in self.values:
            raise self.fault(f"the column is missing; this row has {_listing(self.values)}.", column)
        return self.values[column]

    def _checked(self, value: object, column: str) -> str:
        if not isinstance(value, str):
            raise self.fault(f"expected text, got {_kind(value)}.", column)
        if not value.strip():
            raise self.fault("expected text, got none.", column)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.fault(
                f"character {error.start} is a lone surrogate; text must be valid Unicode.", column
            ) from None
        return value


def read_rows(path: Path) -> list[Row]:
    """Rows of a .jsonl, .json (a list of objects) or .csv file, maybe gzipped; at least one. Raises `DataError`."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    suffix = path.with_suffix("").suffix if _is_gzipped(path) else path.suffix
    if suffix.lower() not in readers:
        raise DataError(f"expected a file that ends in {', '.join(readers)}.", file=str(path))
    rows = list(readers[suffix.lower()](read_text(path), str(path)))
    if not rows:
        raise DataError("there is no row in it.", file=str(path))
    return rows


def read_text(path: Path) -> str:
    """UTF-8 with or without a mark, maybe gzipped; not blank. Raises `DataError`."""
    try:
        with gzip.open(path) if _is_gzipped(path) else path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES >> 20} MiB.", file=str(path))
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}.", file=str(path)) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError("is not UTF-8 text.", file=str(path), line=line) from error
    if not text.strip():
        raise DataError("is empty.", file=str(path))
    return text


def _is_gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _jsonl(text: str, file: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _row(_parsed(line, file, number), file, number)


def _json(text: str, file: str) -> Iterator[Row]:
    entries = _parsed(text, file)
    if not isinstance(entries, list):
        raise DataError(f"expected a list of objects, got {_kind(entries)}.", file=file)
    for number, entry in enumerate(entries, start=1):
        yield _row(entry, file, number)


def _csv(text: str, file: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for values in reader:
            row = Row(values, file, reader.line_num)
            if None in values or None in values.values():
                raise row.fault(f"expected {len(reader.fieldnames or ())} columns, as in the first line.")
            yield row
    except csv.Error as error:
        raise DataError(f"is no CSV: {error}.", file=file, line=reader.reader.line_num) from error


def _parsed(text: str, file: str, line: int | None = None) -> object:
    try:
        return strict_loads(text)
    except json.JSONDecodeError as error:
        reason = f"is not valid JSON: {error.msg} at character {error.colno}."
        raise DataError(reason, file=file, line=line or error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON: {error}.", file=file, line=line) from error


def _row(value: object, file: str, line: int) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"expected an object, got {_kind(value)}.", file=file, line=line)
    return Row(value, file, line)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _listing(values: Mapping[str, object]) -> str:
    return ", ".join(repr(str(key)[:40]) for key in list(values)[:12]) or "none"
