"""Sizes of memory in words."""

from __future__ import annotations

import pytest

from server.settings import BadSettings, Settings
from server.size import bytes_of, readable


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0B", 0),
        ("512 B", 512),
        ("2GiB", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("1.5 gib", 3 * 2**29),
        (" 500MB ", 500_000_000),
        ("3kB", 3000),
        ("1TiB", 2**40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert bytes_of(text) == count and Settings(kv_memory=text).kv_memory == text


@pytest.mark.parametrize("text", ["", "2", "GiB", "-1GiB", "2 Gi", "1e9B", "2GiBs", "nanB", "1,5GB", "²GB"])
def test_what_is_no_size(text: str) -> None:
    assert bytes_of(text) is None
    with pytest.raises(BadSettings, match="--kv-memory"):
        Settings(kv_memory=text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1024, "1 KiB"),
        (1023 * 1024, "1023 KiB"),
        (27 * 2**19, "13.5 MiB"),
        (2**41, "2 TiB"),
    ],
)
def test_readable(count: int, text: str) -> None:
    assert readable(count) == text
