"""What is asked of a prompt's layers, and what each of them says."""

from __future__ import annotations

from dataclasses import dataclass

from steering.lens import Lens


@dataclass(frozen=True, eq=False)
class LensQuery:
    """Which layers of a prompt are read, and what of each."""

    lenses: tuple[Lens, ...]
    """One for each layer that is read, ascending. The output is always read, and needs none."""
    top: int
    """Most probable tokens that are named, at least 1."""
    candidates: tuple[int, ...] = ()
    """Tokens whose log-probabilities are wanted."""
    first: int = 0
    """Position from which on the prompt is read; those before it are only computed."""
    drift_among: int | None = None
    """So many tokens, the most probable of the output, are the candidates on which drift is wanted; None: it is not."""


@dataclass(frozen=True)
class LayerReading:
    """What one layer says at one position comes next, over the whole vocabulary."""

    top: tuple[tuple[int, float], ...]
    """(token id, log-probability), most probable first."""
    entropy: float
    """Bits."""
    kl: float
    """KL(output || layer), bits: what is lost by taking the layer for the output."""
    candidates: tuple[float, ...]
    """Log-probabilities, in the order they were asked for."""
    drift: float | None = None
    """From the output, as a gate measures it, bits; None unless asked for."""


Grid = tuple[tuple[LayerReading, ...], ...]
"""By position, then by layer, the output last."""
