"""Data files: what is read as it stands, and what is refused. Forms of rows: contrast's and evaluation's tests."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steering import data_file
from steering.data_file import read_rows, read_text
from steering.errors import DataError
from tests.evaluation.fakes import write_csv


def test_cells_with_line_breaks_and_odd_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [{"x": "one\ntwo\u2028three", "y": 'a "b", c'}, {"x": "é", "y": "2"}]
    write_csv(path, rows, mark=True)
    assert [row.values for row in read_rows(path)] == rows
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"x": "one\u2028two"}\n\n{"x": "3"}\n', encoding="utf-8")
    assert [(row.text("x"), row.line) for row in read_rows(lines)] == [("one\u2028two", 1), ("3", 3)]


def test_space_around_a_text_is_kept_where_it_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": " (A)\\n", "y": [" b "]}')
    [row] = read_rows(path)
    assert (row.text("x"), row.exact("x"), row.texts("x"), row.texts("y")) == ("(A)", " (A)\n", ("(A)",), ("b",))


def test_gzipped_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"x": 1}\n'))
    assert [row.values for row in read_rows(path)] == [{"x": 1}]
    whole = path.read_bytes()
    for broken in (whole[:-6], b"x" + whole, whole[:12] + b"\xff\xff" + whole[14:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read: "):
            read_rows(path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_files_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of a gzipped file what it unpacks to counts."""
    monkeypatch.setattr(data_file, "MAX_BYTES", 1 << 20)
    raw, path = b"x" * (1 << 20), tmp_path / name
    for more, fits in ((b"", True), (b"x", False)):
        path.write_bytes(gzip.compress(raw + more) if name.endswith(".gz") else raw + more)
        if fits:
            assert len(read_text(path)) == 1 << 20
        else:
            with pytest.raises(DataError, match="larger than 1 MiB"):
                read_text(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: "):
        read_text(tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("wrong", [1, None, " ", "\ud800", ["x"]])
def test_what_is_no_text(wrong: object) -> None:
    row = data_file.Row({"x": wrong}, "a.jsonl", 7)
    with pytest.raises(DataError, match=r"^a\.jsonl, line 7, column 'x': "):
        row.exact("x")
