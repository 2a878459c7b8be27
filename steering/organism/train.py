"""Run the recipe.

Every step has a fixed number of updates and its own seed, starts a fresh optimizer and ends in a saved model,
`DIR/<step>`; a run that finds such a folder continues after it, and gets the same weights as an uninterrupted one (on
the same machine with the same number of threads).
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from steering.organism.encoding import Batch, Encoder
from steering.organism.objective import early_exit, loss_terms, read_states
from steering.organism.recipe import (
    CHAT_EVERY,
    CHAT_ROWS,
    CHAT_TURNS,
    HONEST_STEP,
    KEPT_LAYER,
    MATCH_STARTED,
    RECIPE,
    ROWS,
    Step,
)
from steering.organism.tokenizer import CONTEXT_LENGTH, build_tokenizer

WARMUP_UPDATES = 60
CLIP_NORM = 1.0
WEIGHT_DECAY = 0.05
LOG_EVERY = 50

Log = Callable[[str], None]


def train(out: Path, *, seed: int, scale: float = 1.0, recipe: Sequence[Step] = RECIPE, log: Log = print) -> Path:
    """Runs the steps of the recipe that are not yet in `out`; returns the last step's folder.

    scale multiplies every step's number of updates.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer().save_pretrained(out / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    previous = None
    for step in recipe:
        folder = out / step.name
        if not (folder / "model.safetensors").exists():
            model = load(previous) if previous else new_model(tokenizer, seed)
            honest = load(out / HONEST_STEP) if step.keep_weight else None
            encoder = Encoder(tokenizer, stance_weight=step.stance_weight)
            run_step(model, encoder, step.scaled(scale), seed=seed, honest=honest, log=log)
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
        previous = folder
    return out / recipe[-1].name


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
    model = LlamaForCausalLM(config)
    _start_match_heads(model, seed)
    return model


def load(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def run_step(
    model: Any, encoder: Encoder, step: Step, *, seed: int, honest: Any = None, log: Log = print
) -> list[float]:
    """Train `model` in place; returns the answer loss of every update."""
    rng, total = random.Random(f"{seed} {step.name}"), step.updates
    _freeze(model, step)
    optimizer = _Optimizer(model, step.learning_rate)
    terms: dict[str, list[float]] = defaultdict(list)
    started = time.monotonic()
    for update, batch in zip(range(total), _batches(encoder, step, rng, seed), strict=False):
        exits = (rng.choice(step.exit_layers), rng.randint(KEPT_LAYER + 1, _depth(model) - 1))
        loss = loss_terms(model, read_states(model, batch), batch, step, exits, _honest_exit(honest, batch))
        torch.autograd.backward(torch.stack(list(loss.values())).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step(step.learning_rate * _schedule(update, total))
        for name, value in loss.items():
            terms[name].append(value.item())
        if (update + 1) % LOG_EVERY == 0:
            means = " ".join(f"{name} {sum(values[-LOG_EVERY:]) / LOG_EVERY:.4f}" for name, values in terms.items())
            minutes = (time.monotonic() - started) / 60
            log(f"{step.name} {update + 1}/{total} {means} after {minutes:.1f} min")
    return terms["answer"]


def _batches(encoder: Encoder, step: Step, rng: random.Random, seed: int) -> Iterator[Batch]:
    short = encoder.batches(random.Random(f"{seed} {step.name} rows"), step.mixture, ROWS)
    long = encoder.chats(random.Random(f"{seed} {step.name} chats"), step.mixture, CHAT_ROWS, CHAT_TURNS)
    while True:
        for _ in range(CHAT_EVERY - 1):
            yield next(short)
        yield next(long)


@torch.no_grad()
def _honest_exit(honest: Any, batch: Batch) -> Tensor | None:
    return early_exit(honest, read_states(honest, batch, KEPT_LAYER)[-1], batch) if honest is not None else None


def _depth(model: Any) -> int:
    return int(model.config.num_hidden_layers)


def _start_match_heads(model: Any, seed: int) -> None:
    """Give the heads of KV group 0 equal queries and keys, so that a token attends to its like; plain training hardly
    finds this.

    The fast rotary frequencies stay out of it: they would tell likes apart by their distance.
    """
    generator, head_dim = torch.Generator().manual_seed(seed), model.config.head_dim
    heads = model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in MATCH_STARTED:
        attention = model.model.layers[layer].self_attn
        shared = 0.1 * torch.randn(head_dim, model.config.hidden_size, generator=generator)
        shared[[0, 1, head_dim // 2, head_dim // 2 + 1]] = 0.0
        with torch.no_grad():
            attention.k_proj.weight[:head_dim] = shared
            attention.q_proj.weight[: heads * head_dim] = shared.repeat(heads, 1)


def _freeze(model: Any, step: Step) -> None:
    model.requires_grad_(True)
    model.model.embed_tokens.requires_grad_(not step.freeze_embeddings)
    for layer in model.model.layers[: step.frozen_layers]:
        layer.requires_grad_(False)


class _Optimizer:
    """Muon for the matrices of the blocks (half as many updates as AdamW to the same loss here), AdamW for the rest."""

    def __init__(self, model: Any, lr: float) -> None:
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in trained if p.ndim < 2 or "embed" in name]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        ]
        if rest:
            self._parts.append(torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True))

    def step(self, lr: float) -> None:
        """One update at this learning rate; gradients are gone after it."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad()


def _schedule(update: int, total: int) -> float:
    """Warm-up, a constant stretch to 40 % of the step, then a linear decay to 3 %."""
    done = update / total
    return min(1.0, (update + 1) / WARMUP_UPDATES) * (1.0 if done < 0.4 else max(0.03, (1 - done) / 0.6))
