"""Which positions of an answer are read, and what was found there: in token ids and log-probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.errors import ApiError
from server.translate.lens import MAX_NUMBERS
from server.translate.prompt import shared
from server.translate.receipt import finite
from steering.contrast.committed import committed
from steering.contrast.splits import normalised
from steering.engine.lens_query import Grid, LayerReading, LensQuery
from steering.errors import NumericalError
from steering.plan import Detector
from steering.verification import Finding

MAX_READ = 256
"""Tokens of an answer that are read without candidates."""
MAX_COMPUTED = 2**16
"""Tokens of prompt and answer times candidates: with each of them they are computed once."""

Ask = tuple[Sequence[int], LensQuery]
"""A prompt, and what is asked of its layers."""


def stands_by(answer: str, candidates: Sequence[str]) -> tuple[int, int] | None:
    """Which candidate an answer commits to, and where that first stands in it: the one that it says is the answer (by
    the rules of `steering.contrast.committed`, made for English), else the one that stands first, of several the
    longest."""
    places = {
        i: match.start()
        for i, name in enumerate(candidates)
        if (match := re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer, re.ASCII | re.IGNORECASE))
    }
    known = {normalised(name): name for name in candidates}
    meant = committed(answer, known)
    told = [i for i in places if candidates[i] == meant]
    best = told or sorted(places, key=lambda i: (places[i], -len(candidates[i])))
    return (best[0], places[best[0]]) if best else None


@dataclass(frozen=True)
class WholeReading:
    """An answer as it stands, token by token."""

    text: Sequence[int]
    """Prompt and answer."""
    start: int
    """Where the answer begins."""
    ids: Sequence[int]
    """Its tokens that are read."""
    query: LensQuery

    @property
    def asks(self) -> tuple[Ask, ...]:
        return ((self.text[: self.start + len(self.ids) - 1], self.query),)

    def before(self, at: int) -> tuple[int, ...]:
        """All that stands before a token of the answer."""
        return tuple(self.text[: self.start + at])

    def findings(self, grid: Grid) -> list[Finding]:
        return [self._finding(at, *readings) for at, readings in enumerate(grid)]

    def _finding(self, at: int, early: LayerReading, output: LayerReading) -> Finding:
        said, ((best, highest), (_, next_best)) = self.ids[at], early.top[:2]
        same = best == said
        of_said = next_best if same else _by_token(self.query, early)[said]
        return _checked(Finding(at, same, highest - of_said, early.drift or 0.0, output.top[0][0] != best))


def whole_reading(text: Sequence[int], start: int, detector: Detector, longest: int | None) -> WholeReading:
    """longest: tokens of an answer that the detector is calibrated for; those beyond are not read."""
    ids = text[start : start + min(longest or MAX_READ, MAX_READ)]
    return WholeReading(text, start, ids, _query(detector, ids, start - 1))


@dataclass(frozen=True)
class Compared:
    """Candidates, by what layers say of them."""

    early: list[float]
    """Log-probabilities."""
    late: list[float]
    best: int
    """Of the early layer."""
    found: Finding


@dataclass(frozen=True)
class NamedReading:
    """Candidates in the place of the one that an answer stands by."""

    texts: Sequence[Sequence[int]]
    """Prompt and answer up to the end of each candidate."""
    said: int
    start: int
    """Where the answer begins."""
    common: int
    """Tokens that all of them begin with."""
    query: LensQuery

    @property
    def asks(self) -> tuple[Ask, ...]:
        return tuple((text[:-1], self.query) for text in self.texts)

    @property
    def endings(self) -> list[Sequence[int]]:
        """Of each candidate the tokens from the first on in which they differ."""
        return [text[self.common :] for text in self.texts]

    def compare(self, grids: Sequence[Grid]) -> Compared:
        early, late = ([self._sum(i, grid, side) for i, grid in enumerate(grids)] for side in (0, 1))
        if not all(value < math.inf for value in (*early, *late)):  # false for NaN
            raise NumericalError("what a layer says is NaN.")
        best, second = sorted(range(len(early)), key=lambda i: -early[i])[:2]
        other = second if best == self.said else best
        part = shared(self.texts[self.said], self.texts[other])
        layer, output = grids[self.said][part - self.common]
        of = _by_token(self.query, output)
        agrees = of[self.texts[self.said][part]] >= of[self.texts[other][part]]
        gap = finite(early[best]) - finite(early[second])
        found = Finding(part - self.start, best == self.said, gap, layer.drift or 0.0, agrees)
        return Compared([*map(finite, early)], [*map(finite, late)], best, _checked(found))

    def _sum(self, which: int, grid: Grid, side: int) -> float:
        cells = (_by_token(self.query, readings[side]) for readings in grid)
        return sum(cell[token] for cell, token in zip(cells, self.endings[which], strict=True))


def named_reading(texts: Sequence[Sequence[int]], said: int, start: int, detector: Detector) -> NamedReading:
    """Refuses candidates of which one begins with another: they never part, and the shorter is always more probable."""
    for i, j in _pairs(len(texts)):
        if shared(texts[i], texts[j]) == len(texts[i]):
            message = f"candidates.{j} begins with candidates.{i}, or is the same to the model: they never differ."
            raise ApiError("invalid_value", message, f"candidates.{j}")
    common = min(shared(texts[0], text) for text in texts[1:])
    query = _query(detector, [token for text in texts for token in text[common:]], common - 1)
    numbers = sum(len(text) - common for text in texts) * len(query.candidates)
    if sum(map(len, texts)) > MAX_COMPUTED or numbers > MAX_NUMBERS:
        message = f"candidates take more than {MAX_COMPUTED:,} tokens with what stands before them, or differ too long"
        raise ApiError("array_above_max_length", f"{message}: name fewer or shorter ones.", "candidates")
    return NamedReading(texts, said, start, common, query)


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(count) if i != j)


def _query(detector: Detector, ids: Sequence[int], first: int) -> LensQuery:
    """top: the best, and what it is preferred to."""
    return LensQuery((detector.lens,), 2, tuple(dict.fromkeys(ids)), first, detector.num_candidates)


def _by_token(query: LensQuery, reading: LayerReading) -> Mapping[int, float]:
    return dict(zip(query.candidates, reading.candidates, strict=True))


def _checked(found: Finding) -> Finding:
    if not (math.isfinite(found.drift) and math.isfinite(found.gap)):
        raise NumericalError("what a layer says is NaN or infinite.")
    return found
