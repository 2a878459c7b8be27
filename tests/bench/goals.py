"""What a ratio is to reach, by what is compared. Elsewhere a ratio is only told."""

from __future__ import annotations

from tests.bench import names
from tests.bench.ratios import Goal, costing

_LINEARS = {("88M", 8): Goal(0.9), ("88M", 32): Goal(0.9), **{("9M", n): Goal(0.7) for n in (8, 32)}}
_EACH = (1, 8, 32)


def _on(shape: str, bound: float, *batches: int) -> dict[tuple[str, int], Goal]:
    return {(shape, batch): Goal(bound) for batch in batches}


BY_SIZE: dict[tuple[str, str], dict[tuple[str, int], Goal]] = {
    (names.COMPILED, names.STATIC): _on("88M", 1.05, 1, 32) | _on("88M", 1.02, 8),
    (names.COMPILED, names.CONTINUOUS): _on("88M", 1.15, *_EACH),
    (names.EAGER, names.GENERATE): _on("88M", 0.97, *_EACH),
    (names.FAST_LINEARS, names.GENERATE): _on("88M", 0.97, *_EACH),
    (names.COMPILED, names.LINEARS): _LINEARS,
    (names.EACH_ITS_OWN, names.TRANSFORMERS_SERVE): _on("88M", 1.3, 8) | _on("88M", 2.0, 32),
    (names.EACH_ITS_OWN, names.SAKLAS): _on("88M", 4.0, 8) | _on("88M", 8.0, 32),
    (names.EACH_ITS_OWN, names.LLAMA_CPP): _on("88M", 0.7, 1) | _on("88M", 0.9, 8, 32),
    (names.SERVED, names.ENGINE_ALONE): _LINEARS,
    (names.RESIDENT, names.ONE_PROFILE): {(shape, 128): costing(0.05) for shape in ("9M", "88M")},
    (names.FIRING_SOME, names.OFF): {(shape, n): costing(0.10) for shape in ("9M", "88M") for n in _EACH},
}
"""(contender, compared with) -> (shape, batch) -> goal"""

ALWAYS: dict[tuple[str, str], Goal] = {
    (names.PRESENT_OFF, names.OFF): costing(0.02),
    (names.ONE_PROFILE, names.OFF): costing(0.04),
    (names.WATCHING, names.OFF): costing(0.06),
    (names.TUNED, names.OFF): costing(0.06),
    (names.GAP_P99, names.GAP_MEDIAN): Goal(2.0, at_most=True),
}
"""The same of every size."""


def goal(name: str, to: str, shape: str, batch: int) -> Goal | None:
    return ALWAYS.get((name, to)) or BY_SIZE.get((name, to), {}).get((shape, batch))
