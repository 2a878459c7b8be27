"""Experts on fixed shapes, for deterministic mode: how many tokens others send to an expert changes no bit of a row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ExpertsInterface

NAME = "unsway_every_row"


def every_row_experts(module: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """hidden [N, D], chosen [N, k] expert ids, weights [N, k] -> [N, D].

    Each chosen expert runs on all N rows, so its matrix products have one shape whatever was chosen; a row adds up
    its own experts in the order of their ids.
    """
    total = torch.zeros_like(hidden, dtype=torch.float32)
    for expert in sorted(set(chosen.flatten().tolist())):
        mine = chosen == expert
        gate, up = F.linear(hidden, module.gate_up_proj[expert]).chunk(2, dim=-1)  # type: ignore[index]
        out = F.linear(module.act_fn(gate) * up, module.down_proj[expert])  # type: ignore[index, operator]
        added = total + out * (weights * mine).sum(-1, keepdim=True)
        total = torch.where(mine.any(-1, keepdim=True), added, total)
    return total.to(hidden.dtype)


ExpertsInterface.register(NAME, every_row_experts)
