"""`unsway chat` in this process: the requests it makes, the loop, what it writes."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

from server.serving import Served
from server.terminal.chat import Chat
from server.terminal.conversation import ChatOptions, Conversation, Steer, run
from server.terminal.screen import FIRED, JsonLines, Screen
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, TokenEvent
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import serve

LONG = "a question of many tokens " * 4


@dataclass
class SpyEngine(FakeEngine):
    """Keeps the requests, and raises Ctrl-C in the step of that number."""

    requests: list[Request] = field(default_factory=list)
    interrupt_at: int | None = None

    def add(self, request: Request) -> None:
        super().add(request)
        self.requests.append(request)

    def step(self) -> list[TokenEvent]:
        if self.steps == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return super().step()


@dataclass
class Talk:
    """A chat whose lines are written down beforehand."""

    chat: Chat
    engine: SpyEngine
    screen: io.StringIO

    def __call__(self, *lines: str) -> int:
        script = iter(lines)

        def read() -> str:
            for line in script:
                return line
            raise EOFError

        return self.chat.run(read)

    @property
    def text(self) -> str:
        return self.screen.getvalue()

    def prompt(self, index: int) -> str:
        ids = list(self.engine.requests[index].prompt_ids)
        return str(self.engine.model.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.fixture
def talk(model: LanguageModel, store: PackStore) -> Talk:
    return make(model, store)


def make(
    model: LanguageModel,
    store: PackStore,
    *,
    options: ChatOptions | None = None,
    terminal: bool = False,
    interactive: bool = False,
    **engine: Any,
) -> Talk:
    spy, screen = SpyEngine(model, **engine), io.StringIO()
    served = Served(model, spy, store, default_profile="candid", created=1)  # type: ignore[arg-type]
    console = Console(file=screen, force_terminal=terminal, color_system="standard" if terminal else None, width=80)
    conversation = Conversation(served, options or ChatOptions(steer="on"))
    return Talk(Chat(conversation, Screen(console), interactive=interactive), spy, screen)


def test_an_answer_is_that_of_the_server(
    model: LanguageModel, store: PackStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, receipt and all, by a real engine; and steering did change it."""
    engine = Engine(model, EngineConfig(max_rows=2))
    served = Served(model, engine, store, default_profile="candid", created=1)
    options = ChatOptions(steer="on", system="Be brief.", max_tokens=12)
    chat = Chat(Conversation(served, options), JsonLines(), interactive=False)
    lines = iter(["Is it?", "/steer off", "/retry"])
    assert chat.run(lambda: next(lines, None) or end()) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    engine.close()

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    with serve(lambda: Served(model, Engine(model, EngineConfig(max_rows=2)), store, "candid", 1)) as live:
        for answer, steering in zip(answers, (True, False), strict=True):
            reply = live.chat(messages=messages, temperature=0, max_tokens=12, steering=steering).json()
            assert answer["choices"] == reply["choices"] and answer["usage"] == reply["usage"]
            assert answer["system_fingerprint"] == reply["system_fingerprint"]
    assert answers[0]["choices"][0]["steering"]["fired_tokens"] > 0
    assert answers[0]["choices"][0]["message"] != answers[1]["choices"][0]["message"]


def end() -> str:
    raise EOFError


def test_commands_change_the_next_request(talk: Talk) -> None:
    assert talk("one", "/steer observe", "two", "/steer on", "/strength 0.5", "/profile firm", "/gate drift", "3") == 0
    plans = [request.plan for request in talk.engine.requests]
    assert [plan.mode for plan in plans] == ["on", "observe", "on"]
    assert [plan.strength for plan in plans] == [1.0, 1.0, 0.5]
    assert [plan.profile.split("@")[0] for plan in plans] == ["candid", "candid", "firm"]
    assert [c.gate.kind for c in plans[2].all_corrections] == ["drift"]


def test_without_an_argument_commands_go_back_to_the_default(talk: Talk) -> None:
    talk("/strength 0.5", "/profile firm", "/gate drift", "/system Be brief.")
    talk("/strength", "/profile", "/gate", "/system", "one")
    (request,) = talk.engine.requests
    assert request.plan.profile.startswith("candid@") and request.plan.strength == 1.0
    assert "Be brief." not in talk.prompt(0)


def test_the_conversation_goes_on(talk: Talk) -> None:
    talk("first question", "second one", "/reset", "/system Be brief.", "third one")
    answer = talk.text.splitlines()[0]
    assert "first question" in answer  # the fake engine echoes
    assert talk.prompt(1).count("first question") == 2 and "second one" in talk.prompt(1)
    assert "first" not in talk.prompt(2) and "second" not in talk.prompt(2)
    assert talk.prompt(2).index("Be brief.") < talk.prompt(2).index("third one")


def test_retry_asks_the_same_with_another_seed(talk: Talk) -> None:
    talk("first", "second", "/steer off", "/retry", "third")
    first, again = talk.engine.requests[1:3]
    assert first.prompt_ids == again.prompt_ids and first.sampling.seed != again.sampling.seed
    assert (first.plan.mode, again.plan.mode) == ("on", "off")
    assert talk.prompt(3).count("<|user|>") == 3  # the answer was replaced, not added


def test_compare_answers_twice_with_one_seed(talk: Talk) -> None:
    talk("/steer compare", "which", "/steer off", "next")
    compared, after = talk.engine.requests
    steered, plain = compared.choices
    assert (steered.plan.mode, plain.plan.mode) == ("on", "off")
    assert steered.sampling.seed == plain.sampling.seed and steered.prompt_ids == plain.prompt_ids
    assert talk.text.splitlines()[:4] == ["[on]", "which", "[off]", "which"]  # generated together, written in turn
    assert talk.prompt(1).count("<|user|>") == 2  # one answer of the two is remembered
    assert after.plan.mode == "off"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/strength 9", "strength must be between 0 and 2"),
        ("/strength nan", "finite"),
        ("/strength much", "steering.strength"),
        ("/profile nothing", "no profile named 'nothing'"),
        ("/profile broken", "tensors.safetensors"),
        ("/profile ON", "steering.profile"),
        ("/gate sometimes", "steering.gate"),
        ("/steer", "on, off, observe, compare"),
        ("/steer sideways", "'sideways'"),
        ("/stear on", "did you mean /steer?"),
        ("/", "/help"),
        ("/retry", "no answer to retry"),
        ("word " * 3000, "context is 512 tokens"),
        ("half a character: \udcff", "surrogate"),
    ],
    ids=lambda text: text[:20].encode("ascii", "replace").decode(),
)
def test_L13_bad_input_is_one_line_and_the_chat_goes_on(
    model: LanguageModel, store: PackStore, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    for interactive in (True, False):
        talk = make(model, store, interactive=interactive)
        assert talk(line, "and then") == (0 if interactive else 1)
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith("unsway: ") and words in error
        (request,) = talk.engine.requests
        assert request.plan.strength == 1.0 and request.plan.profile.startswith("candid@")
        assert talk.prompt(0).count("<|user|>") == 1


def test_an_answer_that_fails_is_one_line_and_not_remembered(
    model: LanguageModel, store: PackStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = make(model, store, error_at={13: 2}, interactive=True)
    seeds = iter([1, 13, 1])  # the options are tried out first
    monkeypatch.setattr("secrets.randbits", lambda _: next(seeds))
    assert talk("/steer on", "to fail", "to go on") == 0
    assert "NaN" in capsys.readouterr().err
    assert talk.engine.num_running == 0 and "to fail" not in talk.prompt(1)


@pytest.mark.parametrize("steer", ["on", "compare"])
def test_ctrl_c_stops_the_answer(model: LanguageModel, store: PackStore, steer: Steer) -> None:
    before = signal.getsignal(signal.SIGINT)
    talk = make(model, store, options=ChatOptions(steer=steer), terminal=True, interactive=True, interrupt_at=5)
    assert talk(LONG, "next") == 0
    assert set(talk.engine.aborted) == {talk.engine.requests[0].id}
    assert talk.text.count("stopped after") == (2 if steer == "compare" else 1)
    partial = talk.prompt(1).split("<|assistant|>")[1].split("<|end|>")[0]
    assert partial and partial in LONG and partial != LONG  # what came is kept
    assert signal.getsignal(signal.SIGINT) is before


def test_law_answers_that_are_left_are_aborted(talk: Talk) -> None:
    conversation = talk.chat.conversation
    conversation.change(steer="compare")
    (request,) = conversation.ask([], LONG).requests
    events = run(talk.engine, request, lambda: False)  # type: ignore[arg-type]
    assert next(events).index == 0
    events.close()  # type: ignore[attr-defined]
    assert talk.engine.aborted == [request.id] and not talk.engine.has_work


def test_ctrl_c_in_a_pipe_ends_the_chat(model: LanguageModel, store: PackStore) -> None:
    talk = make(model, store, interrupt_at=5)
    with pytest.raises(KeyboardInterrupt):
        talk(LONG, "next")
    assert talk.engine.num_running == 0 and len(talk.engine.requests) == 1


def test_ctrl_c_at_the_prompt_goes_on(model: LanguageModel, store: PackStore) -> None:
    talk = make(model, store, interactive=True)
    steps: Iterator[str | type[BaseException]] = iter([KeyboardInterrupt, "question", EOFError])

    def read() -> str:
        step = next(steps)
        if isinstance(step, str):
            return step
        raise step

    assert talk.chat.run(read) == 0 and len(talk.engine.requests) == 1


def test_quit_ends_the_chat(talk: Talk) -> None:
    assert talk("/quit", "never asked") == 0 and not talk.engine.requests


def test_on_a_terminal_fired_tokens_are_coloured_and_a_receipt_follows(model: LanguageModel, store: PackStore) -> None:
    talk = make(model, store, terminal=True, interactive=True)
    talk("question", "/steer off", "question", "/help")
    bold_magenta = "\x1b[1;35m"
    assert FIRED == "bold magenta" and talk.text.count(bold_magenta) == 1  # one token of the first answer fires
    assert "fired at 1 of" in talk.text and "drift 0.75" in talk.text
    assert re.search("early '.+', late '.+'", talk.text)
    assert "off · " in talk.text
    assert "/retry" in talk.text


def test_a_pipe_gets_the_answer_and_nothing_else(model: LanguageModel, store: PackStore) -> None:
    talk = make(model, store)
    talk("what \x1b[31m is it", "/help")
    assert talk.text == "what \x1b[31m is it\n"


def test_a_terminal_does_not_obey_what_a_model_writes(model: LanguageModel, store: PackStore) -> None:
    talk = make(model, store, terminal=True)
    talk("\x1b[31mred \x07 \x9b31m ok")
    assert "\x1b[31m" not in talk.text and "\x07" not in talk.text and "\x9b" not in talk.text
    assert "red" in talk.text and "\N{REPLACEMENT CHARACTER}" in talk.text
