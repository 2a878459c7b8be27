"""How much memory keys and values may take, and what of the wanted size fits it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steering.errors import ContextLengthExceeded, MemoryTooSmall

ROW_BUCKET = 8
"""Deterministic mode pads decode rows to a multiple of this many: matrix products on the CPU take rows in blocks, and
those left over go through another kernel, with other bits."""
CONTEXT_BUCKET = 64
"""A context that is fitted is a multiple of this."""
SHORTEST = 256
"""Positions of a row of the shortest length class; each further class has twice as many, the last the whole context."""


@dataclass(frozen=True)
class KvSize:
    """What rows may take. In deterministic mode all of it from the start, with a slot that padding writes to."""

    rows: int
    """Requests that decode at the same time."""
    context: int
    """Positions of the longest row."""
    bytes_per_token: int
    """Of all layers together."""
    deterministic: bool
    budget: int
    """Bytes of all rows and the prefix cache together."""

    @property
    def padded_rows(self) -> int:
        return -(-self.rows // ROW_BUCKET) * ROW_BUCKET if self.deterministic else self.rows

    @property
    def fixed_slots(self) -> int:
        """Slots that exist whoever uses them."""
        return self.padded_rows + 1 if self.deterministic else 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of a row, by length class."""
        lengths: list[int] = []
        while not self.deterministic and (length := SHORTEST << len(lengths)) < self.context:
            lengths.append(length)
        return (*lengths, self.context)

    @property
    def least(self) -> int:
        """Bytes without which the longest row cannot run."""
        return max(1, self.fixed_slots) * self.context * self.bytes_per_token

    def check(self, num_tokens: int) -> None:
        """Raises `ContextLengthExceeded` for a row that no length class holds, though the model might."""
        if num_tokens > self.context:
            raise ContextLengthExceeded(
                f"{num_tokens} tokens of prompt and answer take {num_tokens * self.bytes_per_token:,} bytes of keys and "
                f"values; the server has {self.budget:,} for them, which is {self.context} tokens.",
                param="max_tokens",
            )


def fit(wanted: KvSize, *, least_context: int) -> KvSize:
    """At most `wanted` within its budget: in deterministic mode fewer rows, and where one is too many a shorter context.

    Raises `MemoryTooSmall` where one row of `least_context` positions (or all that are wanted) does not fit.
    """
    fewest = wanted
    if wanted.deterministic:  # one row takes what eight take
        for rows in range(wanted.rows, 0, -1):
            fewest = replace(wanted, rows=rows)
            if fewest.least <= wanted.budget:
                return fewest
        fewest = replace(wanted, rows=min(wanted.rows, ROW_BUCKET))
    elif wanted.least <= wanted.budget:
        return wanted
    context = wanted.budget * fewest.context // fewest.least // CONTEXT_BUCKET * CONTEXT_BUCKET
    least = replace(fewest, context=min(least_context, fewest.context))
    if context >= least.context:
        return replace(fewest, context=context)
    raise MemoryTooSmall(
        f"{wanted.budget:,} bytes hold the keys and values of no row: one of {least.context} tokens, the least that "
        f"works, takes {least.least:,}."
    )
