"""A pack with every kind of part, for the tiny models."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from steering.correction import Correction, LogitCorrection
from steering.edit import LensContrast, Project, Scale, Set, Shift
from steering.gate import Gate
from steering.lens import LogitLens, TunedLens
from steering.model.loading import LanguageModel
from steering.pack import Pack
from steering.plan import Detector
from steering.site import Site
from tests.plans import dola, tuned

ALWAYS_BOTH = Gate("always", frozenset({"prompt", "completion"}))
DRIFT = Gate("drift")
LATCHED = Gate("drift", latch=True)


def full_pack(model: LanguageModel, **changes: object) -> Pack:
    """Set, Scale, Shift, Project and LensContrast; tuned lens at layer 1; behind drift, latched drift and always."""
    layout, noise = model.layout, torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise)

    mask = torch.zeros(layout.width("attn_z"), dtype=torch.bool)
    mask[layout.group_features([1])] = True
    basis = torch.linalg.qr(randn(layout.d_model, 2)).Q.T
    parts: dict[str, object] = {
        "name": "full",
        "description": "Every kind of correction.",
        "model_name": model.name,
        "fingerprint": model.fingerprint,
        "corrections": (
            Correction("groups", Site("attn_z", 2), Set(randn(layout.width("attn_z")), mask), DRIFT),
            Correction("neurons", Site("mlp_act", 3), Scale(randn(layout.d_mlp)), LATCHED, 0.5),
            Correction("push", Site("resid_post", 1), Shift(randn(layout.d_model)), ALWAYS_BOTH, -2.0),
            Correction("erase", Site("resid_post", 3), Project(basis.contiguous()), Gate()),
        ),
        "logit_corrections": (LogitCorrection("contrast", LensContrast(0.001), DRIFT, 0.75),),
        "detector": Detector(TunedLens(1, randn(layout.d_model, layout.d_model), randn(layout.d_model)), 0.25, 32),
        "max_strength": 2.0,
        "evidence": {"caves off": 0.71, "caves on": 0.09, "n": 200, "by class": {"neutral": [0.97, 0.99]}},
    }
    return Pack(**(parts | changes))


def simple_pack(model: LanguageModel, **changes: object) -> Pack:
    """One shift, always on, without a detector."""
    shift = Shift(torch.ones(model.layout.d_model))
    parts: dict[str, object] = {
        "name": "simple",
        "corrections": (Correction("push", Site("resid_post", 1), shift),),
        "logit_corrections": (),
        "detector": None,
        "max_strength": 1.0,
    }
    return full_pack(model, **(parts | changes))


def observing_pack(model: LanguageModel, **changes: object) -> Pack:
    """Nothing but a detector with a logit lens."""
    parts: dict[str, object] = {
        "name": "watch",
        "corrections": (),
        "logit_corrections": (),
        "detector": Detector(LogitLens(2), 0.5),
    }
    return full_pack(model, **(parts | changes))


def tuned_pack(model: LanguageModel, **changes: object) -> Pack:
    """Changed weights of some groups and neurons, and nothing else."""
    parts: dict[str, object] = {
        "name": "tuned",
        "corrections": (),
        "logit_corrections": (),
        "detector": None,
        "weight_corrections": (tuned(model.layout, strength=0.5),),
        "max_strength": 1.0,
    }
    return full_pack(model, **(parts | changes))


def dola_pack(model: LanguageModel, **changes: object) -> Pack:
    """A contrast of layers, without a detector."""
    parts: dict[str, object] = {
        "name": "dola",
        "corrections": (),
        "logit_corrections": (replace(dola(0, 2, 3), name="dola"),),
        "detector": None,
        "max_strength": 1.0,
    }
    return full_pack(model, **(parts | changes))
