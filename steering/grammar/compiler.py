"""Compiler: from a schema to a grammar, within limits of time and memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

from steering.errors import InvalidSchema, SchemaTooComplex
from steering.grammar import trial
from steering.grammar.call_grammar import CallsShape
from steering.grammar.json_grammar import Grammar, build, grammar_text
from steering.model.loading import LanguageModel

PATIENCE = 10.0
"""Seconds to wait for a trial, which ends itself after `trial.SECONDS` of processor time."""
MAX_SCHEMA = 64 * 1024
"""Bytes of a schema as compact JSON."""
MAX_CACHED = 64
MAX_CACHED_BYTES = 1024 * 1024
"""Of the schemas; what is made of one is a bounded multiple of it."""


Shape = Mapping[str, object] | CallsShape
"""What an answer must be: JSON of a schema, or calls."""


class GrammarCompiler:
    """Grammars of one model, those asked for last at hand. Any thread may use it."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._cache: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = Lock()

    def find(self, shape: Shape) -> Grammar | None:
        """The grammar of a shape that was compiled before, if it is still at hand."""
        text, _ = _texts(shape)
        with self._lock:
            if text in self._cache:
                self._cache.move_to_end(text)
            return self._cache.get(text)

    def compile(self, shape: Shape) -> Grammar:
        """Takes up to `PATIENCE`. Raises `InvalidSchema`, or `SchemaTooComplex` where a limit is met."""
        if (found := self.find(shape)) is not None:
            return found
        text, tried = _texts(shape)
        if len(text.encode()) > MAX_SCHEMA:
            raise SchemaTooComplex(f"the schema has more than {MAX_SCHEMA:,} bytes.")
        _try(tried)
        try:
            grammar = build(text, self._model)
        except ValueError as error:  # it may differ over this vocabulary
            raise _invalid(str(error)) from None
        with self._lock:
            self._cache[text] = grammar
            while len(self._cache) > MAX_CACHED or sum(map(len, self._cache)) > MAX_CACHED_BYTES:
                self._cache.popitem(last=False)
        return grammar


def _texts(shape: Shape) -> tuple[str, str]:
    """(The grammar, the same for a trial over single bytes)."""
    if isinstance(shape, CallsShape):
        return shape.text(), shape.text(spelled=True)
    text = grammar_text(shape)
    return text, text


def _try(text: str) -> None:
    command = [sys.executable, trial.__file__]
    too_long = SchemaTooComplex(f"the schema takes more than {trial.SECONDS} seconds to compile.")
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:  # and killed
        raise too_long from None
    if done.returncode and -done.returncode == getattr(signal, "SIGXCPU", None):
        raise too_long
    if done.returncode:
        raise SchemaTooComplex("the schema takes too much memory, or cannot be compiled at all.")
    if problem := json.loads(done.stdout):
        raise _invalid(problem)


def _invalid(problem: str) -> InvalidSchema:
    return InvalidSchema(f"the schema cannot be served: {' '.join(problem.split())[:400]}.")
