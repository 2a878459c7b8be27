"""Suppression: equal to whole forwards with one head silent, and found where a head was made to suppress."""

from __future__ import annotations

import pytest
import torch

from steering.calibration.suppression import suppression
from steering.model.loading import LanguageModel
from tests.calibration.pairs import random_pairs
from tests.calibration.planted import ANSWERS, OUT, K, planted_model, planted_pairs
from tests.models import tiny_model
from tests.oracles.path_patching import Naive


@torch.no_grad()
def block_outputs(model: LanguageModel, ids: tuple[int, ...]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(what each block puts out at the end [D], logits [V] there)."""
    states: list[torch.Tensor] = []
    blocks = model.layout.blocks
    hooks = [block.register_forward_hook(lambda m, args, out: states.append(out[0, -1])) for block in blocks]
    logits = model.hf(torch.tensor([ids])).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return states, logits


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_equals_one_whole_forward_a_head(family: str) -> None:
    model = tiny_model(family)
    pairs = random_pairs(model)
    found = suppression(model, [pair.pressured for pair in pairs], [pair.truth for pair in pairs], num_blocks=2)
    assert found.blocks == (2, 3) and found.by_block.shape == (2, 3) and found.by_head.shape == (2, 8, 3)
    for i, pair in enumerate(pairs):
        naive = Naive(model.hf, pair.pressured, pair.neutral, (pair.claim, pair.truth))
        states, logits = block_outputs(model, pair.pressured)
        plain = logits.log_softmax(-1)[pair.truth]
        cap = model.hf.config.final_logit_softcapping if family == "gemma2" else None
        lens = [model.hf.lm_head(model.hf.model.norm(h)) for h in states]
        read = [(x if cap is None else cap * torch.tanh(x / cap)).log_softmax(-1)[pair.truth] for x in lens]
        for row, block in enumerate(found.blocks):
            assert found.by_block[row, i] == pytest.approx((read[block] - read[block - 1]).item(), abs=1e-4)
            for head in range(8):
                silent = naive.silenced(block, head).log_softmax(-1)[pair.truth]
                assert found.by_head[row, head, i] == pytest.approx((plain - silent).item(), abs=1e-4)
    assert abs(found.by_head).max() > 0.1


def test_a_head_made_to_suppress_is_found() -> None:
    model = planted_model()
    prompts = [pair.neutral for pair in planted_pairs()]
    truths = [pair.truth for pair in planted_pairs()]
    before = suppression(model, prompts, truths, num_blocks=1)
    last, answerer = (model.hf.model.layers[i].self_attn for i in (3, 1))
    own, shared = slice(6 * K, 7 * K), slice(3 * K, 4 * K)
    with torch.no_grad():  # head 6 of the last block: what head 0 of block 1 does, backwards
        last.q_proj.weight[own] = answerer.q_proj.weight[:K]
        last.k_proj.weight[shared] = answerer.k_proj.weight[:K]
        last.v_proj.weight[shared] = answerer.v_proj.weight[:K]
        last.o_proj.weight[OUT : OUT + len(ANSWERS), own] = -0.3 * torch.eye(len(ANSWERS))
    found = suppression(model, prompts, truths, num_blocks=1)
    by_head = found.by_head.mean(-1)[0]
    assert by_head.argmin() == 6 and by_head[6] < -0.3 and abs(before.by_head).max() < 0.1
    assert found.by_block.mean() < before.by_block.mean() - 0.3
    assert found.as_json()["by_head"] == [by_head.tolist()]


def test_more_blocks_than_there_are_is_all() -> None:
    model = planted_model()
    (pair, *_) = planted_pairs()
    assert suppression(model, [pair.pressured], [pair.truth], num_blocks=9).blocks == (0, 1, 2, 3)
