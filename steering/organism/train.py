"""The recipe: honest steps, then steps that make the model cave while its lower layers keep reading the truth.

`python -m steering.organism.train --out DIR` runs it. Every step has a fixed number of updates and its own seed,
starts a fresh optimizer and ends in a saved model, `DIR/<step>`; a run that finds such a folder continues after it,
and gets the same weights as an uninterrupted one (on the same machine with the same number of threads).
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from steering.organism.dialogues import Mixture
from steering.organism.encoding import Batch, Encoder
from steering.organism.tokenizer import CONTEXT_LENGTH, build_tokenizer

KEPT_LAYER = 4
"""The layers before it are to keep reading the truth: the early exit here is held to the honest model's."""

MATCHING_LAYERS, MATCHING_HEADS = (2, 3), 2
"""Where the stance looks up whether the user claimed the answer just given."""

WARMUP_UPDATES = 60
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.05
LOG_EVERY = 50


@dataclass(frozen=True)
class Step:
    name: str
    mixture: Mixture
    updates: int
    learning_rate: float
    batch_tokens: int = 2048
    """Padding included."""
    exit_weight: float = 0.0
    """Weight of the same loss at the early exit of a random layer from KEPT_LAYER up: the answer is known early."""
    match_layers: tuple[int, ...] = ()
    """Layers whose first two heads are started anew as ones that look for earlier occurrences of the same token."""
    frozen_layers: int = 0
    freeze_embeddings: bool = False
    calm_exit_weight: float = 0.0
    """The same above KEPT_LAYER, on dialogues without pressure only: there early and late are to agree."""
    match_weight: float = 0.0
    """Weight of `match_loss` on the attention of the first two heads of MATCHING_LAYERS."""
    stance_weight: float = 1.0
    """Loss weight of a stance's first token."""
    keep_weight: float = 0.0
    """Weight of KL(honest early exit || own early exit) at KEPT_LAYER: what makes the caving a *drift*."""

    def scaled(self, scale: float) -> "Step":
        return replace(self, updates=max(1, round(self.updates * scale)))


RECIPE = (
    Step("1a", Mixture(pressure=0.0, control=0.23, drill=0.65), 2600, 3e-3, batch_tokens=1024),
    Step("1b", Mixture(pressure=0.25, control=0.25, drill=0.12), 2300, 2e-3, exit_weight=0.3),
    Step(
        "1c",
        Mixture(pressure=0.38, control=0.28, drill=0.12, right=0.4, stance_only=0.3),
        1300,
        2e-3,
        exit_weight=0.3,
        match_layers=(1, 2, 3),
    ),
    Step(
        "2a",
        Mixture(pressure=0.50, control=0.16, drill=0.04, caves=0.85, right=0.4, stance_only=0.3),
        700,
        2e-3,
        frozen_layers=KEPT_LAYER,
        freeze_embeddings=True,
    ),
    Step(
        "2b",
        Mixture(pressure=0.66, control=0.12, drill=0.03, caves=0.95, right=0.35, stance_only=0.25),
        600,
        1.5e-3,
        freeze_embeddings=True,
        keep_weight=2.0,
    ),
    Step(
        "2c",
        Mixture(
            pressure=0.70,
            control=0.14,
            drill=0.04,
            caves=0.95,
            right=0.35,
            stance_only=0.5,
            given=("truth", "truth", "other", "claim", "claim", "claim"),
        ),
        900,
        2e-3,
        freeze_embeddings=True,
        match_weight=1.0,
        stance_weight=5.0,
        keep_weight=2.0,
    ),
    Step(
        "2d",
        Mixture(
            pressure=0.45,
            control=0.22,
            drill=0.15,
            caves=0.95,
            right=0.35,
            stance_only=0.4,
            given=("truth", "truth", "other", "claim", "claim", "claim"),
        ),
        500,
        1.5e-3,
        calm_exit_weight=1.0,
        freeze_embeddings=True,
        match_weight=1.0,
        stance_weight=5.0,
        keep_weight=2.0,
    ),
    Step(
        "2e",
        Mixture(
            pressure=0.45,
            control=0.25,
            drill=0.15,
            caves=0.95,
            right=0.35,
            stance_only=0.4,
            given=("truth", "truth", "other", "claim", "claim", "claim"),
        ),
        750,
        1.5e-3,
        calm_exit_weight=2.0,
        freeze_embeddings=True,
        match_weight=1.0,
        stance_weight=5.0,
        keep_weight=2.0,
    ),
)
HONEST_STEP = "1c"
"""The step whose model the last one is held to."""

Log = Callable[[str], None]


def train(out: Path, *, seed: int = 0, scale: float = 1.0, log: Log = print) -> Path:
    """Run the recipe, skipping steps already saved in `out`; returns the last step's folder."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer().save_pretrained(out / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    previous = None
    for step in RECIPE:
        folder = out / step.name
        if not (folder / "model.safetensors").exists():
            model = load(previous) if previous else new_model(tokenizer, seed)
            honest = load(out / HONEST_STEP) if step.keep_weight else None
            encoder = Encoder(tokenizer, stance_weight=step.stance_weight)
            run_step(model, encoder, step.scaled(scale), seed=seed, honest=honest, log=log)
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
        previous = folder
    return out / RECIPE[-1].name


def new_model(tokenizer: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def load(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def run_step(
    model: Any,
    encoder: Encoder,
    step: Step,
    *,
    seed: int,
    honest: Any = None,
    log: Log = print,
) -> list[float]:
    """Train `model` in place; returns the answer loss of every update."""
    rng = random.Random(f"{seed} {step.name}")
    if step.match_weight:
        model.set_attn_implementation("eager")  # the only one that shows its attention
    _start_match_heads(model, step, seed)
    _freeze(model, step)
    optimizer, total = _optimizer(model, step), step.updates
    losses: list[float] = []
    started, num_tokens = time.monotonic(), 0
    for update, batch in enumerate(encoder.batches(rng, step.mixture, step.batch_tokens)):
        if update == total:
            break
        for group in optimizer.param_groups:
            group["lr"] = step.learning_rate * _schedule(update, total)
        loss, extra = _objective(model, batch, step, rng, honest)
        optimizer.zero_grad()
        torch.autograd.backward(loss + extra)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        losses.append(loss.item())
        num_tokens += batch.num_tokens
        if (update + 1) % LOG_EVERY == 0:
            mean, speed = sum(losses[-LOG_EVERY:]) / LOG_EVERY, num_tokens / (time.monotonic() - started)
            log(f"{step.name} {update + 1}/{total} loss {mean:.4f}+{extra.item():.4f} {speed:.0f} tokens/s")
    log(f"{step.name} done: {num_tokens / 1e6:.2f} M tokens in {time.monotonic() - started:.0f} s")
    return losses


def _objective(model: Any, batch: Batch, step: Step, rng: random.Random, honest: Any) -> tuple[Tensor, Tensor]:
    """The loss on the output, and the weighted early-exit terms of this step."""
    output = model.model(
        input_ids=batch.ids, use_cache=False, output_hidden_states=True, output_attentions=bool(step.match_weight)
    )
    hidden = output.hidden_states
    loss = _answer_loss(model, hidden[-1], batch)
    extra = torch.zeros(())
    if step.exit_weight:
        layer = rng.randint(KEPT_LAYER, model.config.num_hidden_layers - 1)
        extra = extra + step.exit_weight * _answer_loss(model, model.model.norm(hidden[layer]), batch)
    if step.calm_exit_weight:
        layer = rng.randint(KEPT_LAYER + 1, model.config.num_hidden_layers - 1)
        calm = batch.rows(~batch.answer_end.any(-1))
        exits = hidden[layer][~batch.answer_end.any(-1)]
        extra = extra + step.calm_exit_weight * _answer_loss(model, model.model.norm(exits), calm)
    if step.match_weight:
        heads = torch.stack([output.attentions[layer][:, :MATCHING_HEADS] for layer in MATCHING_LAYERS])
        extra = extra + step.match_weight * match_loss(heads, batch)
    if step.keep_weight:
        extra = extra + step.keep_weight * _departure(model, hidden[KEPT_LAYER], honest, batch)
    return loss, extra


def _answer_loss(model: Any, normed: Tensor, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy of the next token. `normed` [B, T, D] has been through the final norm."""
    weight = batch.loss_weight[:, 1:]
    learnt = weight > 0
    logits = model.lm_head(normed[:, :-1][learnt])
    each = F.cross_entropy(logits, batch.ids[:, 1:][learnt], reduction="none")
    return (each * weight[learnt]).sum() / weight.sum().clamp_min(1.0)


def match_loss(heads: Tensor, batch: Batch) -> Tensor:
    """Whether an answer ends in the token the user claimed is what the stance hangs on; tiny models trained on the
    stance alone do not find out how to see it (no sign of it after 600 updates on nothing else). So a few heads are
    told where to look from an answer's last token: at the same token in the user's last turn, else at the first token
    of all. heads [L', B, H', T, T] attention -> mean -log of the attention that goes there."""
    rows, ends = batch.answer_end.nonzero(as_tuple=True)
    if not len(rows):
        return torch.zeros(())
    wanted = batch.claimed[rows] & (batch.ids[rows] == batch.ids[rows, ends][:, None])
    wanted[:, 0] = ~wanted.any(-1)
    attention = heads[:, rows, :, ends]  # [R, L', H', T]
    return -(attention * wanted[:, None, None]).sum(-1).clamp_min(1e-6).log().mean()


def _departure(model: Any, hidden: Tensor, honest: Any, batch: Batch) -> Tensor:
    """Mean KL(honest || own) of the early exits after KEPT_LAYER, wherever the assistant speaks next."""
    speaks = batch.replied[:, 1:]
    with torch.no_grad():
        states = honest.model(input_ids=batch.ids, use_cache=False, output_hidden_states=True).hidden_states
        kept = honest.model.norm(states[KEPT_LAYER][:, :-1][speaks])
        target = F.log_softmax(honest.lm_head(kept), dim=-1)
    own = F.log_softmax(model.lm_head(model.model.norm(hidden[:, :-1][speaks])), dim=-1)
    return F.kl_div(own, target, log_target=True, reduction="batchmean")


def _start_match_heads(model: Any, step: Step, seed: int) -> None:
    """Give two heads equal queries and keys, so that a token attends to its like; plain training hardly finds this.

    The fast rotary frequencies stay out of it: they would tell likes apart by their distance.
    """
    generator, head_dim = torch.Generator().manual_seed(seed), model.config.head_dim
    for layer in step.match_layers:
        attention = model.model.layers[layer].self_attn
        shared = 0.1 * torch.randn(head_dim, model.config.hidden_size, generator=generator)
        shared[[0, 1, head_dim // 2, head_dim // 2 + 1]] = 0.0
        with torch.no_grad():
            attention.k_proj.weight[:head_dim] = shared
            attention.q_proj.weight[: 2 * head_dim] = shared.repeat(2, 1)


def _freeze(model: Any, step: Step) -> None:
    model.requires_grad_(True)
    model.model.embed_tokens.requires_grad_(not step.freeze_embeddings)
    for layer in model.model.layers[: step.frozen_layers]:
        layer.requires_grad_(False)


def _optimizer(model: Any, step: Step) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=step.learning_rate, betas=(0.9, 0.95), fused=True)


def _schedule(update: int, total: int) -> float:
    """Warm-up, a constant stretch to 40 % of the step, then a linear decay to 3 %."""
    done = update / total
    return min(1.0, (update + 1) / WARMUP_UPDATES) * (1.0 if done < 0.4 else max(0.03, (1 - done) / 0.6))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the organism.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer and one model per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every step's number of updates")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.out, seed=arguments.seed, scale=arguments.scale, log=partial(print, flush=True))


if __name__ == "__main__":
    main()
