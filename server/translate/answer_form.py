"""How the answers to a chat are read: what in them is reasoning, what calls."""

from __future__ import annotations

from collections.abc import Sequence

from server.translate.tools import Toolbox
from steering.grammar.call_grammar import CallsShape, reserved_tokens
from steering.model.answer_parser import AnswerForm
from steering.model.chat import Turn, token_bytes
from steering.model.loading import LanguageModel
from steering.model.markers import Marker, markers_of
from steering.model.vocabulary import vocabulary_of

TAIL = 16
"""Tokens at the end of a prompt in which a template may open reasoning."""


def answer_form(
    said: Sequence[Turn], prompt_ids: Sequence[int], box: Toolbox, model: LanguageModel
) -> tuple[AnswerForm, frozenset[int]]:
    """And the control tokens that have to be part of the text, so that it can be read."""
    may_think = box.shape is None or (isinstance(box.shape, CallsShape) and box.shape.or_text)
    reasoning = markers_of(model.tokenizer).reasoning if may_think else ()
    continues = said[-1]["role"] == "assistant"
    tail = str(said[-1]["content"]) if continues else _spelled(prompt_ids[-TAIL:], model).rstrip()
    form = AnswerForm(
        calls=box.format,
        functions=box.functions,
        certain=isinstance(box.shape, CallsShape),
        reasoning=reasoning,
        opened=next((m for m in reasoning if (_is_open(tail, m) if continues else tail.endswith(m.opens))), None),
        continues=continues,
    )
    marks = [text for marker in reasoning for text in (marker.opens, marker.closes or "")]
    special = vocabulary_of(model.tokenizer).special_ids
    return form, (box.shown | frozenset(reserved_tokens(marks, model).values())) & special


def _spelled(ids: Sequence[int], model: LanguageModel) -> str:
    return b"".join(token_bytes(model, token_id) for token_id in ids).decode(errors="replace")


def _is_open(text: str, marker: Marker) -> bool:
    return text.rfind(marker.opens) > text.rfind(marker.closes or marker.opens)
