"""Files of benchmarks: found where people put them, and refused in one line where they are not what they should be."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steering.errors import DataFileError
from steering.evaluation.data_files import find, read_csv, read_json, read_jsonl, read_lines
from steering.evaluation.protocol import Source
from steering.evaluation.suites import SUITES
from tests.evaluation.fakes import write_csv, write_data


def test_files_are_found_in_the_folder_or_in_a_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "b.csv").write_text("x")
    assert find(tmp_path, ("a.csv", "b*.csv"), "there") == tmp_path / "some" / "b.csv"
    (tmp_path / "a.csv").write_text("x")
    assert find(tmp_path, ("a.csv", "b*.csv"), "there") == tmp_path / "a.csv"
    with pytest.raises(DataFileError, match=r"no c.csv in .* or a folder of it; it comes from there"):
        find(tmp_path, ("c.csv",), "there")
    with pytest.raises(DataFileError, match="is no folder"):
        find(tmp_path / "none", ("a.csv",), "there")


def test_cells_with_line_breaks_and_odd_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [{"x": "one\ntwo\u2028three", "y": 'a "b", c'}, {"x": "é", "y": "2"}]
    write_csv(path, rows, mark=True)
    assert read_csv(path, ("x", "y")) == rows
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"x": "one\u2028two"}\n\n{"x": "3"}\n', encoding="utf-8")
    assert [row["x"] for row in read_jsonl(lines, ("x",))] == ["one\u2028two", "3"]


def test_gzipped_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"x": 1}\n'))
    assert read_jsonl(path, ("x",)) == [{"x": 1}]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataFileError, match="cannot be read"):
        read_jsonl(path, ("x",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read: UnicodeDecodeError"),
        (b'{"x": 1}\n{"x": \n', "line 2: not valid JSON"),
        (b"[1]\n", "line 1: expected an object"),
        (b'{"y": 1}\n', "row 1: 'x' is missing or empty"),
        (b'{"x": ""}\n', "row 1: 'x' is missing or empty"),
    ],
)
def test_lines_that_are_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=message):
        read_jsonl(path, ("x",))


def test_documents_and_tables_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, message in (
        ("{", "not valid JSON"),
        ("{}", "array of objects"),
        ("[1]", "array of"),
        ("[]", "no rows"),
    ):
        path.write_text(content)
        with pytest.raises(DataFileError, match=message):
            read_json(path, ("x",))
    for content, message in (("y,z\n1,2\n", "no column 'x'.*y, z"), ("x\n", "no rows"), ("x,y\n,1\n", "row 1: 'x'")):
        path.write_text(content)
        with pytest.raises(DataFileError, match=message):
            read_csv(path, ("x",))
    path.write_text(" a \n\nb\n")
    assert read_lines(path) == ["a", "b"]


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="cannot be read: "):
        read_lines(tmp_path)


@pytest.mark.parametrize("name", [name for name in SUITES if name != "humaneval"])
def test_every_suite_says_where_its_missing_file_comes_from(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataFileError, match="it comes from "):
        SUITES[name].load(Source(tmp_path))


@pytest.mark.parametrize("name", [name for name in SUITES if name != "humaneval"])
def test_every_suite_loads_small_files_with_different_ids(tmp_path: Path, name: str) -> None:
    questions = SUITES[name].load(Source(write_data(tmp_path / "data")))
    assert len({question.id for question in questions}) == len(questions) >= 2
