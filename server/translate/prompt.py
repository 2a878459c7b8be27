"""What prompts have in common, and what follows them: for all that reads an answer as a part of its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from steering.model.chat import Turn


def followed(said: Sequence[Turn], more: str) -> Sequence[Turn]:
    """The conversation with a text of the assistant's after it."""
    if said[-1]["role"] == "assistant":
        return [*said[:-1], {**said[-1], "content": f"{said[-1]['content']}{more}"}]
    return [*said, {"role": "assistant", "content": more}] if more else said


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
