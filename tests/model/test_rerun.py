"""Rerun: from any block on it is the plain model; it reads nothing of earlier runs, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from steering.errors import ContextLengthExceeded
from steering.model.record import record
from steering.model.rerun import Replacement, rerunning
from tests.models import FAMILY_FIELDS, tiny_model

TEXTS = ([5, 9, 17, 300, 4, 7], [40, 41], list(range(60, 92)))
"""The last is longer than the windows of tiny models."""
COPIES = 3


@pytest.mark.parametrize("widths", [[1, 1, 1], [4, 2, 20]], ids=["last", "more"])
@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_from_every_block_it_is_the_plain_model(family: str, widths: list[int]) -> None:
    model = tiny_model(family)
    plain = record(model, TEXTS)
    rows = [r for end, width in zip(plain.ends, widths, strict=True) for r in range(end - width, end)]
    expected = plain.hidden[4][torch.tensor(plain.ends) - 1].expand(COPIES, -1, -1)
    with rerunning(model, TEXTS, widths, COPIES) as rerun:
        for layer in range(4):
            torch.testing.assert_close(rerun.hidden[layer], plain.hidden[layer][rows], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(rerun.attn_z[layer], plain.attn_z[layer][rows], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(rerun.final_states(layer, {}), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("widths", [[1, 1, 1], [4, 2, 20]], ids=["last", "more"])
def test_a_run_sees_nothing_of_the_one_before(widths: list[int]) -> None:
    model = tiny_model()
    with rerunning(model, TEXTS, widths, COPIES) as rerun:
        before = rerun.final_states(1, {})
        noise = Replacement(torch.ones(1, 1, 1, dtype=torch.bool), torch.full((1, 1, 64), 9.0))
        disturbed = rerun.final_states(0, dict.fromkeys(range(4), noise))
        assert (disturbed - before).abs().max() > 1
        assert torch.equal(rerun.final_states(1, {}), before)


def test_each_copy_has_its_own_replacement() -> None:
    model = tiny_model()
    masks = torch.zeros(COPIES, 1, 64, dtype=torch.bool)
    masks[1, :, :8] = True
    with rerunning(model, TEXTS, [1, 1, 1], COPIES) as rerun:
        plain = rerun.final_states(2, {})
        states = rerun.final_states(2, {2: Replacement(masks, torch.zeros(1, 1, 1))})
        alone = rerun.final_states(2, {2: Replacement(masks[1], torch.zeros(1, 1, 1))})
    assert torch.equal(states[0], plain[0]) and torch.equal(states[2], plain[2])
    torch.testing.assert_close(states[1], alone[0], rtol=1e-4, atol=1e-4)
    assert (states[1] - plain[1]).abs().amax(-1).min() > 1e-2


def test_kept_as_it_was_later_attention_does_not_answer() -> None:
    model = tiny_model()
    noise = Replacement(torch.ones(1, 1, 1, dtype=torch.bool), torch.full((1, 1, 64), 9.0))
    with rerunning(model, TEXTS, [1, 1, 1], 1) as rerun:
        assert sorted(rerun.as_it_was(1)) == [2, 3]
        free, kept = rerun.final_states(1, {1: noise}), rerun.final_states(1, {1: noise, **rerun.as_it_was(1)})
        assert (free - kept).abs().max() > 0.1
        assert torch.equal(rerun.final_states(1, rerun.as_it_was(1)), rerun.final_states(1, {}))


def test_leaves_the_model_as_it_was() -> None:
    model, ids = tiny_model(), torch.tensor([TEXTS[0]])
    before, attention = model.hf(ids).logits, model.hf.config._attn_implementation
    with pytest.raises(RuntimeError, match="on purpose"), rerunning(model, TEXTS, [1, 1, 1], 2) as rerun:
        rerun.final_states(0, {})
        raise RuntimeError("on purpose")
    assert torch.equal(model.hf(ids).logits, before)
    assert model.hf.config._attn_implementation == attention
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules())


def test_a_text_beyond_the_context_is_refused() -> None:
    model = tiny_model(max_position_embeddings=8)
    with pytest.raises(ContextLengthExceeded, match="has 9 tokens"), rerunning(model, [[5] * 9], [1], 1):
        pass
