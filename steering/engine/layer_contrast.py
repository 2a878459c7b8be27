"""Layer contrast: the output against early layers at the sampled positions of a step, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from steering.engine.detector import ReadOut, fired, logit_doses, together
from steering.engine.runner import Forward
from steering.engine.sequence import Sequence
from steering.lens import Unembed


def layer_contrasts(
    sequences: tuple[Sequence, ...], forward: Forward, readouts: Several[ReadOut], unembed: Unembed
) -> list[tuple[Tensor, Tensor]]:
    """(rows [R], what to add to their logits [R, V], float32) of the layer contrasts in use, those of one edit at once;
    the logits stay as they are. Only the rows that carry one are in it."""
    groups = together(() if s.is_exempt else s.request.plan.layer_contrasts for s in sequences)
    device, deltas = forward.logits.device, list[tuple[Tensor, Tensor]]()
    if not groups:
        return []
    over = _fired(readouts, len(sequences), device)
    for edit, carrying in groups:
        index = torch.tensor([row for row, _ in carrying], device=device)
        doses = logit_doses([(sequences[row], c) for row, c in carrying], over[index])
        early = (_read(forward, layer, index, unembed) for layer in edit.bucket)
        deltas.append((index, edit.delta(early, forward.logits[index].float(), doses)))
    return deltas


def _fired(readouts: Several[ReadOut], num_rows: int, device: torch.device) -> Tensor:
    """[n] bool: rows whose drift is over their threshold."""
    over = torch.zeros(num_rows, dtype=torch.bool, device=device)
    for readout in readouts:
        over[torch.tensor(readout.rows, device=device)] = fired(readout)
    return over


def _read(forward: Forward, layer: int, index: Tensor, unembed: Unembed) -> Tensor:
    """[R, V] logits of the logit lens."""
    hidden = forward.early[layer]
    logits = unembed.logits(hidden)[index] if forward.fixed_rows else unembed.logits(hidden[index])
    return logits.float()
