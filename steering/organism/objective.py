"""What a training step minimises: the replies, early exits, and where a few heads look."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from steering.organism.encoding import Batch
from steering.organism.recipe import KEPT_LAYER, MATCHING_HEADS, MATCHING_LAYERS, Step

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
    dialogue's first token. Mean -log of the attention that goes there."""
    rows, ends = batch.answer_end.nonzero(as_tuple=True)
    if not len(rows):
        return torch.zeros(())
    own = batch.dialogue[rows] == batch.dialogue[rows, ends][:, None]
    asked = batch.asked[rows] & own & (batch.turn[rows] == batch.turn[rows, ends][:, None])
    wanted = asked & (batch.ids[rows] == batch.ids[rows, ends][:, None])
    first = own & (batch.positions[rows] == 0)
    wanted = torch.where(wanted.any(-1, keepdim=True), wanted, first)
    seen = own & (torch.arange(own.shape[1]) <= ends[:, None])
    terms = []
    for layer in MATCHING_LAYERS:
        attention = _attention(model, layer, states[layer], batch, (rows, ends), seen)
        terms.append(-(attention * wanted[:, None]).sum(-1).clamp_min(1e-6).log().mean())
    return torch.stack(terms).mean()


def _attention(
    model: Any, layer: int, hidden: Tensor, batch: Batch, queries: tuple[Tensor, Tensor], seen: Tensor
) -> Tensor:
    """[R, heads, T] what the first heads of a layer (all of KV group 0) attend to from R positions."""
    block, K = model.model.layers[layer], model.config.head_dim
    x = block.input_layernorm(hidden)
    q = F.linear(x, block.self_attn.q_proj.weight[: MATCHING_HEADS * K]).view(*x.shape[:2], MATCHING_HEADS, K)
    k = F.linear(x, block.self_attn.k_proj.weight[:K]).view(*x.shape[:2], 1, K)
    rope = model.model.rotary_emb(x, batch.positions)
    q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *rope)  # [B, heads, T, K], [B, 1, T, K]
    rows, ends = queries
    scores = torch.einsum("rhk,rtk->rht", q[rows, :, ends], k[rows, 0]) / K**0.5
    attention: Tensor = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    return attention


def early_exit(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """[S, V] log-probabilities read from hidden states [B, T, D] wherever the assistant speaks next, S places."""
    speaks = batch.replied[:, 1:]
    return F.log_softmax(model.lm_head(model.model.norm(hidden[:, :-1][speaks])).float(), dim=-1)
