"""Record: what it keeps equals what plain transformers computes, one text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steering.engine.engine import Engine
from steering.errors import ContextLengthExceeded
from steering.model.record import record
from tests.models import FAMILY_FIELDS, tiny_model

TEXTS = ([5, 9, 17, 300, 4], [8], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50])


@torch.no_grad()
def plain(model: Any, text: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Oracle: hidden states before the final norm, inputs of o_proj and of down_proj, by stock forward and hooks."""
    states: list[torch.Tensor] = []
    z: list[torch.Tensor] = []
    act: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, a, out: states.append(out[0])) for block in model.hf.model.layers]
    handles += [
        block.self_attn.o_proj.register_forward_pre_hook(lambda m, args: z.append(args[0][0]))
        for block in model.hf.model.layers
    ]
    handles += [
        block.mlp.down_proj.register_forward_pre_hook(lambda module, args: act.append(args[0][0]))
        for block in model.hf.model.layers
        if hasattr(block.mlp, "down_proj")
    ]
    model.hf(input_ids=torch.tensor([text]), use_cache=False)
    for handle in handles:
        handle.remove()
    return states, z, act


@pytest.mark.parametrize("family", FAMILY_FIELDS)
def test_equals_plain_forward_of_each_text(family: str) -> None:
    model = tiny_model(family)
    oracle = [plain(model, text) for text in TEXTS]
    recording = record(model, TEXTS, ("attn_z", "mlp_act"))
    assert recording.ends == [5, 6, 17]
    for layer in range(model.layout.num_layers):
        expected_hidden = torch.cat([states[layer] for states, _, _ in oracle])
        expected_z = torch.cat([z[layer] for _, z, _ in oracle])
        torch.testing.assert_close(recording.hidden[layer + 1], expected_hidden, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(recording.attn_z[layer], expected_z, rtol=1e-4, atol=1e-4)
    assert len(recording.mlp_act) == len(oracle[0][2])
    for i, layer in enumerate(recording.mlp_act):
        expected_act = torch.cat([act[i] for _, _, act in oracle])
        torch.testing.assert_close(recording.mlp_act[layer], expected_act, rtol=1e-4, atol=1e-4)


def test_keeps_what_was_asked_for_alone() -> None:
    model = tiny_model()
    heads, mlps = record(model, TEXTS), record(model, TEXTS, ("mlp_act",))
    assert (len(heads.attn_z), len(heads.mlp_act), len(heads.hidden)) == (4, 0, 5)
    assert (len(mlps.attn_z), len(mlps.mlp_act), len(mlps.hidden)) == (0, 4, 5)


def test_a_text_beyond_the_context_is_refused() -> None:
    model = tiny_model(max_position_embeddings=8)
    record(model, [[5] * 8])
    with pytest.raises(ContextLengthExceeded, match=r"has 9 tokens; .* context is 8"):
        record(model, [[5, 6], [5] * 9])


def test_leaves_model_and_engine_as_they_were() -> None:
    model = tiny_model()
    engine = Engine(model)
    before = model.hf.config._attn_implementation
    record(model, TEXTS)
    assert model.hf.config._attn_implementation == before
    engine.close()
    logits = model.hf(input_ids=torch.tensor([TEXTS[0]])).logits
    assert torch.equal(logits, tiny_model().hf(input_ids=torch.tensor([TEXTS[0]])).logits)
