"""Wrong sign: a canary. Corrections that do something should do harm when they are turned round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from steering.correction import AnyCorrection, LogitCorrection


def opposite(corrections: Iterable[AnyCorrection]) -> tuple[AnyCorrection, ...]:
    """The same corrections with c of the other sign, behind the same gates:

    - `Set` reflects, h becomes 2h - target: as far from the target again, on the other side;
    - `Scale(f)` becomes `Scale(2 - f)`: zeroing turns into doubling (a reciprocal would have no answer to it);
    - `Shift(v)` becomes `Shift(-v)`;
    - `Project` doubles the subspace that it would have removed;
    - `SparseWeights` takes dW away from the weights instead of adding it;
    - contrasts at the logits, `LensContrast` and `LayerContrast`, have no opposite and are left out: below a = 0 they
      are the identity. What is empty then has no canary.
    """
    return tuple(replace(c, strength=-c.strength) for c in corrections if not isinstance(c, LogitCorrection))
