"""Small packs for the tiny model: what a steering field can ask for."""

from __future__ import annotations

from pathlib import Path

import torch

from steering.correction import Correction
from steering.edit import Shift
from steering.gate import Gate
from steering.lens import LogitLens
from steering.model.loading import LanguageModel
from steering.pack import Pack, save_pack
from steering.plan import Detector
from steering.site import Site


def save_packs(directory: Path, model: LanguageModel, other: LanguageModel) -> None:
    """candid (drift gate, to strength 2), firm (always), watch (observe only), broken (damaged), alien (of `other`)."""
    shift = Shift(torch.randn(model.layout.d_model, generator=torch.Generator().manual_seed(7)) * 4)
    detector = Detector(LogitLens(1), threshold=0.05)
    drift = Correction("shift", Site("resid_post", 2), shift, Gate("drift", latch=True))
    always = Correction("shift", Site("resid_post", 2), shift, Gate("always"))
    packs = [
        Pack("candid", "Opens on drift.", model.name, model.fingerprint, (drift,), detector=detector, max_strength=2.0),
        Pack("firm", "Acts always.", model.name, model.fingerprint, (always,), detector=detector),
        Pack("watch", "Only measures.", model.name, model.fingerprint, detector=detector),
        Pack("broken", "Damaged below.", model.name, model.fingerprint, (always,)),
        Pack("alien", "Of another model.", other.name, other.fingerprint, (always,)),
    ]
    for pack in packs:
        save_pack(pack, directory / pack.name)
    tensors = directory / "broken" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
