"""What a model's template marks in an answer: reasoning, and calls of tools. The one home of these texts.

They are found in the tokenizer, never guessed from a model's name: a marker counts where it is a token of its own, or
where the chat template writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from steering.model.vocabulary import Tokenizer


@dataclass(frozen=True)
class Marker:
    """A span of an answer: from the end of one text to the end of the other."""

    opens: str
    closes: str | None
    """None: nothing does but the end of the answer."""


_REASONING = (Marker("<think>", "</think>"), Marker("[THINK]", "[/THINK]"))
_TOOL_CALLS = (
    Marker("<tool_call>", "</tool_call>"),  # Hermes, Qwen2.5 to Qwen3
    Marker("<|tool_call|>", "<|/tool_call|>"),  # Phi-4
    Marker("<TOOLCALL>", "</TOOLCALL>"),  # Nemotron
    Marker("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # noqa: RUF001 - DeepSeek, with its distilled Llama and Qwen
    Marker("<|python_tag|>", None),  # Llama 3.1 and later
    Marker("[TOOL_CALLS]", None),  # Mistral
)
_BARE_CALLS = "<|python_tag|>"
"""Where a template writes this one, calls may also come without it, as the whole answer (Llama 3.1 and later)."""


@dataclass(frozen=True)
class Markers:
    """Those of one model, most common first."""

    tool_calls: tuple[Marker, ...] = ()
    reasoning: tuple[Marker, ...] = ()
    bare_calls: bool = False
    """An answer that is a JSON object, `{"name": ...`, from its first character on may be a call too."""


@lru_cache(maxsize=8)
def markers_of(tokenizer: Tokenizer) -> Markers:
    added, templates = set(tokenizer.get_added_vocab()), "\n".join(_templates(tokenizer.chat_template))

    def known(markers: tuple[Marker, ...]) -> tuple[Marker, ...]:
        return tuple(marker for marker in markers if marker.opens in added or marker.opens in templates)

    return Markers(known(_TOOL_CALLS), known(_REASONING), bare_calls=_BARE_CALLS in templates)


def _templates(template: Any) -> list[str]:
    """A tokenizer has one, several by name, or none."""
    if isinstance(template, dict):
        return [str(text) for text in template.values()]
    return [] if template is None else [str(template)]
