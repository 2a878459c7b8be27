"""Grammar of answers that call functions, in the form that the model's own template writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from steering.grammar.json_grammar import HEADER, json_rule
from steering.model.call_format import CallFormat
from steering.model.loading import LanguageModel
from steering.model.vocabulary import vocabulary_of

NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Of a function that names no parameters."""


@dataclass(frozen=True)
class Function:
    """What may be called."""

    name: str
    """Letters, digits, `_` and `-`."""
    parameters: Mapping[str, object]
    """The schema that its arguments hold to: of an object."""


@dataclass(frozen=True)
class CallsShape:
    """An answer that calls functions, or may."""

    functions: tuple[Function, ...]
    format: CallFormat
    most: int
    """Calls."""
    or_text: bool = False
    """Any text may come before calls, or instead of them."""
    or_json: Mapping[str, object] | None = None
    """JSON of this schema may come instead of calls."""
    tokens: tuple[tuple[str, int], ...] = ()
    """Markers that are tokens of their own, which no text spells."""
    spare: tuple[int, ...] = ()
    """Other tokens that no text spells and that may stand in it: those of reasoning."""

    def text(self, *, spelled: bool = False) -> str:
        """In the library's form. spelled: markers as if they were text, for a vocabulary that does not have them."""
        mark = _quoted if spelled else self._mark
        lines = [HEADER, f"start: {self._start()}", *self._calls(mark)]
        lines += [
            f"f{i}: {_quoted(self._head(function))} a{i} {_quoted('}')}" for i, function in enumerate(self.functions)
        ]
        lines += [json_rule(f"a{i}", function.parameters) for i, function in enumerate(self.functions)]
        if self.or_text:
            lines.append(f"TEXT: {self._said()}")
            lines.append(self._texts(() if spelled else self.spare))
        if self.or_json is not None:
            lines.append(json_rule("json", self.or_json))
        return "\n".join(lines) + "\n"

    def _start(self) -> str:
        if self.or_json is not None:
            return "calls | json"
        if not self.or_text:
            return "calls"
        return "calls | said" if self.format.marker is None else "said calls?"

    def _said(self) -> str:
        """A text that does not begin like a call, and does not spell what begins one."""
        if self.format.marker is None:
            return r"/\s*[^{\s](.|\n)*/"
        return rf"/(.|\n)+/ & ~/(.|\n)*{re.escape(self.format.marker.opens)}(.|\n)*/"

    @staticmethod
    def _texts(between: Sequence[int]) -> str:
        """Rule of texts with such tokens between them: two in a row could spell what neither of them may."""
        tokens = " | ".join(f"<[{i}]>" for i in between)
        return f"said: TEXT? (({tokens}) TEXT?)*" if tokens else "said: TEXT?"

    def _calls(self, mark: Callable[[str], str]) -> list[str]:
        """Rules of all calls, and of one."""
        form, marker = self.format, self.format.marker
        one = "call: " + " | ".join(f"f{i}" for i in range(len(self.functions)))
        if marker is None:
            return ["calls: call", one]
        opens = _joined(mark(marker.opens), _text(form.before + ("[" if form.listed else "")))
        closes = _joined(_text(("]" if form.listed else "") + form.after), mark(marker.closes) if marker.closes else "")
        if form.listed:
            return [_joined("calls:", opens, self._repeated("call", '", "'), closes), one]
        return [f"calls: {self._repeated('marked', _quoted(chr(10)))}", _joined("marked:", opens, "call", closes), one]

    def _repeated(self, rule: str, between: str) -> str:
        return rule if self.most == 1 else f"{rule} ({between} {rule}){{0,{self.most - 1}}}"

    def _head(self, function: Function) -> str:
        return f'{{"name": "{function.name}", "{self.format.key}": '

    def _mark(self, text: str) -> str:
        ids = dict(self.tokens)
        return f"<[{ids[text]}]>" if text in ids else _quoted(text)


def reserved_tokens(texts: Iterable[str], model: LanguageModel) -> dict[str, int]:
    """Those of the texts that are tokens which no text spells."""
    vocabulary = vocabulary_of(model.tokenizer)
    ids = {vocabulary.added[i]: i for i in vocabulary.reserved_ids if i < model.layout.vocab_size}
    return {text: ids[text] for text in texts if text in ids}


def _text(text: str) -> str:
    return _quoted(text) if text else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
