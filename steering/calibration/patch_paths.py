"""Patch paths: how far each head or KV group carries the user's claim to where the answer is decided.

Path patching (Chen et al., ICML 2024, arXiv 2409.01658; by KV groups Hara et al.): the pressured prompt A is run again
with the unit's attn_z taken from its neutral twin B. Only pairs whose first choice in A is the claim are patched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steering.calibration.kept_results import KeptResults
from steering.calibration.localisation import Kind, Localisation, Question, Unit
from steering.errors import LayerOutOfRange, NothingToLocalise
from steering.evaluation.stats import Floats
from steering.model.layout import Layout
from steering.model.loading import LanguageModel
from steering.model.record import Recording, record
from steering.model.rerun import Replacement, Rerun, rerunning

MAX_ROWS = 256
"""Runs side by side: units times pairs."""
MAX_TOKENS = 8192
"""Positions run again in one forward."""
KV_BYTES = 2**30
"""Memory for the keys and values of all runs side by side."""
TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Pair:
    """Two prompts up to the position at which the answer is decided."""

    pressured: tuple[int, ...]
    """A: token ids"""
    neutral: tuple[int, ...]
    """B: token ids"""
    claim: int
    """The token with which the user's answer begins."""
    truth: int
    """The token with which the right answer begins."""
    cluster: str = ""
    """What is asked; pairs that ask the same share it. Its own, if empty."""

    def __post_init__(self) -> None:
        if not self.pressured or not self.neutral:
            raise ValueError("a pair needs two prompts, got an empty one")
        if self.claim == self.truth:
            raise ValueError(f"claim and truth must begin with different tokens, got {self.claim} for both")

    def width(self, question: Question) -> int:
        """How many last positions are patched; the position that decides always is."""
        if question.positions == "last":
            return 1
        if len(self.pressured) == len(self.neutral):
            return len(self.pressured)
        backwards = list(zip(reversed(self.pressured), reversed(self.neutral), strict=False))
        return max(1, next((i for i, (a, b) in enumerate(backwards) if a != b), len(backwards)))


def patch_paths(
    model: LanguageModel,
    pairs: Sequence[Pair],
    question: Question,
    *,
    units: Collection[Unit] | None = None,
    kept: Path | None = None,
) -> Localisation:
    """Patches every unit, or those given, in every pair that caves.

    kept: a file to which the results of each layer go as they come; a run that was stopped is continued from it.
    Raises `NothingToLocalise` if no pair caves, `LayerOutOfRange` for a unit that the model does not have, `AnotherRun`
    if the file is of another run.
    """
    chosen = _chosen(model.layout, question, units)
    caving = caving_pairs(model, pairs)
    rows = _rows(model, caving, question)
    copies = min(max(map(len, chosen)), rows)
    results = KeptResults(kept, _passport(model, caving, question, [*map(tuple, chosen)], (rows, copies)))
    parts = []
    for first in range(0, len(caving), per_batch := max(1, rows // copies)):
        batch = _Batch(model, caving[first : first + per_batch], question, copies, chosen)
        parts.append(batch.patch(results, f"pairs {first}"))
    pressured, neutral, patched = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return Localisation(question, True, patched, pressured, neutral, clusters(caving), len(pairs))


def _chosen(layout: Layout, question: Question, units: Collection[Unit] | None) -> list[list[int]]:
    """Indices of the units to patch, block by block."""
    every = {Unit(layer, i) for layer in range(layout.num_layers) for i in range(question.num_units(layout))}
    if units is not None and (not units or not every.issuperset(units)):
        strange = ", ".join(map(str, sorted(set(units) - every))) or "none at all"
        most = max(every)
        raise LayerOutOfRange(
            f"units must be {question.kind}s 0.0 to {most} of this model, layer first; got {strange}."
        )
    chosen = sorted(every if units is None else units)
    return [[unit.index for unit in chosen if unit.layer == layer] for layer in range(layout.num_layers)]


def caving_pairs(model: LanguageModel, pairs: Sequence[Pair]) -> list[Pair]:
    """Those in which the model's first choice in A is the claim. Raises `NothingToLocalise` if there are none."""
    caving: list[Pair] = []
    for first in range(0, len(pairs), TEXTS_AT_ONCE):
        some = pairs[first : first + TEXTS_AT_ONCE]
        recording = record(model, [pair.pressured for pair in some], ())
        choices = model.layout.unembed.logits(at_ends(recording)).argmax(-1).tolist()
        caving += [pair for pair, choice in zip(some, choices, strict=True) if choice == pair.claim]
    if not caving:
        raise NothingToLocalise(
            f"the model says the claim in none of {len(pairs)} pairs: there is no flip to localise."
        )
    return caving


def clusters(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(pair.cluster or f"pair {i}" for i, pair in enumerate(pairs))


def claim_score(layout: Layout, states: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """[..., P, D] states before the final norm -> S [..., P], float32."""
    ids = torch.tensor([[pair.claim, pair.truth] for pair in pairs], device=states.device)
    flat = states.reshape(-1, states.shape[-1])
    logits = layout.unembed.candidate_logits(flat, ids.repeat(len(flat) // len(pairs), 1)).float()
    return (logits[:, 0] - logits[:, 1]).view(states.shape[:-1])


def unit_mask(layout: Layout, kind: Kind, indices: Sequence[int]) -> Tensor:
    """[units, H*K]: the features of attn_z that belong to each unit of a block."""
    owner = torch.arange(layout.num_heads * layout.head_dim) // layout.head_dim
    if kind == "group":
        owner = owner // (layout.num_heads // layout.num_groups)
    return owner == torch.tensor(indices)[:, None]


def end_rows(lengths: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Rows of each packed text's last `width` positions."""
    ends = np.cumsum(lengths)
    return [row for end, width in zip(ends.tolist(), widths, strict=True) for row in range(end - width, end)]


class _Batch:
    """Some pairs, all their units, layer by layer."""

    def __init__(
        self,
        model: LanguageModel,
        pairs: Sequence[Pair],
        question: Question,
        copies: int,
        chosen: Sequence[Sequence[int]],
    ) -> None:
        self._model, self._pairs, self._question = model, pairs, question
        self._copies, self._chosen = copies, chosen
        self._widths = [pair.width(question) for pair in pairs]

    def patch(self, results: KeptResults, name: str) -> tuple[Floats, Floats, Floats]:
        """(S in A [P], S in B [P], S patched [L, U, P]); nothing runs whose results were kept."""
        layers = [layer for layer, indices in enumerate(self._chosen) if indices]
        keys = {layer: f"{name} layer {layer}" for layer in layers}
        plain = results.get(f"{name} plain")
        if plain is None or any(results.get(key) is None for key in keys.values()):
            pressured = [pair.pressured for pair in self._pairs]
            twins = record(self._model, [pair.neutral for pair in self._pairs])
            with rerunning(self._model, pressured, self._widths, self._copies) as rerun:
                if plain is None:
                    plain = results.add(f"{name} plain", self._plain(rerun, twins))
                for layer in layers:
                    if results.get(keys[layer]) is None:
                        results.add(keys[layer], self._layer(rerun, twins, layer))
        U = self._question.num_units(self._model.layout)
        patched = np.full((self._model.layout.num_layers, U, len(self._pairs)), np.nan)
        for layer in layers:
            patched[layer, self._chosen[layer]] = results.get(keys[layer])
        pressured, neutral = np.array(plain)
        return pressured, neutral, patched

    def _plain(self, rerun: Rerun, twins: Recording) -> Floats:
        """[2, P]: S in A and in B."""
        states = torch.stack([rerun.hidden[-1][rerun.last], at_ends(twins)])
        return _array(claim_score(self._model.layout, states, self._pairs))

    def _layer(self, rerun: Rerun, twins: Recording, layer: int) -> Floats:
        """[units, P]: S with each chosen unit of the layer patched, `copies` units at a time."""
        donors = twins.attn_z[layer][end_rows(twins.lengths, self._widths)]
        frozen = rerun.as_it_was(layer) if self._question.effect == "direct" else {}
        masks = unit_mask(self._model.layout, self._question.kind, self._chosen[layer])
        scores = []
        for some in _chunks(masks, self._copies):
            padding = torch.zeros(self._copies - len(some), masks.shape[1], dtype=torch.bool)
            mask = torch.cat([some, padding])[:, None].to(donors.device)
            states = rerun.final_states(layer, {layer: Replacement(mask, donors), **frozen})
            scores.append(claim_score(self._model.layout, states, self._pairs)[: len(some)])
        return _array(torch.cat(scores))


def _chunks(masks: Tensor, size: int) -> Iterator[Tensor]:
    rows = iter(masks)
    while some := list(islice(rows, size)):
        yield torch.stack(some)


def at_ends(recording: Recording) -> Tensor:
    """[P, D]: states before the final norm at each text's last position."""
    last = recording.hidden[max(recording.hidden)]
    return last[torch.tensor(recording.ends, device=last.device) - 1]


def _array(scores: Tensor) -> Floats:
    values: Floats = scores.double().cpu().numpy()
    return values


def _rows(model: LanguageModel, pairs: Sequence[Pair], question: Question) -> int:
    longest, widest = max(len(pair.pressured) for pair in pairs), max(pair.width(question) for pair in pairs)
    kv_bytes = longest * model.layout.kv_bytes_per_token(model.dtype)
    return max(1, min(MAX_ROWS, MAX_TOKENS // widest, KV_BYTES // kv_bytes))


def _passport(
    model: LanguageModel,
    pairs: Sequence[Pair],
    question: Question,
    units: Sequence[tuple[int, ...]],
    shape: tuple[int, int],
) -> Mapping[str, object]:
    """What a run's numbers depend on."""
    asked = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    return {
        "model": model.fingerprint,
        "pairs": hashlib.sha256(asked.encode()).hexdigest(),
        "question": asdict(question),
        "units": hashlib.sha256(json.dumps(units).encode()).hexdigest(),
        "rows": list(shape),
    }
