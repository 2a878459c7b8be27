"""What a steering vector can hold of a pack, and what is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steering.correction import EVERYWHERE, Correction
from steering.edit import Shift
from steering.errors import PackError
from steering.gate import Gate
from steering.interop.gguf import parse_gguf
from steering.interop.svec import parse_svec
from steering.interop.vectors import export_vectors, import_vectors
from steering.pack import Pack
from steering.site import Site
from tests.interop.test_gguf import noise, same
from tests.models import tiny_model
from tests.packs import full_pack, simple_pack

MODEL = tiny_model()


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
        assert same(*({c.site.layer: c.edit.vector for c in p.corrections} for p in (again, pack)))


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
