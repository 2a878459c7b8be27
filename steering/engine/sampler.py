"""Sampler: logits -> token ids. A pure function: every row depends on its own logits, parameters and random number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steering.engine.request import SamplingParams

_BLOCK = 128
_WORTH_BLOCKS = 2**17
"""Logits from which on searching by blocks is quicker."""


def sample(
    logits: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    changed: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """logits [n, V] (finite), one SamplingParams and one uniform random number in [0, 1) per row -> token ids [n].

    changed: row -> float32 [V] logits that it is drawn from instead (`steering.engine.penalties`).
    Order: temperature, top-k, top-p, min-p, as transformers applies them; then the inverse of the cumulative
    distribution at the row's random number, so equal numbers draw equal tokens whatever else is in the batch.
    """
    token_ids, changed = _argmax(logits), changed or {}
    drawn = [i for i, p in enumerate(params) if not p.greedy]
    truncated = [i for i in drawn if params[i].top_k or params[i].top_p < 1.0 or params[i].min_p > 0.0]
    plain = [i for i in drawn if i not in truncated]
    for rows, draw in ((plain, _draw), (truncated, _draw_truncated)):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            chosen = [params[i] for i in rows]
            scores = logits[index].float()  # a copy: indexing by a tensor makes one
            for at, row in enumerate(rows):
                if row in changed:
                    scores[at] = changed[row]
            probs = (scores / _column([p.temperature for p in chosen], logits)).softmax(-1)
            # In float64: rounded to float32 a number just below 1 would draw the last, maybe impossible, token.
            numbers = torch.tensor([uniforms[i] for i in rows], dtype=torch.float64, device=logits.device)
            token_ids[index] = draw(probs, chosen, numbers[:, None])
    for row, scores in changed.items():
        if params[row].greedy:
            token_ids[row] = _argmax(scores[None])[0]
    return token_ids


def _argmax(logits: Tensor) -> Tensor:
    """`logits.argmax(-1)`, the first of ties too; on a CPU up to five times faster, since only `amax` is vectorised."""
    n, V = logits.shape
    if V % _BLOCK or logits.numel() < _WORTH_BLOCKS or logits.device.type != "cpu":
        return logits.argmax(-1)
    blocks = logits.view(n, V // _BLOCK, _BLOCK)
    best = blocks.amax(-1).argmax(-1)
    return best * _BLOCK + blocks[torch.arange(n), best].argmax(-1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """[n] numbers -> float32 [n, 1] on the device of `like`."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None].float()


def _draw(probs: Tensor, params: Sequence[SamplingParams], uniforms: Tensor) -> Tensor:
    """probs [R, V], uniforms [R, 1] -> ids [R] by inversion of the cumulative distribution."""
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    ids = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return ids.clamp_max(probs.shape[-1] - 1).squeeze(-1)


def _draw_truncated(probs: Tensor, params: Sequence[SamplingParams], uniforms: Tensor) -> Tensor:
    """The same over the tokens that top-k, top-p and min-p keep; the most probable one is always kept."""
    probs, order = probs.sort(stable=True, dim=-1, descending=True)
    V = probs.shape[-1]
    rank = torch.arange(V, device=probs.device)
    probs = torch.where(rank < _column([p.top_k or V for p in params], probs), probs, 0.0)
    before = probs.cumsum(-1) - probs
    reach = _column([p.top_p for p in params], probs) * probs.sum(-1, keepdim=True)
    keep = (before < reach) & (probs >= _column([p.min_p for p in params], probs) * probs[:, :1])
    ranks = _draw(torch.where(keep | (rank == 0), probs, 0.0), params, uniforms)
    token_ids: Tensor = order.gather(-1, ranks[:, None]).squeeze(-1)
    return token_ids
