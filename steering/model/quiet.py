"""Quiet: what optional packages tell on the console about kernels they would have liked."""

from __future__ import annotations

from logging import ERROR, getLogger


def quiet_optional_packages() -> None:
    """For commands, before anything imports transformers: it imports torchao and bitsandbytes where they are."""
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        getLogger(name).setLevel(ERROR)
