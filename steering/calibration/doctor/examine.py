"""Examine: run one model on both sides and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from steering.calibration.doctor import ours
from steering.calibration.doctor.agreement import (
    Check,
    Section,
    agree,
    agree_on_edit,
    agree_on_tokens,
    difference,
    is_effect,
    tolerance_of,
)
from steering.calibration.doctor.facts import facts, sliding_window
from steering.calibration.doctor.ours import Dosed, States
from steering.calibration.doctor.probe import MAX_TOKENS, edits, prompts, translators
from steering.calibration.doctor.reference import Reference
from steering.calibration.doctor.report import Report
from steering.edit import Edit
from steering.errors import UnsupportedModel
from steering.model.loading import LanguageModel
from steering.site import Site

NUM_CANDIDATES = 64
STRONGEST = 16.0
"""An edit too weak to be seen is doubled, up to this many times itself."""


def examine(model: LanguageModel) -> Report:
    """Every check on a loaded model. Raises `UnsupportedModel` where the reference cannot run it."""
    start, run = time.monotonic(), _Examination(model)
    checks = [
        *_attempt("taps", run.taps),
        *_attempt("lens", run.lenses),
        *_attempt("edits", run.edits),
        *_attempt("generation", run.answers),
    ]
    return Report(model.name, facts(model), run.tolerance, checks, time.monotonic() - start)


def _attempt(section: Section, checks: Callable[[], Iterator[Check]]) -> list[Check]:
    """Whatever our side raises on an unknown model is a finding."""
    try:
        return list(checks())
    except UnsupportedModel:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return [Check(section, "our side", None, None, False, reason)]


class _Examination:
    """Both sides of one model."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.tolerance = model, tolerance_of(model.dtype, model.quantized)
        self.reference = Reference(model)
        self.prompts = prompts(model, sliding_window(model))
        seen = [self.reference.states(prompt) for prompt in self.prompts]
        self.theirs, self.logits = [states for states, _ in seen], seen[0][1]

    @cached_property
    def mine(self) -> list[States]:
        return ours.states(self.model, self.prompts)

    def taps(self) -> Iterator[Check]:
        """The embeddings and every site, all prompts."""
        mine, theirs = (torch.cat([states.hidden[0].cpu() for states in side]) for side in (self.mine, self.theirs))
        yield agree("taps", "embeddings", None, (mine, theirs), self.tolerance)
        for component in self.theirs[0].sites:
            for layer in self.theirs[0].sites[component]:
                if layer not in self.mine[0].sites[component]:
                    yield Check("taps", component, layer, None, False, "no tap here")
                    continue
                mine, theirs = (
                    torch.cat([states.sites[component][layer].cpu() for states in side])
                    for side in (self.mine, self.theirs)
                )
                yield agree("taps", component, layer, (mine, theirs), self.tolerance)

    def lenses(self) -> Iterator[Check]:
        """Every layer of the first prompt: the whole vocabulary, and candidates as a detector reads them. The last
        state must give the model's own logits. Both sides read the reference's states; ours are compared as taps."""
        model, hidden, last = self.model, self.theirs[0].hidden, self.model.layout.num_layers
        for layer, h in enumerate(hidden):
            expected = self.logits if layer == last else self.reference.logit_lens(h, layer)
            yield agree(
                "lens", "logit lens", layer, (ours.lens_logits(model, h, layer, None), expected), self.tolerance
            )
        candidates = self.logits.topk(min(NUM_CANDIDATES, self.logits.shape[-1])).indices
        tuned = translators(hidden[:last], seed=0)
        by_layer = list(zip(hidden, tuned, self.reference.tuned_lenses(hidden[:last], tuned), strict=False))
        for layer, (h, translator, expected) in enumerate(by_layer):
            found = ours.lens_logits(model, h, layer, translator)
            yield agree("lens", "tuned lens", layer, (found, expected), self.tolerance)
        for layer, (h, translator, expected) in enumerate(by_layer):
            found = ours.candidate_logits(model, h, layer, translator, candidates)
            yield agree("lens", "candidates", layer, (found, expected.gather(-1, candidates)), self.tolerance)

    def edits(self) -> Iterator[Check]:
        """Every kind at every site of the first, a middle and the last block, all in one batch with an unedited row."""
        prompt, plain, last = self.prompts[0], self.logits[-1], self.model.layout.num_layers - 1
        named: list[tuple[str, Dosed]] = []
        expected = [plain]
        for component, layers in self.theirs[0].sites.items():
            made = {layer: edits(layers[layer], seed=layer) for layer in sorted({0, last // 2, last} & layers.keys())}
            for kind in ("set", "scale", "shift", "project"):
                for layer, by_kind in made.items():
                    dosed, logits = self._visible(Site(component, layer), by_kind[kind])
                    named.append((f"{kind} {component}", dosed))
                    expected.append(logits)
        rows = ours.edited_logits(self.model, prompt, [dosed for _, dosed in named])
        yield agree("edits", "none", None, (rows[:1], plain[None]), self.tolerance)
        for (what, dosed), row, logits in zip(named, rows[1:], expected[1:], strict=True):
            yield agree_on_edit(what, dosed.site.layer, (row[None], logits[None]), plain[None], self.tolerance)

    def _visible(self, site: Site, edit: Edit) -> tuple[Dosed, Tensor]:
        """The edit, as strong as it takes to move the logits, and the reference's logits under it."""
        dosed = Dosed(site, edit, 1.0)
        while True:
            logits = self.reference.edited_logits(self.prompts[0], dosed)
            effect = difference(logits[None], self.logits[-1:]).relative
            if dosed.c >= STRONGEST or is_effect(effect, self.tolerance):
                return dosed, logits
            dosed = Dosed(site, edit, 2 * dosed.c)

    def answers(self) -> Iterator[Check]:
        """Greedy answers to all prompts, ours side by side."""
        mine = ours.greedy(self.model, self.prompts, MAX_TOKENS)
        for prompt, ids in zip(self.prompts, mine, strict=True):
            expected, logits = self.reference.greedy(prompt, MAX_TOKENS)
            yield agree_on_tokens(prompt.name, ids, expected, logits, self.tolerance)
