"""How a model writes calls of tools: found out by having its own template write one.

Nothing is guessed from names: a marker (`steering.model.markers`) and what stands around the JSON are those that the
template puts around a call of an earlier turn, which is what the model was trained to write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from steering.errors import TemplateError, UnsupportedTools
from steering.model.chat import Tool, Turn, render_chat
from steering.model.loading import LanguageModel
from steering.model.markers import Marker, markers_of

_NAME = "look_up_9c1f"
"""Of a function that no prompt has."""
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
_ASKED: Turn = {"role": "user", "content": "Look it up."}
_CALLED: Turn = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": _NAME, "arguments": {"a": 1}}}],
}
_WRITTEN = (
    r"(?P<before>\s*)(?P<list>\[?)\s*"
    rf'\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*"(?P<key>arguments|parameters)"\s*:\s*\{{\s*"a"\s*:\s*1\s*\}}'
    r"[^{}]*\}(?:\s*\])?(?P<after>\s*)"
)
"""One call, maybe in a list, maybe with more keys (Mistral's has its id)."""

ArgumentsKey = Literal["arguments", "parameters"]


@dataclass(frozen=True)
class CallFormat:
    """How calls stand in an answer."""

    marker: Marker | None
    """What they stand between; None: an answer that is a call is nothing else."""
    listed: bool
    """All calls in one JSON array after one marker; else one object each."""
    key: ArgumentsKey
    before: str
    """Between the marker and the JSON."""
    after: str
    """Between the JSON and the closing marker."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The texts of the marker."""
        return () if self.marker is None else tuple(filter(None, (self.marker.opens, self.marker.closes)))

    @property
    def short_ids(self) -> bool:
        """Mistral's templates take ids of exactly nine letters and digits."""
        return self.marker is not None and self.marker.opens == "[TOOL_CALLS]"


@lru_cache(maxsize=8)
def call_format(model: LanguageModel) -> CallFormat:
    """Raises `UnsupportedTools` for a model whose template has no place for tools, or writes calls in another form."""
    try:
        prompt = render_chat(model, [_ASKED], [_TOOL])
    except TemplateError as error:
        raise UnsupportedTools(f"tools are not supported by this model: {error}", "tools") from error
    if _NAME not in prompt:
        raise UnsupportedTools(
            "tools are not supported by this model: its chat template has no place for them.", "tools"
        )
    try:
        written = render_chat(model, [_ASKED, _CALLED], [_TOOL], ended=True)
    except TemplateError as error:
        raise UnsupportedTools(f"tools are not supported by this model: {error}", "tools") from error
    found = _read(written, len(_common(prompt, written)), model)
    if found is None:
        message = (
            "its chat template writes calls in a form that is not known here (known are Hermes', Llama's, Mistral's)."
        )
        raise UnsupportedTools(f"tools are not supported by this model: {message}", "tools")
    return found


def _common(prompt: str, written: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(prompt, written, strict=False)) if a != b), len(prompt))
    return prompt[:length]


def _read(written: str, start: int, model: LanguageModel) -> CallFormat | None:
    """What stands around the call, which comes after `start`."""
    markers = markers_of(model.tokenizer)
    for marker in markers.tool_calls:
        pattern = re.escape(marker.opens) + _WRITTEN + re.escape(marker.closes or "")
        if match := re.compile(pattern).search(written, max(0, start - len(marker.opens))):
            after = match["after"] if marker.closes else ""
            return CallFormat(marker, bool(match["list"]), _key(match["key"]), match["before"], after)
    if markers.bare_calls and (match := re.compile(_WRITTEN).match(written, start)):
        return CallFormat(None, listed=False, key=_key(match["key"]), before="", after="")
    return None


def _key(text: str) -> ArgumentsKey:
    return "arguments" if text == "arguments" else "parameters"
