"""Fairness across keys: the virtual token counter of Sheng et al. 2024, "Fairness in Serving Large Language Models"."""

from __future__ import annotations

from collections.abc import Collection

PROMPT_WEIGHT, ROW_WEIGHT = 1, 2
"""What a prompt token and a decode step count (section 4.1 there: w_p and w_q)."""


class TokenCounter:
    """How much each key was served. Among those that wait, the one served least goes first (algorithm 2)."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}

    def join(self, key: str, active: Collection[str]) -> None:
        """A request of `key` arrives; active: keys with requests under way before it.

        A key that was idle is lifted to the least of the active ones: time in which it asked for nothing gives it no
        claim on the others. Where nobody is active all begin anew. Idle keys that would be lifted are forgotten.
        """
        if key in active:
            return
        least = min((self[other] for other in active), default=0)
        self._served = {k: count for k, count in self._served.items() if k in active or (active and count > least)}
        self._served[key] = max(self[key], least)

    def charge(self, key: str, amount: int) -> None:
        self._served[key] = self[key] + amount

    def __getitem__(self, key: str) -> int:
        return self._served.get(key, 0)
