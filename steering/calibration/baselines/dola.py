"""DoLa (Chuang et al. 2023, arXiv 2309.03883): the output less what an early layer says, at the plausible tokens."""

from __future__ import annotations

from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import Baseline, Option, best_of, searched_items
from steering.contrast.source import Source
from steering.correction import LogitCorrection
from steering.edit import LayerContrast
from steering.model.layout import Layout
from steering.plan import Plan

EVERY = 2
"""Every other layer of a half is in its bucket, as in the paper."""
ENOUGH = 40
"""Above so many blocks a bucket reaches ENOUGH / 2 layers from its end, as in the paper's code."""


def dola(asking: Asking, source: Source, *, seed: int = 0) -> Baseline:
    """The better of the lower and the upper bucket, at the paper's plausibility of .1."""
    candidates = [
        Option(f"{half} bucket {' '.join(map(str, bucket))}", contrasting(bucket))
        for half, bucket in buckets(asking.model.layout).items()
    ]
    return best_of("DoLa", asking, searched_items(source, seed), candidates)


def buckets(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Layers as a lens counts them. Where embeddings and unembedding are one matrix, the lower bucket begins at layer
    2: below it the logit lens reads little but the token just read."""
    L, half = layout.num_layers, max(1, min(layout.num_layers, ENOUGH) // 2)
    unembedding = layout.unembed.lm_head.weight
    tied = any(parameter is unembedding for parameter in layout.base.parameters())
    first = min(2, half - 1) if tied else 0
    return {"lower": tuple(range(first, half, EVERY)), "upper": tuple(range(L - half, L, EVERY))}


def contrasting(bucket: tuple[int, ...]) -> Plan:
    return Plan("on", logit_corrections=(LogitCorrection("dola", LayerContrast(bucket)),))
