"""What the engine must compute, written the slow way on a stock Hugging Face model.

One sequence, no cache, no batching: every token re-runs the whole sequence under plain forward hooks. The mathematics
is METHODS' own and shares no code with `steering`; of plans and edits only the fields are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steering.correction import Correction, LogitCorrection
from steering.edit import Edit, LayerContrast, Project, Scale, Set, Shift
from steering.lens import TunedLens
from steering.plan import Detector, Plan


@dataclass(frozen=True)
class Position:
    """One sampled position."""

    token_id: int
    """Most probable token."""
    logprobs: Tensor
    """[V] after all corrections"""
    base_logprobs: Tensor
    """[V] of the first pass, before corrections at the logits and before a retry"""
    drift: float | None
    early: dict[int, float]
    """Candidate -> log-probability of the early answer among the candidates, in the first pass"""
    late: dict[int, float]
    """The same of the late answer"""
    early_logprobs: Tensor | None
    """[V] of the early answer in the first pass, over the whole vocabulary"""
    late_steered: bool
    """A correction acted in the first pass already."""
    fired: bool
    """A gate opened here (or would have: mode observe, no corrections)."""
    retried: bool
    steered: bool


@torch.no_grad()
def answer(
    hf: PreTrainedModel,
    prompt_ids: Sequence[int],
    plan: Plan,
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    forced: Sequence[int] = (),
    exempt: Collection[int] = (),
) -> list[Position]:
    """Greedy answer; a stop token ends it and is its last position. forced: what it begins with, whatever is most
    probable; exempt: indices of its tokens at whose positions nothing acts and nothing is read."""
    run = _Run(hf, plan, list(prompt_ids), frozenset(exempt))
    positions: list[Position] = []
    while len(positions) < max_tokens:
        positions.append(run.next_position())
        if positions[-1].token_id in stop_ids:
            break
        run.ids.append(forced[len(positions) - 1] if len(positions) <= len(forced) else positions[-1].token_id)
    return positions


class _Run:
    """One answer under way. A gate is known by its correction's index in the plan."""

    def __init__(self, hf: PreTrainedModel, plan: Plan, ids: list[int], exempt: frozenset[int]) -> None:
        self.exempt = exempt
        self.hf, self.plan, self.ids, self.num_prompt = hf, plan, ids, len(ids)
        self.hidden = list(enumerate(plan.corrections))
        self.at_logits = list(enumerate(plan.logit_corrections, start=len(plan.corrections)))
        self.detector = None if plan.mode == "off" else plan.detector
        self.exits: dict[int, Tensor] = {}
        """Layer -> [V] logits of the logit lens, of the last forward; only of layers in a bucket."""
        self.latched: set[int] = set()
        self.opened: list[set[int]] = []
        """Per sampled position, the drift gates that were open when it was committed."""

    def next_position(self) -> Position:
        self.opened.append(set(self.latched))
        early, late = self._forward()
        base, late_steered = late.log_softmax(-1), any(self._dose(i, c, -1) != 0 for i, c in self.hidden)
        detector = self.detector
        bits: float | None = None
        read: tuple[dict[int, float], dict[int, float]] = ({}, {})
        whole = None if early is None else early.log_softmax(-1)
        fired = retried = False
        if detector is not None and early is not None and len(self.opened) - 1 not in self.exempt:
            bits, read = _drift(early, late, detector), _among_candidates(early, late, detector)
            if bits > detector.threshold:
                fired, retried = self._open_gates()
        if retried:
            early, late = self._forward()
        logprobs = late.log_softmax(-1)
        contrasts = [(a, c) for i, c in self.at_logits if (a := min(max(self._dose(i, c, -1), 0.0), 1.0)) > 0]
        if contrasts:
            logprobs = (logprobs + sum(self._contrast(a, c, early, late) for a, c in contrasts)).log_softmax(-1)
        steered = bool(contrasts) or any(self._dose(i, c, -1) != 0 for i, c in self.hidden)
        outcome = (late_steered, fired, retried, steered)
        return Position(int(logprobs.argmax()), logprobs, base, bits, *read, whole, *outcome)

    def _contrast(self, a: float, correction: LogitCorrection, early: Tensor | None, late: Tensor) -> Tensor:
        edit = correction.edit
        if isinstance(edit, LayerContrast):
            return _dola({layer: self.exits[layer] for layer in edit.bucket}, late, a, edit.plausibility)
        assert early is not None and self.detector is not None
        return _contrast(early, late, a, edit.plausibility, self.detector.num_candidates)

    def _open_gates(self) -> tuple[bool, bool]:
        """The gates of this position open, and stay so if they latch: (did any, must the forward run again)."""
        corrections: list[tuple[int, Correction | LogitCorrection]] = [*self.hidden, *self.at_logits]
        shut = [(i, c) for i, c in corrections if c.gate.kind == "drift" and i not in self.latched]
        self.opened[-1] |= {i for i, _ in shut}
        self.latched |= {i for i, c in shut if c.gate.latch}
        changed = [c for i, c in shut if isinstance(c, Correction) and self._dose(i, c, -1) != 0]
        return bool(shut) or not corrections, bool(changed)

    def _dose(self, index: int, correction: Correction | LogitCorrection, position: int) -> float:
        """c at one position of the sequence; -1 is the last, which is being sampled."""
        if self.plan.mode != "on":
            return 0.0
        position %= len(self.ids)
        sampled = position - (self.num_prompt - 1)
        if ("completion" if sampled >= 0 else "prompt") not in correction.gate.phases:
            return 0.0
        if sampled in self.exempt:
            return 0.0
        if correction.gate.kind == "drift" and (sampled < 0 or index not in self.opened[sampled]):
            return 0.0
        return self.plan.strength * correction.strength

    def _forward(self) -> tuple[Tensor | None, Tensor]:
        """(early logits or None, late logits), [V] each, at the last position."""
        layers, read = self.hf.model.layers, dict[int, Tensor]()
        by_site: dict[tuple[str, int], list[tuple[Tensor, Edit]]] = {}
        for index, correction in self.hidden:
            c = torch.tensor([self._dose(index, correction, p) for p in range(len(self.ids))])[:, None]
            key = (correction.site.component, correction.site.layer)
            by_site.setdefault(key, []).append((c, correction.edit))
        with ExitStack() as hooks:
            for (component, layer), doses in by_site.items():
                hooks.enter_context(_corrected(layers[layer], component, doses))
            buckets = {layer for _, c in self.at_logits for layer in getattr(c.edit, "bucket", ())}
            for layer in buckets | ({self.detector.lens.layer} if self.detector else set()):
                hooks.enter_context(_hook(layers[layer].register_forward_pre_hook(_remember(read, layer))))
            late: Tensor = self.hf(torch.tensor([self.ids]), use_cache=False).logits[0, -1]
        self.exits = {layer: _logits(self.hf, read[layer]) for layer in buckets}
        return (_early_logits(self.hf, self.detector, read[self.detector.lens.layer]) if self.detector else None), late


def _remember(read: dict[int, Tensor], layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """hidden_states[i] is what block i receives."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read[layer] = args[0][0, -1].clone()

    return hook


@contextmanager
def _hook(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _corrected(block: nn.Module, component: str, doses: list[tuple[Tensor, Edit]]) -> Iterator[None]:
    def new(h: Tensor) -> Tensor:
        return h + sum(c * _delta(edit, h) for c, edit in doses)

    if component == "resid_post":
        handle = block.register_forward_hook(lambda module, args, output: new(output))
    else:
        linear = block.get_submodule("self_attn.o_proj" if component == "attn_z" else "mlp.down_proj")
        handle = linear.register_forward_pre_hook(lambda module, args: (new(args[0]),))
    with _hook(handle):
        yield


def _delta(edit: Edit, h: Tensor) -> Tensor:
    match edit:
        case Set(target, mask):
            return mask.to(h.dtype) * (target - h)
        case Scale(factor):
            return factor * h - h
        case Shift(vector):
            return torch.ones_like(h) * vector
        case Project(basis):
            return -torch.stack([(h * row).sum(-1, keepdim=True) * row for row in basis]).sum(0)


def _early_logits(hf: PreTrainedModel, detector: Detector, h: Tensor) -> Tensor:
    """[D] -> [V], over the whole vocabulary."""
    if isinstance(detector.lens, TunedLens):
        h = h + torch.mv(detector.lens.weight, h) + detector.lens.bias
    return _logits(hf, h)


def _logits(hf: PreTrainedModel, h: Tensor) -> Tensor:
    logits: Tensor = hf.lm_head(hf.model.norm(h))
    cap = getattr(hf.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _candidates(late: Tensor, count: int) -> Tensor:
    return late.argsort(descending=True)[:count]


def _drift(early: Tensor, late: Tensor, detector: Detector) -> float:
    """Jensen-Shannon in bits of the two full distributions, each conditioned on the candidates."""
    C = _candidates(late, detector.num_candidates)
    p, q = early.double().softmax(-1)[C], late.double().softmax(-1)[C]
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    bits: Tensor = ((p * (p / m).log2()).nansum() + (q * (q / m).log2()).nansum()) / 2
    return bits.item()


def _among_candidates(early: Tensor, late: Tensor, detector: Detector) -> tuple[dict[int, float], dict[int, float]]:
    C = _candidates(late, detector.num_candidates)
    sides = ((side.log_softmax(-1) - side.log_softmax(-1)[C].logsumexp(-1))[C].tolist() for side in (early, late))
    one, other = (dict(zip(C.tolist(), side, strict=True)) for side in sides)
    return one, other


def _contrast(early: Tensor, late: Tensor, a: float, beta: float, count: int) -> Tensor:
    """[V] what log p_L + a (log p_E|C - log p_L|C) adds to log p_L; the plausible candidates keep their mass."""
    C = _candidates(late, count)
    log_early, log_late = early[C].log_softmax(-1), late[C].log_softmax(-1)
    plausible = log_late >= log_late.max() + math.log(beta) if beta > 0 else torch.ones_like(log_late, dtype=torch.bool)
    C, log_early, log_late = C[plausible], log_early[plausible], log_late[plausible]
    moved = log_late + a * (log_early - log_late)
    moved = moved - moved.logsumexp(-1) + log_late.logsumexp(-1)
    return torch.zeros_like(late).index_put((C,), moved - log_late)


def _dola(exits: dict[int, Tensor], late: Tensor, a: float, beta: float) -> Tensor:
    """[V] what DoLa adds to log p_L: minus log p_j of the farthest exit by Jensen-Shannon; -inf where p_L is small."""
    p = late.double().softmax(-1)

    def distance(layer: int) -> float:
        q = exits[layer].double().softmax(-1)
        m = (p + q) / 2
        js: Tensor = (p * (p / m).log()).nansum() / 2 + (q * (q / m).log()).nansum() / 2
        return js.item()

    premature = exits[max(exits, key=distance)].log_softmax(-1)
    return torch.where(p >= beta * p.max(), -a * premature, -math.inf)
