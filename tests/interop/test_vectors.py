"""Packs from steering vectors and SAEs: what the engine does with them, and what a steering vector can hold of a pack."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steering.correction import EVERYWHERE, Correction
from steering.edit import Shift
from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Request, SamplingParams
from steering.errors import DataError, LayerOutOfRange, PackError
from steering.gate import Gate
from steering.interop.directions import MAX_BYTES, Directions
from steering.interop.gguf import parse_gguf, write_gguf
from steering.interop.svec import parse_svec
from steering.interop.vectors import export_vectors, import_features, import_vectors
from steering.model.loading import LanguageModel
from steering.pack import Overrides, Pack, load_pack, save_pack
from steering.site import Site
from tests.engine.spy import drain, gather, ids
from tests.interop.test_gguf import noise, repeng, same
from tests.interop.test_tuned_lens import Code
from tests.models import VOCAB_SIZE, endless_model, tiny_hf
from tests.packs import full_pack, simple_pack

MODEL = endless_model()
PROMPT = tuple(torch.randint(6, VOCAB_SIZE, (17,), generator=torch.Generator().manual_seed(5)).tolist())
NUM_TOKENS = 6


def hand(path: Path, vectors: dict[int, Tensor], model_type: str = "llama") -> Path:
    path.write_bytes(write_gguf(Directions(vectors, model_type, {})))
    return path


class Streams:
    """The residual stream after each block, as the next module gets it: [T, D] for each."""

    def __init__(self, readers: Sequence[nn.Module]) -> None:
        self._seen: list[list[Tensor]] = [[] for _ in readers]
        self._handles = [
            module.register_forward_pre_hook(self._reader(seen), with_kwargs=True)
            for module, seen in zip(readers, self._seen, strict=True)
        ]

    def _reader(self, seen: list[Tensor]) -> Callable[..., None]:
        def read(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            h = args[0] if args else kwargs["hidden_states"]
            seen.append(h.detach().reshape(-1, h.shape[-1]).clone())

        return read

    def taken(self) -> list[Tensor]:
        for handle in self._handles:
            handle.remove()
        return [torch.cat(seen) for seen in self._seen]


def served(model: LanguageModel, pack: Pack) -> tuple[list[Tensor], list[int]]:
    """(streams at every position, the answer), of a request under the pack."""
    engine = Engine(model, EngineConfig(max_rows=2))
    streams = Streams([*model.layout.blocks[1:], model.hf.model.norm])
    params = SamplingParams(NUM_TOKENS, temperature=0)
    engine.add(Request("a", PROMPT, params, pack.plan(Overrides())))
    answer = ids(gather(drain(engine))["a"])
    return streams.taken(), answer


def by_hand(answer: Sequence[int], block: int | None, vector: Tensor | None) -> tuple[list[Tensor], list[int]]:
    """(streams, most likely next ids) of the stock model, with a hook that adds the vector after a block."""
    hf = tiny_hf()
    if block is not None:
        hf.model.layers[block].register_forward_hook(lambda module, args, out: out + vector)
    streams = Streams([*hf.model.layers[1:], hf.model.norm])
    with torch.no_grad():
        logits = hf(torch.tensor([*PROMPT, *answer[:-1]])[None], use_cache=False).logits[0]
    return streams.taken(), logits.argmax(-1)[len(PROMPT) - 1 :].tolist()


@pytest.mark.parametrize("strength", [1.0, -0.75])
def test_a_vector_of_repeng_changes_the_layer_it_should(tmp_path: Path, strength: float) -> None:
    vector = noise(2)[2]
    made = import_vectors(repeng(tmp_path / "v.gguf", {2: vector}), MODEL, "imported", strength=strength)
    save_pack(made, tmp_path / "imported")
    streams, answer = served(MODEL, load_pack(tmp_path / "imported", MODEL))
    steered, choices = by_hand(answer, 2, strength * vector)
    plain, _ = by_hand(answer, None, None)
    assert answer == choices
    for layer in range(4):
        torch.testing.assert_close(streams[layer], steered[layer], rtol=0, atol=2e-4)
        assert torch.allclose(streams[layer], plain[layer], atol=2e-4) == (layer < 2)
    torch.testing.assert_close(streams[2] - plain[2], (strength * vector).expand_as(plain[2]), rtol=0, atol=2e-4)


def test_all_layers_of_a_file(tmp_path: Path) -> None:
    pack = import_vectors(repeng(tmp_path / "v.gguf", noise(3, 2, 1)), MODEL, "imported")
    assert [(c.name, str(c.site), c.gate, c.strength) for c in pack.corrections] == [
        (f"resid_post.{layer}", f"resid_post.{layer}", EVERYWHERE, 1.0) for layer in (1, 2, 3)
    ]
    assert same({c.site.layer: c.edit.vector for c in pack.corrections if isinstance(c.edit, Shift)}, noise(3, 2, 1))
    origin: Any = pack.evidence["imported"]
    assert (origin["file"], origin["model_type"], origin["layer_offset"]) == ("v.gguf", "llama", 0)
    assert (pack.fingerprint, pack.max_strength, pack.detector) == (MODEL.fingerprint, 1.0, None)


def test_a_file_that_counts_otherwise(tmp_path: Path) -> None:
    path = hand(tmp_path / "v.gguf", noise(1, 4))
    pack = import_vectors(path, MODEL, "imported", layer_offset=-1)
    assert [c.site.layer for c in pack.corrections] == [0, 3]
    for offset, message in ((0, "layer 4 would be block 4; .* blocks 0 to 3"), (-2, "layer 1 would be block -1")):
        with pytest.raises(DataError, match=message):
            import_vectors(path, MODEL, "imported", layer_offset=offset)


def test_svec_is_known_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(" \n" + json.dumps({"model_type": "llama", "directions": {"0": noise(0)[0].tolist()}}))
    pack = import_vectors(path, MODEL, "imported")
    assert [str(c.site) for c in pack.corrections] == ["resid_post.0"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    vectors = noise(1, 2)
    vectors[2][5] = value
    with pytest.raises(DataError, match="resid_post.2 holds values that are not finite"):
        import_vectors(hand(tmp_path / "v.gguf", vectors), MODEL, "imported")
    path = tmp_path / "v.svec"
    path.write_text('{"model_type": "x", "directions": {"1": [%s]}}' % ", ".join(["1e39"] * 64))
    with pytest.raises(DataError, match="not finite"):
        import_vectors(path, MODEL, "imported")


def test_files_that_fit_no_pack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"resid_post.1 has width 48; resid_post.1 of .* has 64"):
        import_vectors(hand(tmp_path / "w.gguf", noise(1, width=48)), MODEL, "imported")
    with pytest.raises(DataError, match="holds no direction"):
        import_vectors(hand(tmp_path / "e.gguf", {}), MODEL, "imported")
    path = hand(tmp_path / "v.gguf", noise(1))
    for name in ("", "on", "A b", "../x"):
        with pytest.raises(PackError, match="pack name"):
            import_vectors(path, MODEL, name)
    with pytest.raises(PackError, match="strengths of corrections must be finite"):
        import_vectors(path, MODEL, "imported", strength=float("nan"))


def test_T14_what_is_no_steering_vector_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "v.gguf"
    torch.save(Code(), tmp_path / "v.pt")
    for raw in (b"", b"GGU", b"x" * 99, pickle.dumps(Code()), (tmp_path / "v.pt").read_bytes(), b"\x93NUMPY"):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="neither a GGUF control vector nor a .svec"):
            import_vectors(path, MODEL, "imported")
    (tmp_path / "v.pt").rename(tmp_path / "v.npz")
    np.savez(tmp_path / "objects.npz", W_dec=np.array([Code()], dtype=object))
    for name in ("v.npz", "objects.npz"):
        with pytest.raises(DataError, match="expected a params.npz of plain arrays"):
            import_features(tmp_path / name, MODEL, "imported", site=Site("resid_post", 1), features=[0])
    assert not (tmp_path / "called").exists()
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="there is no such file"):
            import_vectors(missing, MODEL, "imported")
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="larger than 64 MiB"):
        import_vectors(path, MODEL, "imported")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_links_lead_to_files_and_to_nothing_else(tmp_path: Path) -> None:
    """As those in a pack's folder do; a pipe would keep us waiting."""
    (tmp_path / "link").symlink_to(hand(tmp_path / "v.gguf", noise(1)))
    assert len(import_vectors(tmp_path / "link", MODEL, "imported").corrections) == 1
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "to-pipe", "loop"):
        with pytest.raises(DataError, match="no such file|cannot be read"):
            import_vectors(tmp_path / name, MODEL, "imported")


def gemma_scope(path: Path, width: int, num_features: int = 7) -> tuple[Path, Tensor]:
    generator = torch.Generator().manual_seed(1)
    decoder = torch.randn(num_features, width, generator=generator)
    arrays = {"W_enc": decoder.T, "b_enc": decoder[:, 0], "W_dec": decoder, "b_dec": decoder[0]}
    arrays["threshold"] = decoder[:, 1].abs()
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
    return path, decoder


@pytest.mark.parametrize(("site", "width"), [("resid_post.2", 64), ("mlp_act.3", 128)])
def test_features_of_an_sae(tmp_path: Path, site: str, width: int) -> None:
    path, decoder = gemma_scope(tmp_path / "params.npz", width)
    pack = import_features(path, MODEL, "imported", site=Site.parse(site), features=[5, 0], strength=8.0)
    assert [(c.name, str(c.site), c.strength) for c in pack.corrections] == [
        ("feature.5", site, 8.0),
        ("feature.0", site, 8.0),
    ]
    for correction, row in zip(pack.corrections, (5, 0), strict=True):
        assert isinstance(correction.edit, Shift) and torch.equal(correction.edit.vector, decoder[row])
    save_pack(pack, tmp_path / "imported")
    assert load_pack(tmp_path / "imported", MODEL).corrections[0].gate == EVERYWHERE


def test_features_that_there_are_not(tmp_path: Path) -> None:
    path, _ = gemma_scope(tmp_path / "params.npz", 64)

    def make(site: str, *features: int) -> Pack:
        return import_features(path, MODEL, "imported", site=Site.parse(site), features=features)

    for feature in (-1, 7):
        with pytest.raises(DataError, match=f"features 0 to 6, no {feature}"):
            make("resid_post.1", feature)
    with pytest.raises(DataError, match="feature.1 has width 64; mlp_act.1 of .* has 128"):
        make("mlp_act.1", 1)
    with pytest.raises(LayerOutOfRange, match="layer 4"):
        make("resid_post.4", 1)
    with pytest.raises(PackError, match="must be unique"):
        make("resid_post.1", 1, 1)


def pushing(*pushes: tuple[int, float], gate: Gate = EVERYWHERE) -> Pack:
    corrections = tuple(
        Correction(f"push-{i}", Site("resid_post", layer), Shift(noise(layer)[layer]), gate, strength)
        for i, (layer, strength) in enumerate(pushes)
    )
    return simple_pack(MODEL, corrections=corrections)


def test_a_pack_that_can_be_held() -> None:
    """Strengths become part of the vectors, and vectors of one layer one."""
    pack = pushing((1, 0.5), (3, -2.0), (1, 1.0))
    raw, losses = export_vectors(pack, "llama", "gguf")
    found = parse_gguf(raw, "v")
    assert losses == [] and set(found.notes) == {"pack"} and found.model_type == "llama"
    assert found.vectors.keys() == {1, 3}
    torch.testing.assert_close(found.vectors[1], 1.5 * noise(1)[1])
    torch.testing.assert_close(found.vectors[3], -2.0 * noise(3)[3])


def test_law_an_exported_pack_comes_back_the_same(tmp_path: Path) -> None:
    pack = pushing((1, 1.0), (2, 1.0))
    for format in ("gguf", "svec"):
        path = tmp_path / format
        path.write_bytes(export_vectors(pack, "llama", format)[0])
        again = import_vectors(path, MODEL, "imported")
        assert export_vectors(again, "llama", format)[0] != b""
        assert same(*({c.site.layer: c.edit.vector for c in p.corrections} for p in (again, pack)))  # type: ignore[union-attr]


def test_what_is_lost_is_named() -> None:
    raw, losses = export_vectors(full_pack(MODEL), "llama", "gguf")
    assert losses == [
        "groups is left out",
        "neurons is left out",
        "erase is left out",
        "contrast is left out",
        "the detector is left out",
    ]
    found = parse_gguf(raw, "v")
    assert found.vectors.keys() == {1} and found.notes["lost"] == "; ".join(losses)
    _, losses = export_vectors(pushing((1, 1.0), gate=Gate()), "llama", "svec")
    assert losses == ["push-0 acts at every position, without its gate"]


def test_block_0_fits_in_a_svec_alone() -> None:
    raw, losses = export_vectors(pushing((0, 1.0), (2, 1.0)), "llama", "gguf")
    assert losses == ["push-0 is left out"] and parse_gguf(raw, "v").vectors.keys() == {2}
    raw, losses = export_vectors(pushing((0, 1.0), (2, 1.0)), "llama", "svec")
    assert losses == [] and parse_svec(raw, "v").vectors.keys() == {0, 2}


def test_packs_of_which_nothing_can_be_held() -> None:
    with pytest.raises(PackError, match="nothing of simple can be written as gguf: push-0 is left out"):
        export_vectors(pushing((0, 1.0)), "llama", "gguf")
    with pytest.raises(PackError, match="it corrects nothing"):
        export_vectors(simple_pack(MODEL, corrections=()), "llama", "svec")
    with pytest.raises(PackError, match="not finite at their strength"):
        export_vectors(pushing((1, 1e39)), "llama", "svec")
