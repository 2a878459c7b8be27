"""What an update of tuning minimises: CE on replies + beta KL(base || tuned) on neutral text - gamma entropy.

The entropy term is the confidence penalty of Pereyra et al. 2017 (arXiv 1701.06548): the entropy of the next-token
distribution where a reply's tokens are predicted is rewarded, so that a few thousand replies do not become certainties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from steering.calibration.tune_data import Example
from steering.model.loading import LanguageModel
from steering.model.plain import plain_states

_T = TypeVar("_T")


class Losses(NamedTuple):
    """Means over tokens, in nats."""

    reply: float
    """Cross-entropy of the replies."""
    entropy: float
    """Of the distributions their tokens are predicted by."""
    divergence: float
    """KL(base || tuned) on neutral text."""


def reply_terms(model: LanguageModel, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """(cross-entropy, entropy), each summed over the tokens of the replies."""
    states = plain_states(model, [example.ids for example in examples])
    predicting = torch.zeros(states.shape[:2], dtype=torch.bool)
    for row, example in enumerate(examples):
        predicting[row, len(example.prompt_ids) - 1 : len(example.ids) - 1] = True
    targets = torch.tensor([i for example in examples for i in example.reply_ids], device=states.device)
    logprobs = _logprobs(model, states, predicting)
    return F.nll_loss(logprobs, targets, reduction="sum"), -(logprobs.exp() * logprobs).sum()


def text_logprobs(model: LanguageModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """[n, V] at every token of the texts."""
    states = plain_states(model, texts)
    within = torch.arange(states.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
    return _logprobs(model, states, within)


def divergence(base: Tensor, tuned: Tensor) -> Tensor:
    """KL(base || tuned) of log-probabilities [n, V], summed over n."""
    return F.kl_div(tuned, base, log_target=True, reduction="sum")


def portions(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _logprobs(model: LanguageModel, states: Tensor, places: Tensor) -> Tensor:
    """[B, T, D] after the final norm, [B, T] bool -> [n, V]: no logits but those that are looked at."""
    return model.layout.unembed.normed_logits(states[places.to(states.device)]).float().log_softmax(-1)
