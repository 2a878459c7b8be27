"""Pace: how many prompt tokens a step may take beside rows that decode, so that these hardly wait for them.

Stall-free batching as in Agrawal et al. 2024, "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve",
section 4.3. There the tokens that a step has room for are measured once for each model and machine; here while it runs.
And here those that come count as if they decoded already, which will slow everybody down as soon as their prompts are
read. Without that, many who come at once start one by one, in steps of few rows each, which take nearly as long as full
ones.
"""

from __future__ import annotations

from collections import deque
from statistics import median

REMEMBERED = 8
"""Steps of a kind, the last ones, whose median counts: one that the machine held up decides nothing."""
RENEW = 16
"""After so many steps with prompts comes one without: how long that takes changes with the rows."""
FIRST, LEAST = 32, 8
"""Prompt tokens of a step before any was measured; and at the least, however slow."""


class Pace:
    """What steps took so far, and what the next one may take on. A decode row and a prompt token cost the same here."""

    def __init__(self, stretch: float, most: int) -> None:
        """A step with prompts takes at most about `stretch` times as long as one without will when those decode that
        come now, and `most` prompt tokens."""
        self._stretch, self._most = stretch, most
        self._plain: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)
        """Seconds and rows of steps without prompts."""
        self._each: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds that each prompt token added to steps with them."""
        self._since_plain = 0

    def budget(self, rows: int, coming: int) -> int:
        """Prompt tokens of the next step, if rows decode in it; 0 where a step without has to be measured first.

        coming: how many sequences decode beside those rows as soon as their prompts are read.
        """
        if not self._plain or self._since_plain >= RENEW:
            return 0
        if not self._each:
            return min(FIRST, self._most)
        seconds, usual = self._typical
        room, each = (self._stretch - 1) * seconds, median(self._each)
        beside = (self._stretch - 1) * (rows - usual) + self._stretch * coming
        fits = self._most if each * (self._most - beside) <= room else int(room / each + beside)
        return min(max(LEAST, fits), self._most)

    def observe(self, seconds: float, *, rows: int, tokens: int) -> None:
        """A step of so many decode rows and prompt tokens took so long. Where no rows were, nobody waited."""
        if not rows:
            return
        if not tokens:
            self._plain.append((seconds, rows))
            self._since_plain = 0
        elif self._plain:
            self._since_plain += 1
            plain, usual = self._typical
            if (more := rows + tokens - usual) > 0:
                self._each.append(max(0.0, seconds - plain) / more)

    @property
    def _typical(self) -> tuple[float, float]:
        """Seconds and rows of a step without prompts."""
        seconds, rows = zip(*self._plain, strict=True)
        return median(seconds), median(rows)
