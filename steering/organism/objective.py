"""What a training step minimises: the replies, early exits, and where a few heads look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from steering.organism.encoding import Batch
from steering.organism.recipe import COPYING_LAYERS, KEPT_LAYER, MATCHING_LAYERS, Step

States = tuple[Tensor, ...]
"""hidden_states[0 .. L], [B, T, D], all before the final norm."""


def read_states(model: Any, batch: Batch, depth: int | None = None) -> States:
    """Hidden states of packed dialogues, up to what comes out of `depth` blocks; all if None."""
    base, mask = model.model, batch.mask()
    h = base.embed_tokens(batch.ids)
    rope = base.rotary_emb(h, batch.positions)
    states = [h]
    for layer in base.layers[:depth]:
        h = layer(h, attention_mask=mask, position_ids=batch.positions, position_embeddings=rope, use_cache=False)
        states.append(h)
    return tuple(states)


def loss_terms(
    model: Any, states: States, batch: Batch, step: Step, exits: tuple[int, int], honest: Tensor | None
) -> dict[str, Tensor]:
    """The weighted terms of one update.

    exits: this update's layers for `exit_weight` and `calm_exit_weight`; honest: what `early_exit` gives for the
    honest model, [S, V].
    """
    terms = {"answer": answer_loss(model, states[-1], batch, batch.loss_weight)}
    if step.exit_weight:
        terms["exit"] = step.exit_weight * answer_loss(model, states[exits[0]], batch, batch.loss_weight)
    if step.calm_exit_weight:
        weight = batch.loss_weight * batch.calm
        terms["calm exit"] = step.calm_exit_weight * answer_loss(model, states[exits[1]], batch, weight)
    if step.match_weight:
        terms["match"] = step.match_weight * match_loss(model, states, batch)
    if step.copy_weight:
        terms["copy"] = step.copy_weight * copy_loss(model, states, batch)
    if honest is not None:
        own = early_exit(model, states[KEPT_LAYER], batch)
        departure = F.kl_div(own, honest, log_target=True, reduction="batchmean")  # KL(honest || own)
        terms["keep"] = step.keep_weight * departure
    return terms


def answer_loss(model: Any, hidden: Tensor, batch: Batch, loss_weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the next token, read from `hidden` [B, T, D] by the final norm."""
    weight = loss_weight[:, 1:]
    learnt = weight > 0
    logits = model.lm_head(model.model.norm(hidden[:, :-1][learnt]))
    each = F.cross_entropy(logits.float(), batch.ids[:, 1:][learnt], reduction="none")
    return (each * weight[learnt]).sum() / weight.sum().clamp_min(1.0)


def match_loss(model: Any, states: States, batch: Batch) -> Tensor:
    """Whether an answer ends in the token the user claimed is what the stance hangs on; tiny models trained on the
    stance alone do not find out how to see it (no sign of it after 600 updates on nothing else). So a few heads are
    told where to look from an answer's last token: at the same token in what the user said last, else at the
    dialogue's first token."""
    rows, ends = batch.answer_end.nonzero(as_tuple=True)
    own = batch.dialogue[rows] == batch.dialogue[rows, ends][:, None]
    asked = batch.asked[rows] & own & (batch.turn[rows] == batch.turn[rows, ends][:, None])
    wanted = asked & (batch.ids[rows] == batch.ids[rows, ends][:, None])
    first = own & (batch.positions[rows] == 0)
    wanted = torch.where(wanted.any(-1, keepdim=True), wanted, first)
    return _look_loss(model, states, batch, _Look(MATCHING_LAYERS, 0, rows, ends, wanted))


def copy_loss(model: Any, states: States, batch: Batch) -> Tensor:
    """Looking up who of several lives where is not learnt from answers alone in the time there is: replies name
    somebody and then guess among the places mentioned. So a few heads are told where the next token stands."""
    rows, places = (batch.source >= 0).nonzero(as_tuple=True)
    wanted = torch.arange(batch.ids.shape[1]) == batch.source[rows, places][:, None]
    return _look_loss(model, states, batch, _Look(COPYING_LAYERS, 1, rows, places, wanted))


@dataclass(frozen=True)
class _Look:
    """Where the heads of one KV group are to look from R places."""

    layers: Sequence[int]
    group: int
    rows: Tensor
    """[R]"""
    places: Tensor
    """[R]"""
    wanted: Tensor
    """[R, T] bool"""


def _look_loss(model: Any, states: States, batch: Batch, look: _Look) -> Tensor:
    """Mean -log of the attention paid to the wanted places."""
    if not len(look.rows):
        return torch.zeros(())
    own = batch.dialogue[look.rows] == batch.dialogue[look.rows, look.places][:, None]
    seen = own & (torch.arange(own.shape[1]) <= look.places[:, None])
    terms = []
    for layer in look.layers:
        scores = _scores(model, model.model.layers[layer], states[layer], batch.positions, look)
        attention = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
        terms.append(-(attention * look.wanted[:, None]).sum(-1).clamp_min(1e-6).log().mean())
    return torch.stack(terms).mean()


def _scores(model: Any, block: Any, hidden: Tensor, positions: Tensor, look: _Look) -> Tensor:
    """[R, heads, T] attention scores of the group's heads in one block, which is given `hidden` [B, T, D]."""
    K, heads = model.config.head_dim, model.config.num_attention_heads // model.config.num_key_value_heads
    x, first = block.input_layernorm(hidden), look.group * heads * K
    q = F.linear(x, block.self_attn.q_proj.weight[first : first + heads * K]).view(*x.shape[:2], heads, K)
    k = F.linear(x, block.self_attn.k_proj.weight[look.group * K : (look.group + 1) * K]).view(*x.shape[:2], 1, K)
    rope = model.model.rotary_emb(x, positions)
    q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *rope)  # [B, heads, T, K], [B, 1, T, K]
    scores: Tensor = torch.einsum("rhk,rtk->rht", q[look.rows, :, look.places], k[look.rows, 0]) / K**0.5
    return scores


def early_exit(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """[S, V] log-probabilities read from hidden states [B, T, D] wherever the assistant speaks next, S places."""
    speaks = batch.replied[:, 1:]
    return F.log_softmax(model.lm_head(model.model.norm(hidden[:, :-1][speaks])).float(), dim=-1)
