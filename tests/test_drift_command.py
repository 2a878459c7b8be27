"""`drift`: what it draws and writes for one model and for two, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import steering.cli
from steering.commands import drift as command
from tests.command_line import Outcome, unsway
from tests.models import byte_tokenizer, tiny_hf

PICTURES = ["drift-by-layer", "drift-over-answer", "forced-completion", "preference-over-answer"]


def run(*arguments: str) -> Outcome:
    return unsway("drift", *arguments, main=steering.cli.main)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    paths = [tmp_path_factory.mktemp("models") / name for name in ("one", "two")]
    for seed, path in enumerate(paths):
        tiny_hf("qwen3", seed).save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
    return str(paths[0]), str(paths[1])


def pictures(out: Path) -> list[str]:
    found = sorted(out.glob("*.png"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found)
    return [path.stem for path in found]


def test_the_bundled_model_by_default(tmp_path: Path) -> None:
    """The page's example: layer 4 reads Paris, the output says Lyon."""
    pytest.importorskip("matplotlib")
    outcome = run("--out", str(tmp_path))
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "drift.json").read_text())
    (found,) = document["models"].values()
    truth, claim = (np.array(found["decided"][side])[:, 0] for side in ("truth", "claim"))
    assert (document["truth"], document["claim"]) == ("Paris", "Lyon") and "Lyon" in found["answer"]
    assert truth[3] > 0.8 > 0.1 > truth[-1] and claim[-1] > 0.5 > 0.1 > claim[3]
    assert found["lens"] == "logit" and len(found["over_answer"]["drift"]) == 8
    assert len(found["forced_completion"]["angle"]) == 9
    assert pictures(tmp_path) == PICTURES
    assert "P(Paris)" in outcome.out and str(tmp_path / "drift.json") in outcome.out


def test_two_models_side_by_side_with_fitted_lenses(tmp_path: Path, folders: tuple[str, str]) -> None:
    pytest.importorskip("matplotlib")
    texts = tmp_path / "texts.txt"
    texts.write_text("What is the capital of France?\n\nThe answer is Paris.\n" * 10)
    asked = ["--prompt", "Is it A or B? I think B.", "--truth", "A", "--claim", "B", "--system", "Be brief."]
    outcome = run(folders[0], "--against", folders[1], "--texts", str(texts), "--out", str(tmp_path / "out"), *asked)
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert list(document["models"]) == ["one", "two"]
    assert [message["role"] for message in document["messages"]] == ["system", "user"]
    one, two = document["models"].values()
    assert one["lens"] == two["lens"] == "tuned" and one["decided"] != two["decided"]
    assert one["concluding"] is None, "no opening, nothing to conclude with"
    assert pictures(tmp_path / "out") == PICTURES[:3]


def test_a_chat_without_sides_is_drift_alone(tmp_path: Path, folders: tuple[str, str]) -> None:
    pytest.importorskip("matplotlib")
    outcome = run(folders[0], "--prompt", "Tell me a story.", "--max-tokens", "4", "--out", str(tmp_path))
    assert outcome.code == 0, outcome.err
    (found,) = json.loads((tmp_path / "drift.json").read_text())["models"].values()
    assert found["decided"]["truth"] is None and found["forced_completion"] is None
    assert len(found["over_answer"]["tokens"]) == len(found["over_answer"]["drift"][0]) <= 4
    assert pictures(tmp_path) == PICTURES[:2] and "P(" not in outcome.out


def test_L13_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    run().refuses("matplotlib", 'pip install "unsway[calibrate]"')


def test_L13_what_cannot_be_drawn(tmp_path: Path, folders: tuple[str, str]) -> None:
    pytest.importorskip("matplotlib")
    asked = ["--prompt", "A or B?", "--out", str(tmp_path)]
    run(folders[0], *asked, "--truth", "A").refuses("truth and claim belong together")
    run(folders[0], *asked, "--truth", "A", "--claim", "A").refuses("begin with the same token", "'A'")
    run("no/such/folder/here", *asked).refuses("no/such/folder/here")
    run(folders[0], *asked, "--texts", str(tmp_path / "none")).refuses("--texts", "does not exist")
    (tmp_path / "empty").write_text("\n \n")
    run(folders[0], *asked, "--texts", str(tmp_path / "empty")).refuses("--texts", "holds no text")
    run(folders[0], *asked, "--max-tokens", "0").refuses("--max-tokens")
    run(folders[0], "--prompt", "x" * 600, "--out", str(tmp_path)).refuses("context")
    assert not list(tmp_path.glob("*.png"))


def test_model_is_left_without_hooks(tmp_path: Path, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from steering.model import loading

    loaded = []
    original = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: loaded.append(original(*a, **k)) or loaded[-1])
    assert run(folders[0], "--prompt", "A or B?", "--max-tokens", "3", "--out", str(tmp_path)).code == 0
    (model,) = loaded
    assert isinstance(model.hf, torch.nn.Module)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules())
