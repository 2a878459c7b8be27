"""Where: a named tensor of the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

Component = Literal["resid_post", "attn_z", "mlp_act"]

_PATTERN = re.compile(r"(resid_post|attn_z|mlp_act)\.(0|[1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Site:
    """Where corrections apply: `resid_post` [N, D], `attn_z` [N, H*K] or `mlp_act` [N, F] of a block."""

    component: Component
    """`resid_post`: residual after the block; `attn_z`: input of o_proj; `mlp_act`: input of down_proj."""
    layer: int
    """0-based index of the block."""

    def __post_init__(self) -> None:
        if self.component not in get_args(Component):
            raise ValueError(f"component must be one of {get_args(Component)}, got {self.component!r}")
        if self.layer < 0:
            raise ValueError(f"layer must be >= 0, got {self.layer}")

    def __str__(self) -> str:
        return f"{self.component}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Inverse of `str(site)`; anything else (leading zeros, signs, other names) raises ValueError."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"a site reads like 'attn_z.12' (resid_post, attn_z or mlp_act), got {text!r}")
        return cls(cast(Component, match[1]), int(match[2]))
