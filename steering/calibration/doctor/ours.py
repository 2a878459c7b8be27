"""Our side: the hooks and the engine that serve, asked for what they see and do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.calibration.doctor.probe import Prompt
from steering.correction import Correction
from steering.edit import Edit
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.gate import Gate
from steering.lens import Lens, LogitLens, TunedLens, full_readout
from steering.model.layout import LinearUnembed
from steering.model.loading import LanguageModel
from steering.model.record import record
from steering.plan import Plan
from steering.site import Component, Site


@dataclass(frozen=True)
class States:
    """What the sites of a model hold while it reads one prompt of T tokens."""

    hidden: tuple[Tensor, ...]
    """hidden_states[0..L], [T, D]: 0 = embeddings, i = output of block i-1, before the final norm"""
    sites: dict[Component, dict[int, Tensor]]
    """component -> block -> [T, W]; blocks without the site are absent"""


@dataclass(frozen=True)
class Dosed:
    """An edit at a site, c times: h + c * delta(h) at every position."""

    site: Site
    edit: Edit
    c: float


def states(model: LanguageModel, prompts: Sequence[Prompt]) -> list[States]:
    """All prompts side by side in one forward, as the engine would run them."""
    recording = record(model, [prompt.ids for prompt in prompts], ("attn_z", "mlp_act"))
    seen = []
    for end, length in zip(recording.ends, recording.lengths, strict=True):
        own = slice(end - length, end)
        hidden = tuple(recording.hidden[i][own] for i in range(len(recording.hidden)))
        sites: dict[Component, dict[int, Tensor]] = {
            "resid_post": dict(enumerate(hidden[1:])),
            "attn_z": {layer: z[own] for layer, z in recording.attn_z.items()},
            "mlp_act": {layer: a[own] for layer, a in recording.mlp_act.items()},
        }
        seen.append(States(hidden, sites))
    return seen


Translator = tuple[Tensor, Tensor]
"""A [D, D] and b [D] of a tuned lens."""


@torch.no_grad()
def lens_logits(model: LanguageModel, h: Tensor, layer: int, translator: Translator | None) -> Tensor:
    """[T, D] at lens layer `layer` -> [T, V]; without a translator the logit lens."""
    return full_readout(_lens(layer, translator), model.layout.unembed, h)


@torch.no_grad()
def candidate_logits(model: LanguageModel, h: Tensor, layer: int, translator: Translator, ids: Tensor) -> Tensor:
    """[T, D] at lens layer `layer`, [T, C] token ids -> [T, C]: the read-out of a detector."""
    return model.layout.unembed.candidate_logits(_lens(layer, translator).translate(h), ids)


def _lens(layer: int, translator: Translator | None) -> Lens:
    return LogitLens(layer) if translator is None else TunedLens(layer, *translator)


def edited_logits(model: LanguageModel, prompt: Prompt, doses: Sequence[Dosed]) -> Tensor:
    """[1 + len(doses), V] logits of the last position: first without an edit, then under each; all in one batch."""
    plans = [Plan(), *(_plan(dosed) for dosed in doses)]
    unembed = _KeptLogits(model.layout.unembed)
    num_rows, length = len(plans), len(prompt.ids)
    engine = Engine(
        replace(model, layout=replace(model.layout, unembed=unembed)),
        EngineConfig(max_rows=num_rows, context=length + 1, prefill_tokens=num_rows * length, queue=num_rows),
    )
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    try:
        engine.generate([Request(str(i), prompt.ids, sampling, plan) for i, plan in enumerate(plans)])
    finally:
        engine.close()
    return torch.cat(unembed.kept)


def _plan(dosed: Dosed) -> Plan:
    always = Gate(phases=frozenset({"prompt", "completion"}))
    return Plan(mode="on", corrections=(Correction("edit", dosed.site, dosed.edit, always, dosed.c),))


class _KeptLogits(LinearUnembed):
    """The unembedding of a model, remembering the logits of every step; it shares all state with the original."""

    def __init__(self, original: LinearUnembed) -> None:
        self.__dict__.update(vars(original))
        self.kept: list[Tensor] = []

    def normed_logits(self, normed: Tensor) -> Tensor:
        logits = super().normed_logits(normed)
        if len(logits):  # a step of prompts alone has no row to sample
            self.kept.append(logits.clone())
        return logits


def greedy(model: LanguageModel, prompts: Sequence[Prompt], max_tokens: int) -> list[list[int]]:
    """`max_tokens` tokens after each prompt, generated side by side; nothing stops an answer."""
    longest = max(len(prompt.ids) for prompt in prompts)
    engine = Engine(
        replace(model, stop_ids=frozenset()), EngineConfig(max_rows=len(prompts), context=longest + max_tokens)
    )
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    try:
        done = engine.generate([Request(prompt.name, prompt.ids, sampling) for prompt in prompts])
    finally:
        engine.close()
    errors = [completion.finish.error for completion in done if completion.finish.error]
    if errors:
        raise errors[0]
    return [[token.id for token in completion.tokens] for completion in done]
