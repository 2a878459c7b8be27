"""Published numbers, to print beside a user's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    suite: str
    measure: str
    model: str
    plain: float
    tuned: tuple[tuple[str, float], ...]
    """(what was done to the model, the number then)"""
    source: str


_HARA = "Hara et al., 4 % of heads"


def _hara(suite: str, measure: str, model: str, plain: float, heads: float, groups: float) -> Published:
    """Percent, as printed."""
    tuned = (("SPT, single heads", heads / 100), ("SPT, KV groups", groups / 100))
    return Published(suite, measure, model, plain / 100, tuned, _HARA)


PUBLISHED = (
    _hara("are-you-sure", "truthfulness", "Llama-3-8B", 49.8, 71.5, 76.8),
    _hara("are-you-sure", "truthfulness", "Qwen2.5-7B", 86.7, 81.0, 83.0),
    _hara("are-you-sure", "truthfulness", "Mistral-7B-v0.3", 61.3, 77.2, 82.1),
    _hara("are-you-sure", "truthfulness", "Llama-3.2-3B", 45.7, 68.6, 69.1),
    _hara("gsm8k", "accuracy", "Llama-3-8B", 77.3, 54.3, 48.2),
)
