"""`packs import` and `packs export`, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import steering.cli
from steering.interop.gguf import parse_gguf
from steering.interop.svec import parse_svec
from steering.pack import load_pack, save_pack
from tests.command_line import Outcome, unsway
from tests.interop.test_features import gemma_scope
from tests.interop.test_gguf import noise, repeng, same
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.packs import full_pack

MODEL = tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def packs(*arguments: object) -> Outcome:
    return unsway("packs", *map(str, arguments), main=steering.cli.main)


def test_into_a_pack_and_out_again(folder: Path, tmp_path: Path) -> None:
    vector, out = repeng(tmp_path / "v.gguf", noise(1, 3)), tmp_path / "packs" / "kind"
    told = packs("import", vector, "--model", folder, "--out", out)
    saved = load_pack(out, MODEL)
    assert told.code == 0 and f"kind@{saved.digest[:12]} for tiny, at resid_post.1, resid_post.3," in told.out
    shown = json.loads(packs("show", "kind", "--packs", out.parent, "--json").out)
    assert shown["evidence"]["imported"]["file"] == "v.gguf" and "nothing about it was measured" in shown["description"]
    for format, parse in (("gguf", parse_gguf), ("svec", parse_svec)):
        file = tmp_path / f"back.{format}"
        asked = ("export", "kind", "--packs", out.parent, "--model", folder, "--format", format, "--out", file)
        told = packs(*asked)
        assert (told.code, told.out) == (0, f"kind written to {file}.\n")
        found = parse(file.read_bytes(), "v")
        assert same(found.vectors, noise(1, 3)) and found.model_type == "llama"
        assert found.notes == {"pack": f"kind@{saved.digest[:12]}"}


def test_a_whole_pack_out_and_in_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, file = save_pack(full_pack(MODEL), tmp_path / "packs" / "full"), tmp_path / "full.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("steering.model.loading.load_model", None)  # to send one, none is needed
        asked = ("export", "full", "--packs", tmp_path / "packs", "--format", "safetensors", "--out", file)
        told = packs(*asked)
        assert (told.code, told.out) == (0, f"full@{saved.digest[:12]} for {MODEL.name} written to {file}.\n")
        packs(*asked).refuses("exists", "--force")
        told = packs("import", file, "--out", tmp_path / "again" / "full")
        assert told.code == 0 and "It is not held against a model" in told.out
    told = packs("import", file, "--out", tmp_path / "more" / "full", "--model", folder)
    assert told.code == 0 and f"It fits {folder}." in told.out
    for place in ("again", "more"):
        for name in ("pack.json", "tensors.safetensors", "CARD.md"):
            kept = (tmp_path / "packs" / "full" / name).read_bytes()
            assert (tmp_path / place / "full" / name).read_bytes() == kept


def test_a_whole_pack_that_is_refused(folder: Path, tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "full")
    file = tmp_path / "full.safetensors"
    packs("export", "full", "--packs", tmp_path, "--format", "safetensors", "--out", file)
    packs("import", file, "--out", tmp_path / "other").refuses("is named full, not other")
    packs("import", file, "--out", tmp_path / "full").refuses("exists", "--force")
    assert packs("import", file, "--out", tmp_path / "full", "--force").code == 0
    packs("import", file, "--out", tmp_path / "x" / "full", "--strength", 2, "--force").refuses("a pack says all of it")
    file.write_bytes(file.read_bytes()[:-1])
    packs("import", file, "--out", tmp_path / "full", "--force").refuses("does not match its digest")
    assert load_pack(tmp_path / "full", MODEL).name == "full"
    packs("import", tmp_path / "full" / "tensors.safetensors", "--out", tmp_path / "y").refuses("without a pack")
    foreign = tmp_path / "alien"
    save_pack(full_pack(tiny_model("qwen3"), name="alien"), foreign)
    packs("export", "alien", "--packs", tmp_path, "--format", "safetensors", "--out", tmp_path / "alien.safetensors")
    asked = ("import", tmp_path / "alien.safetensors", "--out", tmp_path / "z" / "alien", "--model", folder)
    packs(*asked).refuses("made for", "not for")


def test_nothing_is_replaced_unasked(folder: Path, tmp_path: Path) -> None:
    vector, out, file = repeng(tmp_path / "v.gguf", noise(1)), tmp_path / "kind", tmp_path / "kind.svec"
    asked = ("import", vector, "--model", folder, "--out", out)
    assert packs(*asked).code == 0
    digest = load_pack(out, MODEL).digest
    packs(*asked, "--strength", 2).refuses("kind exists", "--force")
    assert load_pack(out, MODEL).digest == digest
    assert packs(*asked, "--strength", 2, "--force").code == 0
    assert load_pack(out, MODEL).corrections[0].strength == 2.0
    assert packs(*asked, "--strength", 2, "--layer", 1, "--force").code == 0
    asked = ("export", "kind", "--packs", tmp_path, "--model", folder, "--format", "svec", "--out", file)
    file.symlink_to(tmp_path / "nowhere")
    packs(*asked).refuses("kind.svec exists", "--force")
    assert packs(*asked, "--force").code == 0 and not file.is_symlink()
    assert same(parse_svec(file.read_bytes(), "v").vectors, {1: 2 * noise(1)[1]})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("Dear")
    packs("import", vector, "--model", folder, "--out", tmp_path / "mine", "--force").refuses("exists and is no pack")
    assert (tmp_path / "mine" / "letter").exists()


def test_what_would_be_lost_is_refused_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "full")
    file = tmp_path / "full.gguf"
    asked = ("export", "full", "--packs", tmp_path, "--model", folder, "--format", "gguf", "--out", file)
    packs(*asked).refuses("gguf cannot hold all of full: groups is left out;", "the detector is left out", "--lossy")
    assert not file.exists()
    told = packs(*asked, "--lossy")
    assert told.code == 0 and "lost: groups is left out.\n" in told.out
    assert "groups is left out" in parse_gguf(file.read_bytes(), "v").notes["lost"]


def test_features_of_an_sae(folder: Path, tmp_path: Path) -> None:
    sae, _ = gemma_scope(tmp_path / "params.npz", 64)
    asked = ("import", sae, "--model", folder, "--out", tmp_path / "kind")
    packs(*asked).refuses("an SAE needs --site and --feature", "unsway lens import")
    packs(*asked, "--site", "resid_post.1").refuses("--feature")
    packs(*asked, "--site", "block 1", "--feature", 1).refuses("--site", "'block 1'")
    packs(*asked, "--site", "resid_post.1", "--feature", 1, "--layer-offset", 1).refuses("no --layer-offset")
    packs(*asked, "--site", "resid_post.1", "--feature", 1, "--layer", 1).refuses("no --layer ")
    packs(*asked, "--site", "resid_post.1", "--feature", 9).refuses("features 0 to 6, no 9")
    told = packs(*asked, "--site", "resid_post.1", "--feature", 1, "--feature", 4, "--strength", 3)
    assert told.code == 0 and "at resid_post.1, saved" in told.out
    assert [c.name for c in load_pack(tmp_path / "kind", MODEL).corrections] == ["feature.1", "feature.4"]


def test_L13_what_is_wrong_is_one_line(folder: Path, tmp_path: Path) -> None:
    vector = repeng(tmp_path / "v.gguf", noise(1, 4))
    asked = ("--model", folder, "--out", tmp_path / "kind")
    packs("import", vector, *asked).refuses("v.gguf", "layer 4 would be block 4", "blocks 0 to 3")
    packs("import", vector, *asked, "--feature", 1).refuses("--site and --feature are for SAEs")
    packs("import", tmp_path / "none", *asked).refuses("none: there is no such file")
    (tmp_path / "bad").write_bytes(vector.read_bytes()[:40])
    packs("import", tmp_path / "bad", *asked).refuses("bad: has no end of its header")
    packs("import", vector, "--layer-offset", "-1", "--model", folder, "--out", tmp_path / "Kind").refuses("'Kind'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "v.gguf"]
    given = ("--format", "gguf", "--out", tmp_path / "x.gguf")
    packs("export", "kind", "--packs", tmp_path / "none", "--model", folder, *given).refuses("does not exist")
    packs("export", "kind", "--packs", tmp_path, "--model", folder, *given).refuses("'kind'")
    packs("export", "kind", "--model", folder, *given).refuses("--packs")
    packs("export", "kind", "--format", "pt", "--out", "x").refuses("--format", "gguf", "svec")
