"""Conversations side by side, system prompts, panels: what is asked of whom, and in what company."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from steering.evaluation.backend import Ask, Chat, Panel, Prompted, Read, Weigh, shared_length
from steering.evaluation.core import Reply
from steering.evaluation.protocol import Steps, converse
from tests.evaluation.fakes import Fake, last_user

USER = ({"role": "user", "content": "Hi"},)


def chat(text: str) -> Chat:
    return Chat(({"role": "user", "content": text},))


def counting(name: str, turns: int) -> Steps[str]:
    said = []
    for turn in range(turns):
        replies = yield (chat(f"{name}{turn}"), chat(f"{name}{turn}'"))
        said.append("+".join(reply.text for reply in replies))
    return ",".join(said)


def test_conversations_of_any_length_run_side_by_side() -> None:
    waves: list[int] = []

    class Waves(Fake):
        def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
            waves.append(len(asks))
            return super().answer(asks)

    ticks: list[None] = []
    steps = [counting("a", 3), counting("b", 0), counting("c", 1)]
    result = converse(steps, Waves(lambda ask: Reply(last_user(ask).upper())), lambda: ticks.append(None))
    assert [found for _, found, _ in result] == ["A0+A0',A1+A1',A2+A2'", "", "C0+C0'"]
    assert [len(replies) for replies, _, _ in result] == [6, 0, 2]
    assert waves == [4, 2, 2] and len(ticks) == 8


def test_one_question_that_cannot_be_asked_leaves_the_others() -> None:
    backend = Fake(lambda ask: Reply("", error="too long") if last_user(ask) == "a1'" else Reply("ok"))
    (first, nothing, error), (_, found, none) = converse([counting("a", 3), counting("b", 2)], backend)
    assert error == "too long" and nothing is None and len(first) == 4
    assert none is None and found == "ok+ok,ok+ok"


def test_the_baseline_puts_its_prompt_before_the_protocols_own() -> None:
    own = ({"role": "system", "content": "Debate."}, *USER)
    inner = Fake(lambda ask: Reply(""))
    asks: list[Ask] = [Chat(USER, 7, 0.5, 3), Chat(own), Weigh(USER, ("A", "B"), layers=True), Read("x")]
    prompted = Prompted(inner, "Be true.")
    assert len(list(prompted.answer(asks))) == 4
    said = {"role": "system", "content": "Be true."}
    assert inner.asked[::-1] == [
        Chat((said, *USER), 7, 0.5, 3),
        Chat(({"role": "system", "content": "Be true.\n\nDebate."}, *USER)),
        Weigh((said, *USER), ("A", "B"), layers=True),
        Read("x"),
    ]
    assert prompted.identity == {"model": "fake", "system": "Be true."}


def test_judges_of_a_panel_take_turns() -> None:
    panel = Panel(tuple(Fake(lambda ask, i=i: Reply(str(i))) for i in range(3)))  # type: ignore[misc]
    asks = [Chat(USER, draw=draw) for draw in (0, 1, 2, 2, 6, 7)]
    got = dict(panel.answer(asks))
    assert [got[i].text for i in range(6)] == ["0", "1", "2", "2", "0", "1"]
    assert panel.identity == {"model 0": "fake", "model 1": "fake", "model 2": "fake"}


@pytest.mark.parametrize(
    ("texts", "length"), [((" (A)", " (B)"), 2), (((1, 2), (1, 2, 3)), 2), (((1,), (2,)), 0), (("ab",), 2)]
)
def test_shared_length(texts: Sequence[Sequence[object]], length: int) -> None:
    assert shared_length(texts) == length
