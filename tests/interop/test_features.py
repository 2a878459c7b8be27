"""Packs from features of SAEs that others trained."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from steering.correction import EVERYWHERE
from steering.edit import Shift
from steering.errors import DataError, LayerOutOfRange, PackError
from steering.interop.vectors import import_features
from steering.pack import Pack, load_pack, save_pack
from steering.site import Site
from tests.interop.test_tuned_lens import Code
from tests.models import tiny_model

MODEL = tiny_model()


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
    with pytest.raises(DataError, match=r"feature\.1 has width 64; mlp_act\.1 of .* has 128"):
        make("mlp_act.1", 1)
    with pytest.raises(LayerOutOfRange, match="layer 4"):
        make("resid_post.4", 1)
    with pytest.raises(PackError, match="must be unique"):
        make("resid_post.1", 1, 1)


def test_T14_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Code(), tmp_path / "renamed.npz")
    np.savez(tmp_path / "objects.npz", W_dec=np.array([Code()], dtype=object))
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": "<f4", "fortran_order": False, "shape": (2**46,)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("W_dec.npy", raw.getvalue())
    for name in ("renamed", "objects", "huge"):
        with pytest.raises(DataError, match=r"expected a params\.npz of plain arrays"):
            import_features(tmp_path / f"{name}.npz", MODEL, "imported", site=Site("resid_post", 1), features=[0])
    assert not (tmp_path / "called").exists()
