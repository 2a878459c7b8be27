"""Probe: the texts that both sides run, and edits large enough to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.edit import Edit, Project, Scale, Set, Shift
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel

TEXTS = (
    "What is the capital of France? The answer is Paris.",
    "def add(a, b):\n    return a + b\n",
    "Größe, naïve café, Привет, 東京は日本の首都です。",
    "Are you sure? I think it is Lyon.",
)
MAX_TOKENS = 24
"""Tokens of a short text."""
MAX_WINDOW = 1024
"""Sliding windows up to this long are overrun by a text of their own."""


@dataclass(frozen=True)
class Prompt:
    """One text as token ids."""

    name: str
    ids: tuple[int, ...]


def prompts(model: LanguageModel, window: int | None) -> list[Prompt]:
    """Short texts of several lengths; one as a chat where the model has a template; one longer than the model's
    sliding window, where that is short enough to be overrun quickly."""
    encoded = [tuple(model.tokenizer.encode(text)[:MAX_TOKENS]) for text in TEXTS]
    made = [Prompt(f"text {i}", ids) for i, ids in enumerate(encoded, start=1)]
    if model.tokenizer.chat_template:
        made.append(Prompt("chat", tuple(encode_chat(model, [{"role": "user", "content": TEXTS[0]}]))))
    if window is not None and window <= MAX_WINDOW:
        repeated = [i for ids in encoded for i in ids] * (window // 8 + 2)
        made.append(Prompt("longer than the window", tuple(repeated[: window + 16])))
    return [prompt for prompt in made if len(prompt.ids) < model.layout.context - MAX_TOKENS]


def edits(h: Tensor, seed: int) -> Mapping[str, Edit]:
    """One edit of each kind for a site that holds h [N, W], of the size of what is there; dtype and device of h."""
    noise, W = torch.Generator().manual_seed(seed), h.shape[-1]
    size = h.float().square().mean().sqrt().cpu()
    half = torch.rand(W, generator=noise) < 0.5
    values = torch.randn(W, generator=noise) * size
    # The mean of h lies in the plane: a random one would hold almost nothing of it where W is large.
    spanning = torch.cat([h.float().cpu().mean(0, keepdim=True), torch.randn(3, W, generator=noise)])
    basis = torch.linalg.qr(spanning.T).Q.T

    def like_h(tensor: Tensor) -> Tensor:
        return tensor.to(h.device, h.dtype).contiguous()

    return {
        "set": Set(like_h(values), half.to(h.device)),
        "scale": Scale(like_h(torch.where(half, 2.0, 0.0))),
        "shift": Shift(like_h(values)),
        "project": Project(like_h(basis)),
    }


def translators(states: Sequence[Tensor], seed: int) -> list[tuple[Tensor, Tensor]]:
    """One random (A [D, D], b [D]) per hidden state [T, D]; an untrained one would be the identity."""
    noise = torch.Generator().manual_seed(seed)
    made = []
    for h in states:
        D, size = h.shape[-1], h.float().square().mean().sqrt().cpu()
        weight = torch.randn(D, D, generator=noise) * 0.3 * D**-0.5
        bias = torch.randn(D, generator=noise) * 0.3 * size
        made.append((weight.to(h.device, h.dtype), bias.to(h.device, h.dtype)))
    return made
