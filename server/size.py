"""Sizes of memory as people write and read them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(i?)B", re.IGNORECASE)
_POWERS = " KMGT"


def bytes_of(text: str) -> int | None:
    """`2GiB`, `500MB`, `1.5 gb` -> bytes; None for what is no size. With i powers of 1024, without of 1000."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, letter, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS.index(letter.upper() or " "))


def readable(count: int) -> str:
    """Bytes as `512 B`, `3 KiB`, `25.5 MiB`."""
    value, power = float(count), 0
    while value >= 1024 and power < len(_POWERS) - 1:
        value, power = value / 1024, power + 1
    number = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return f"{number} {_POWERS[power].strip()}{'iB' if power else 'B'}"
