"""Find drift: read-outs against a plain forward, and the onset on made-up layers whose drift is known."""

from __future__ import annotations

import pytest
import torch

from steering.calibration.data import first_token
from steering.calibration.find_drift import LayerReads, find_onset, read_layers
from steering.contrast.item import OPENING, Item
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.chat import encode_chat
from tests.models import tiny_model

N = 120
CLUSTERS = [str(i // 2) for i in range(N)]


def reads(truth_by_layer: list[float], noise: float = 0.05) -> LayerReads:
    """Layers whose P(truth) is as given; the truth is token 1, the claim token 2."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor(truth_by_layer)[:, None] + noise * torch.randn(len(truth_by_layer), N, generator=generator)
    top = torch.where(truth > 0.5, 1, 2)
    return LayerReads(truth.clamp(0, 1), top, torch.zeros_like(top), torch.ones(N).long(), torch.full((N,), 2))


@pytest.mark.parametrize(
    ("truth", "best", "onset"),
    [
        ([0.2, 0.5, 0.8, 0.78, 0.5, 0.2], 3, 4),  # hidden state 5 has lost it: block 4 did that
        ([0.2, 0.9, 0.3, 0.3, 0.3, 0.3], 2, 2),
        ([0.1, 0.2, 0.9, 0.9, 0.9, 0.9], 3, None),  # nothing lost
        ([0.1, 0.1, 0.45, 0.3, 0.3, 0.3], 3, None),  # never read
        ([0.3, 0.5, 0.7, 0.6, 0.58, 0.56], 3, None),  # a loss, but too small
    ],
)
def test_onset_is_the_block_that_loses_the_truth(truth: list[float], best: int, onset: int | None) -> None:
    made_up = reads(truth)
    assert made_up.best_layer == best
    assert find_onset(made_up, CLUSTERS) == onset


def test_a_loss_that_could_be_chance_is_no_onset() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(4, 8, generator=generator).round()
    top = torch.where(truth > 0.5, 1, 2)
    few = LayerReads(truth, top, top, torch.ones(8).long(), torch.full((8,), 2))
    assert find_onset(few, [str(i) for i in range(8)]) is None


def test_of_equally_good_layers_the_lowest() -> None:
    assert reads([0.1, 0.9, 0.9, 0.9, 0.1], noise=0.0).best_layer == 2


@torch.no_grad()
def test_reads_what_a_plain_forward_and_plain_lenses_read() -> None:
    model = tiny_model()
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(64, 64, generator=generator) / 16, torch.randn(64, generator=generator)
    lenses: dict[int, Lens] = {
        1: LogitLens(1),
        2: TunedLens(2, weight, bias),
        3: LogitLens(3),
    }
    items = [
        Item("q", "wrong_claim", ({"role": "user", "content": f"What is {i}? I think it is Lyon."},), truth, "Lyon", "")
        for i, truth in enumerate(("Paris", "Rome", "Oslo"))
    ]
    got = read_layers(model, lenses, items)
    for column, item in enumerate(items):
        ids = encode_chat(model, item.messages) + model.tokenizer.encode(OPENING, add_special_tokens=False)
        hidden = model.hf(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states = [hidden.hidden_states[i][0, -1] for i in (1, 2, 3)]
        states[1] = states[1] + weight @ states[1] + bias
        logits = [model.hf.lm_head(model.hf.model.norm(h)) for h in states] + [hidden.logits[0, -1]]
        for row, expected in enumerate(logits):
            probs = expected.softmax(-1)
            assert got.truth[row, column].item() == pytest.approx(
                probs[first_token(model, item.truth)].item(), rel=1e-3
            )
            assert got.top[row, column] == probs.argmax()
            order = logits[-1].argsort(descending=True).tolist()
            assert got.rank[row, column] == order.index(probs.argmax().item())
    assert (got.top[0] != got.top[-1]).any()
    assert got.top_is_candidate(got.output, 1) == 1.0
