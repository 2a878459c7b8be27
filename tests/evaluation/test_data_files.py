"""Files of benchmarks: found where people put them; where one is missing, its source is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from steering.errors import DataError
from steering.evaluation.data_files import find
from steering.evaluation.protocol import Source
from steering.evaluation.suites import SUITES
from tests.evaluation.fakes import write_data


def test_files_are_found_in_the_folder_or_in_a_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "b.csv").write_text("x")
    assert find(tmp_path, ("a.csv", "b*.csv"), "there") == tmp_path / "some" / "b.csv"
    (tmp_path / "a.csv").write_text("x")
    assert find(tmp_path, ("a.csv", "b*.csv"), "there") == tmp_path / "a.csv"
    with pytest.raises(DataError, match=r": no c.csv in it or a folder of it; it comes from there"):
        find(tmp_path, ("c.csv",), "there")
    with pytest.raises(DataError, match="is no folder"):
        find(tmp_path / "none", ("a.csv",), "there")


@pytest.mark.parametrize("name", [name for name in SUITES if name != "humaneval"])
def test_every_suite_says_where_its_missing_file_comes_from(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="it comes from "):
        SUITES[name].load(Source(tmp_path))


@pytest.mark.parametrize("name", [name for name in SUITES if name != "humaneval"])
def test_every_suite_loads_small_files_with_different_ids(tmp_path: Path, name: str) -> None:
    questions = SUITES[name].load(Source(write_data(tmp_path / "data")))
    assert len({question.id for question in questions}) == len(questions) >= 2
