"""The loop: a line is a question or a command; what is wrong with it is one line, and the chat goes on."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args

import typer
from rich.console import Console

from server.errors import ApiError
from server.serving import Served, load
from server.settings import BadSettings, Settings
from server.terminal.conversation import ChatOptions, Conversation, Steer, Turn, run
from server.terminal.screen import JsonLines, Output, Screen
from server.translate.chat_reply import ChatReply
from steering.errors import SteeringError

PROMPT = "> "


def open_chat(settings: Settings, options: ChatOptions, *, steer: Steer | None, as_json: bool) -> int:
    """Loads the model and talks until the input ends. Returns the exit code.

    steer: None is on where there is a default profile, else off.
    """
    with Console(stderr=True).status(f"Loading {settings.model} ..."):
        served = load(replace(settings, max_rows=2, default_mode="off"))
    try:
        mode: Steer = steer or ("off" if served.default_profile is None else "on")
        conversation = Conversation(served, replace(options, steer=mode))
    except ApiError as error:
        raise BadSettings(_reason(error, served)) from None
    output = JsonLines() if as_json else Screen(Console(highlight=False))
    try:
        return Chat(conversation, output, interactive=sys.stdin.isatty()).run(_reader())
    finally:
        served.engine.close()


class Quit(Exception):
    """Asked for by /quit."""


class Chat:
    def __init__(self, conversation: Conversation, output: Output, *, interactive: bool) -> None:
        self.conversation, self.output, self.interactive = conversation, output, interactive
        self.failed = False

    def run(self, read: Callable[[], str]) -> int:
        """Takes lines until there are none. 1 if one of them failed and nobody was there to see it."""
        self.output.note(f"{self.conversation.served.model.name}, {self.conversation.options}. /help lists commands.")
        with suppress(Quit):
            while True:
                try:
                    self.take(read())
                except EOFError:
                    self.output.note("")  # the prompt's line ends here
                    break
                except KeyboardInterrupt:
                    if not self.interactive:
                        raise
                    self.output.note("\nCtrl-D or /quit ends the chat.")
        return int(self.failed and not self.interactive)

    def take(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._command(line)
            elif line.strip():
                self._answer(self.conversation.turns, line)
        except (ApiError, SteeringError) as error:
            self.failed = True
            typer.echo(f"unsway: {_reason(error, self.conversation.served)}", err=True)

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean /{close[0]}?" if close else "/help lists them."
            raise _refusal(f"there is no command /{name[:40]}; {hint}")
        COMMANDS[name].run(self, argument.strip())

    def _answer(self, turns: list[Turn], question: str) -> None:
        served = self.conversation.served
        call = self.conversation.ask(turns, question)
        with _interruptible() as interrupted:
            (request,) = call.requests
            events = run(served.engine, request, interrupted)
            answers = self.output.show(ChatReply(call, served.model), events)
        answer = "".join(event.text for event in answers[0])
        if answer:
            self.conversation.keep(turns, question, answer)
        if interrupted() and not self.interactive:
            raise KeyboardInterrupt

    def change(self, **changes: object) -> None:
        self.conversation.change(**changes)
        self.output.note(str(self.conversation.options))

    def steer(self, argument: str) -> None:
        if argument not in get_args(Steer):
            raise _refusal(f"/steer takes {', '.join(get_args(Steer))}; got {argument[:40]!r}.")
        self.change(steer=argument)

    def strength(self, argument: str) -> None:
        value: float | str = argument
        with suppress(ValueError):
            value = float(argument)
        self.change(strength=value if argument else None)

    def retry(self, _: str) -> None:
        turns = self.conversation.turns
        if not turns:
            raise _refusal("there is no answer to retry.")
        self._answer(turns[:-2], turns[-2]["content"])

    def reset(self, _: str) -> None:
        self.conversation.turns = []
        self.output.note("The conversation starts anew.")

    def help(self, _: str) -> None:
        width = max(len(command.usage) for command in COMMANDS.values())
        for command in COMMANDS.values():
            self.output.note(f"{command.usage:{width}}  {command.help}")
        self.output.note("Ctrl-C stops an answer, Ctrl-D ends the chat; a space before it makes /... a question.")

    def quit(self, _: str) -> None:
        raise Quit


@dataclass(frozen=True)
class Command:
    usage: str
    help: str
    run: Callable[[Chat, str], None]


COMMANDS: Mapping[str, Command] = {
    "steer": Command("/steer on|off|observe|compare", "How the next answers are steered.", Chat.steer),
    "profile": Command("/profile [NAME]", "By which profile.", lambda chat, name: chat.change(profile=name or None)),
    "strength": Command("/strength [X]", "How hard; 1 is the calibrated dose.", Chat.strength),
    "gate": Command(
        "/gate [profile|always|drift]", "When it applies.", lambda chat, gate: chat.change(gate=gate or None)
    ),
    "retry": Command("/retry", "Answer the last question again, as things are set now.", Chat.retry),
    "reset": Command("/reset", "Forget the conversation.", Chat.reset),
    "system": Command(
        "/system [TEXT]", "What the model is told first.", lambda chat, text: chat.change(system=text or None)
    ),
    "help": Command("/help", "This list.", Chat.help),
    "quit": Command("/quit", "End the chat.", Chat.quit),
}


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is noted instead of raised: it must not tear a step of the engine apart."""
    noted = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def _reader() -> Callable[[], str]:
    """Lines of stdin; with a prompt, editing and history where somebody types them."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is not UTF-8 is refused like every other question
    if not sys.stdin.isatty():
        return input
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401
    return lambda: input(PROMPT)


def _refusal(message: str) -> ApiError:
    return ApiError("invalid_value", message)


def _reason(error: Exception, served: Served) -> str:
    if isinstance(error, ApiError) and error.code == "no_default_profile":
        names = ", ".join(pack.name for pack in served.profiles()) or "none for this model"
        return f"no profile to steer by: name one with --profile or /profile (there are: {names})."
    return " ".join(str(error).split())
