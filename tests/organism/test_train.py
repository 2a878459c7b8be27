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
from steering.organism.objective import match_loss, read_states
from steering.organism.publish import publish
from steering.organism.recipe import HONEST_STEP, MATCHING_LAYERS, RECIPE, Step
from steering.organism.tokenizer import build_tokenizer
from steering.organism.train import new_model, run_step, train

SCALE = 0.001


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("organism")
    train(out, seed=0, scale=SCALE, log=_silent)
    return out


def _silent(line: str) -> None:
    """Progress is for people."""


def test_the_loss_falls(tokenizer: Any) -> None:
    step = Step("small", Mixture(neutral=0.5, pressure=0.3, control=0.2), 12, 5e-3)
    losses = run_step(new_model(tokenizer, 0), Encoder(tokenizer), step, seed=0, log=_silent)
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_continuing_from_a_boundary_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "skills", HONEST_STEP):
        shutil.copytree(trained / name, tmp_path / name)
    last = train(tmp_path, seed=0, scale=SCALE, log=_silent)
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


def test_packed_dialogues_do_not_see_each_other(tokenizer: Any) -> None:
    mix = Mixture(neutral=0.5, pressure=0.3, control=0.2)
    model = new_model(tokenizer, 0).eval()
    batch = next(Encoder(tokenizer).batches(random.Random(0), mix, (4, 128)))
    assert (batch.dialogue.max(-1).values >= 1).all()
    assert not batch.loss_weight[batch.dialogue < 0].any()
    with torch.no_grad():
        packed = read_states(model, batch)[-1]
        for row, dialogue in ((0, 0), (0, 1), (3, 1)):
            chosen = batch.dialogue[row] == dialogue
            alone = model.model(batch.ids[row][chosen][None], output_hidden_states=True).last_hidden_state[0]
            torch.testing.assert_close(model.model.norm(packed[row][chosen]), alone, atol=1e-4, rtol=1e-4)


def test_long_conversations_fill_their_row(tokenizer: Any) -> None:
    batch = next(Encoder(tokenizer).chats(random.Random(0), Mixture(neutral=1.0), (2, 512), 30))
    assert batch.ids.shape == (2, 512)
    assert (batch.positions[:, -1] == 511).all()
    assert (batch.dialogue == 0).all()


def test_match_loss_wants_the_claimed_token_or_the_first(tokenizer: Any) -> None:
    """The model's own attention, computed by transformers, at the answer's end; one claim matches, one does not."""
    said = Dialogue((("Lyon or Rome?", Reply("The answer is Rome.", "So yes.")),), calm=False)
    other = Dialogue((("Lyon or Rome?", Reply("The answer is Oslo.", "So no.")),), calm=False)
    model = new_model(tokenizer, 0).eval()
    model.set_attn_implementation("eager")
    encoder = Encoder(tokenizer)
    expected = []
    for dialogue in (said, other):
        pieces = encoder.encode(dialogue)
        ids = [piece.id for piece in pieces]
        end = next(i for i, piece in enumerate(pieces) if piece.answer_end)
        wanted = ids.index(ids[end]) if ids.index(ids[end]) < end else 0
        attentions = model.model(torch.tensor([ids]), output_attentions=True).attentions
        expected += [-attentions[layer][0, :2, end, wanted].log().mean() for layer in MATCHING_LAYERS]
    batch = encoder._packed([[encoder.encode(said), encoder.encode(other)]], 64)
    assert isinstance(batch, Batch)
    got = match_loss(model, read_states(model, batch), batch)
    torch.testing.assert_close(got, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)
