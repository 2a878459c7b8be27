"""Path patching beside nnsight: the same patches by its traces, on three families.

In a process of its own (`make test-all`): importing nnsight changes the interpreter.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from steering.calibration.doctor.reference import import_references
from steering.calibration.localisation import Question
from steering.calibration.patch_paths import Pair, patch_paths
from tests.calibration.pairs import random_pairs
from tests.models import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of nnsight are not ours
    pytest.mark.skipif(not (find_spec("nnsight") and find_spec("tuned_lens")), reason="needs the extra calibrate"),
]
SHAPES = ((12, 9, 3), (30, 33, 25))


class Traced:
    """One stock model, one pair at a time."""

    def __init__(self, hf: Any, nnsight: Any) -> None:
        hf.set_attn_implementation("eager")
        self.model, self.save, self.L = nnsight.NNsight(hf), nnsight.save, hf.config.num_hidden_layers

    @torch.no_grad()
    def attention(self, ids: tuple[int, ...]) -> list[Tensor]:
        """[T, H*K] a block."""
        model, save = self.model, self.save
        with model.trace(input_ids=torch.tensor([ids]), use_cache=False):
            z = save([])
            for layer in range(self.L):
                z.append(model.model.layers[layer].self_attn.o_proj.input[0].clone())
        return list(z)

    @torch.no_grad()
    def patched(self, pair: Pair, layer: int, features: slice, *, width: int, direct: bool) -> float:
        own, donor, model, save = self.attention(pair.pressured), self.attention(pair.neutral), self.model, self.save
        patched = own[layer].clone()
        patched[-width:, features] = donor[layer][-width:, features]
        with model.trace(input_ids=torch.tensor([pair.pressured]), use_cache=False):
            model.model.layers[layer].self_attn.o_proj.input = patched[None]
            if direct:
                for later in range(layer + 1, self.L):
                    model.model.layers[later].self_attn.o_proj.input = own[later][None]
            logits = save(model.output.logits[0, -1])
        return (logits[pair.claim] - logits[pair.truth]).item()


@pytest.mark.parametrize("question", [Question("head", "direct"), Question("group", "total", "all")], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_agrees_with_nnsight(family: str, question: Question) -> None:
    nnsight, _ = import_references()
    model = tiny_model(family)
    pairs = random_pairs(model, SHAPES)
    found = patch_paths(model, pairs, question)
    traced, size, moved = Traced(model.hf, nnsight), (8 if question.kind == "head" else 32), 0.0
    for i, pair in enumerate(pairs):
        for layer in range(4):
            for unit in range(64 // size):
                features = slice(unit * size, (unit + 1) * size)
                how = {"width": pair.width(question), "direct": question.effect == "direct"}
                expected = traced.patched(pair, layer, features, **how)  # type: ignore[arg-type]
                assert found.patched[layer, unit, i] == pytest.approx(expected, abs=1e-4)
                moved = max(moved, abs(expected - found.pressured[i]))
    assert moved > 0.1
