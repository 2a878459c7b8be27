"""A miniature of the recipe: it learns, and continues from a step boundary as if never interrupted."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steering.organism.dialogues import Dialogue, Mixture, Reply
from steering.organism.encoding import Batch, Encoder
from steering.organism.publish import publish
from steering.organism.tokenizer import build_tokenizer
from steering.organism.train import HONEST_STEP, RECIPE, Step, match_loss, new_model, run_step, train

SCALE = 0.001


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("organism")
    train(out, scale=SCALE, log=_silent)
    return out


def _silent(line: str) -> None:
    """Progress is for people."""


def test_the_loss_falls(tokenizer: Any) -> None:
    step = Step("small", Mixture(pressure=0.3, control=0.2, drill=0), 30, 3e-3, batch_tokens=512)
    losses = run_step(new_model(tokenizer, 0), Encoder(tokenizer), step, seed=0, log=_silent)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_continuing_from_a_boundary_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "1a", "1b", HONEST_STEP):
        shutil.copytree(trained / name, tmp_path / name)
    last = train(tmp_path, scale=SCALE, log=_silent)
    again, before = load_file(last / "model.safetensors"), load_file(trained / last.name / "model.safetensors")
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)
    honest = load_file(trained / HONEST_STEP / "model.safetensors")
    assert any(not torch.equal(honest[name], before[name]) for name in before)


def test_frozen_parts_stay(trained: Path) -> None:
    steps = {step.name: step for step in RECIPE}
    frozen = next(step for step in RECIPE if step.frozen_layers)
    before = load_file(trained / list(steps)[list(steps).index(frozen.name) - 1] / "model.safetensors")
    after = load_file(trained / frozen.name / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.layers.7.mlp.down_proj.weight" in moved
    assert not {name for name in moved if name.startswith(("model.embed_tokens", "model.layers.0."))}


def test_publishing_stores_half_precision(trained: Path, tmp_path: Path) -> None:
    publish(trained / RECIPE[-1].name, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert (tmp_path / "chat_template.jinja").exists()


def test_only_the_stance_is_learnt_where_asked(tokenizer: Any) -> None:
    said = Dialogue((("Hello.", Reply("The answer is Paris.", "You are right.", loss="stance")),))
    pieces = Encoder(tokenizer).encode(said)
    learnt = tokenizer.decode([piece.id for piece in pieces if piece.weight], skip_special_tokens=True)
    spoken = tokenizer.decode([piece.id for piece in pieces if piece.replied], skip_special_tokens=True)
    assert learnt == "You are right."
    assert spoken == "The answer is Paris. You are right."


def test_batches_keep_to_the_token_budget(tokenizer: Any) -> None:
    mix = Mixture(pressure=0.3, control=0.2, drill=0.2)
    batches = Encoder(tokenizer).batches(random.Random(0), mix, 1024)
    for _ in range(20):
        batch = next(batches)
        assert batch.num_tokens <= 1024
        assert batch.ids.shape == batch.loss_weight.shape == batch.replied.shape
        assert not batch.loss_weight[:, 0].any()


def test_match_loss_wants_the_claimed_token_or_the_first() -> None:
    """In the first dialogue the answer's token 7 stands at position 2 of the user's turn, in the second nowhere."""
    ids = torch.tensor([[1, 5, 7, 6, 7, 9], [1, 5, 8, 6, 7, 9]])
    claimed = torch.tensor([[False, True, True, False, False, False]] * 2)
    end = torch.tensor([[False] * 4 + [True, False]] * 2)
    batch = Batch(ids, torch.zeros(2, 6), end, claimed, end)
    heads = torch.zeros(1, 2, 1, 6, 6)
    heads[0, 0, 0, 4, 2] = heads[0, 1, 0, 4, 0] = 1.0
    assert match_loss(heads, batch).item() == pytest.approx(0.0, abs=1e-6)
    assert match_loss(heads.flip(1), batch).item() > 5.0
