"""Scoring: log-probabilities of a prompt's own tokens, from the pass that computes its keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from steering.engine.request import Token
from steering.engine.scheduler import Chunk
from steering.model.layout import LinearUnembed

BLOCK = 64
"""Positions whose logits over the vocabulary exist at the same time."""


def score(chunk: Chunk, hidden: Tensor, unembed: LinearUnembed) -> tuple[Token, ...] | None:
    """The tokens after those of the chunk, one for each of its positions, as the model (steered, if the plan acts on
    prompts) expected them; none if the request does not ask, None if a logit is not finite.

    hidden: [length, D] after the final norm.
    """
    sequence, start = chunk.sequence, chunk.start + 1
    count = sequence.request.sampling.prompt_logprobs
    if count is None:
        return ()
    ids = torch.tensor(sequence.token_ids[start : start + chunk.length])
    tokens: list[Token] = []
    for block, targets in zip(torch.split(hidden, BLOCK), torch.split(ids, BLOCK), strict=True):
        logits = unembed.normed_logits(block).float()
        if not logits.isfinite().all():
            return None
        logprobs = logits.log_softmax(-1)
        values, top_ids = logprobs.topk(min(count, logprobs.shape[-1]))
        own = logprobs.gather(-1, targets[:, None].to(logprobs.device))[:, 0]
        columns = (targets, own, top_ids, values)
        for token_id, logprob, best, their in zip(*(column.tolist() for column in columns), strict=True):
            tokens.append(Token(token_id, logprob, tuple(zip(best, their, strict=True))))
    return tuple(tokens)
