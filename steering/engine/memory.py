"""Memory of keys and values: its size, and what of it a budget holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steering.errors import MemoryTooSmall

ROW_BUCKET = 8
"""Deterministic mode pads decode rows to a multiple of this many: matrix products on the CPU take rows in blocks, and
those left over go through another kernel, with other bits."""
CONTEXT_BUCKET = 64
"""A context that is fitted is a multiple of this."""


@dataclass(frozen=True)
class KvSize:
    """Slots of keys and values: one per row, and one that padding writes to."""

    rows: int
    """Requests that decode at the same time."""
    context: int
    """Positions of a slot."""
    bytes_per_token: int
    """Of all layers together."""
    deterministic: bool

    @property
    def padded_rows(self) -> int:
        return -(-self.rows // ROW_BUCKET) * ROW_BUCKET if self.deterministic else self.rows

    @property
    def nbytes(self) -> int:
        return (self.padded_rows + 1) * self.context * self.bytes_per_token


def fit(wanted: KvSize, budget: int, *, least_context: int) -> KvSize:
    """At most `wanted` within `budget` bytes: fewer rows, and where one is too many a shorter context.

    In deterministic mode one row takes what eight take. Raises `MemoryTooSmall` where one row of `least_context`
    positions (or all that are wanted) does not fit.
    """
    for rows in range(wanted.rows, 0, -1):
        size = replace(wanted, rows=rows)
        if size.nbytes <= budget:
            return size
    fewest = replace(wanted, rows=min(wanted.rows, ROW_BUCKET) if wanted.deterministic else 1)
    context = budget * fewest.context // fewest.nbytes // CONTEXT_BUCKET * CONTEXT_BUCKET
    least = replace(fewest, context=min(least_context, fewest.context))
    if context >= least.context:
        return replace(fewest, context=context)
    raise MemoryTooSmall(
        f"{budget:,} bytes hold the keys and values of no row: one of {least.context} tokens, the least that works, "
        f"takes {least.nbytes:,}."
    )
