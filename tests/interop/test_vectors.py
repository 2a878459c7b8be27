"""Packs from steering vectors: what the engine does with them, and files that are none."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steering.correction import EVERYWHERE
from steering.edit import Shift
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import DataError, PackError
from steering.interop.directions import MAX_BYTES, Directions
from steering.interop.gguf import write_gguf
from steering.interop.vectors import import_vectors
from steering.model.loading import LanguageModel
from steering.pack import Overrides, Pack, load_pack, save_pack
from tests.engine.spy import drain, gather, ids
from tests.interop.test_gguf import noise, repeng, same
from tests.interop.test_tuned_lens import Code
from tests.models import VOCAB_SIZE, endless_model, tiny_hf

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


def test_some_layers_of_a_file(tmp_path: Path) -> None:
    """As programs do that write a vector for each layer and add one of them."""
    path = hand(tmp_path / "v.gguf", noise(1, 2, 3, 4))
    pack = import_vectors(path, MODEL, "imported", layers=[4, 2], layer_offset=-1)
    assert {str(c.site) for c in pack.corrections} == {"resid_post.3", "resid_post.1"}
    with pytest.raises(DataError, match="holds no direction of layer 9"):
        import_vectors(path, MODEL, "imported", layers=[1, 9])
    with pytest.raises(PackError, match="must be unique"):
        import_vectors(path, MODEL, "imported", layers=[1, 1])


def test_svec_is_known_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(" \n" + json.dumps({"model_type": "llama", "directions": {"0": noise(0)[0].tolist()}}))
    pack = import_vectors(path, MODEL, "imported")
    assert [str(c.site) for c in pack.corrections] == ["resid_post.0"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    vectors = noise(1, 2)
    vectors[2][5] = value
    with pytest.raises(DataError, match=r"resid_post\.2 holds values that are not finite"):
        import_vectors(hand(tmp_path / "v.gguf", vectors), MODEL, "imported")
    path = tmp_path / "v.svec"
    path.write_text(json.dumps({"model_type": "x", "directions": {"1": [1e39] * 64}}))
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
        with pytest.raises(DataError, match=r"neither a GGUF control vector nor a \.svec"):
            import_vectors(path, MODEL, "imported")
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
        with pytest.raises(DataError, match=r"no such file|cannot be read"):
            import_vectors(tmp_path / name, MODEL, "imported")
