"""Schemas that are hostile or wrong end soon, with a word about why; the others are at hand the second time."""

from __future__ import annotations

import resource
import time

import pytest
import torch

from steering.errors import InvalidSchema, SchemaTooComplex
from steering.grammar import compiler
from steering.grammar.compiler import GrammarCompiler
from tests.grammar.hostile import HARMLESS, HOSTILE, TIMED_OUT
from tests.models import tiny_model

WELL = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize("name", HOSTILE)
def test_S11_hostile_schemas_end_within_three_seconds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processor time, which is all the time there is on an idle machine."""
    monkeypatch.setattr(compiler, "PATIENCE", 60.0)
    grammars, before = GrammarCompiler(tiny_model()), seconds()
    with pytest.raises((InvalidSchema, SchemaTooComplex)) as caught:
        grammars.compile(HOSTILE[name])
    assert seconds() - before < 3
    assert ("seconds" in str(caught.value)) == (name == TIMED_OUT)


def seconds() -> float:
    """Of processor time, of this thread and of processes that it started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", HARMLESS)
def test_schemas_that_only_look_hostile_are_served(name: str) -> None:
    guide = GrammarCompiler(tiny_model()).compile(HARMLESS[name]).start()
    mask = torch.zeros(12, dtype=torch.int32)
    guide.write_mask(mask)
    assert mask.any() and not guide.failed


def test_a_process_that_takes_too_long_or_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "PATIENCE", 0.001)
    with pytest.raises(SchemaTooComplex, match="seconds"):
        GrammarCompiler(tiny_model()).compile(WELL)
    monkeypatch.setattr(compiler, "PATIENCE", 60.0)
    monkeypatch.setattr(compiler.trial, "__file__", "/nowhere.py")
    with pytest.raises(SchemaTooComplex, match="memory"):
        GrammarCompiler(tiny_model()).compile(WELL)


def test_what_was_compiled_is_at_hand_until_others_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars, others = GrammarCompiler(tiny_model()), [{"const": i} for i in range(3)]
    monkeypatch.setattr(compiler, "MAX_CACHED", 2)
    first = grammars.compile(WELL)
    assert grammars.compile(WELL) is first is grammars.find(dict(WELL)) and grammars.find(others[0]) is None
    grammars.compile(others[0])
    assert grammars.find(WELL) is first  # and so younger than the other
    grammars.compile(others[1])
    assert grammars.find(WELL) is first and grammars.find(others[0]) is None
    monkeypatch.setattr(compiler, "MAX_CACHED_BYTES", 1)
    grammars.compile(others[2])
    assert grammars.find(WELL) is None
