"""What a chat writes: text as it comes, or one JSON object an answer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import typer
from rich.console import Console
from rich.text import Text

from server.schemas.replies import Choice
from server.translate.chat_reply import ChatReply
from server.translate.reply import gather
from steering.engine.request import TokenEvent
from steering.errors import SteeringError

FIRED, STEERED, DIM = "bold magenta", "magenta", "dim"

Events = Iterable[TokenEvent]
Answers = list[list[TokenEvent]]
"""Events of each answer."""


class Output(Protocol):
    def show(self, reply: ChatReply, events: Events) -> Answers:
        """Writes the answers as their events come, and gives them back, gathered."""

    def note(self, text: str) -> None:
        """A line about the chat itself."""


class Screen:
    """Text: tokens at which the gate fired coloured, and a receipt after each answer."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def show(self, reply: ChatReply, events: Events) -> Answers:
        """Several answers are generated at the same time and written one after the other."""
        answers: Answers = [[] for _ in reply.call.choices]
        current = 0
        self._begin(reply, current)
        try:
            for event in events:
                answers[event.index].append(event)
                if event.index == current:
                    self._write(event)
                while current < len(answers) and answers[current] and answers[current][-1].finish is not None:
                    self._end(reply, answers[current])
                    current += 1
                    self._begin(reply, current)
                    for waiting in answers[current] if current < len(answers) else ():
                        self._write(waiting)
        except SteeringError:
            self.console.file.write("\n")  # what ended the answer is a line of its own
            raise
        return answers

    def note(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(Text(text, DIM), soft_wrap=True)

    def _begin(self, reply: ChatReply, index: int) -> None:
        choices = reply.call.choices
        if len(choices) > 1 and index < len(choices):
            self.console.print(Text(f"[{choices[index].request.plan.mode}]", DIM))

    def _write(self, event: TokenEvent) -> None:
        if not self.console.is_terminal:
            self.console.file.write(event.text)
            return
        token = event.token
        fired = token is not None and token.reading is not None and token.reading.fired
        style = FIRED if fired else STEERED if token is not None and token.steered else ""
        self.console.print(Text(printable(event.text), style), end="", soft_wrap=True)

    def _end(self, reply: ChatReply, answer: Sequence[TokenEvent]) -> None:
        self.console.file.write("\n")
        finish = answer[-1].finish
        if finish is not None and finish.reason == "abort":
            self.note(f"stopped after {finish.completion_tokens} tokens")
        else:
            index = answer[-1].index
            gathered = gather(reply.call, answer)[index]
            self.note(receipt_line(reply.choice(index, gathered), gathered.finish.completion_tokens))
        self.console.file.flush()


class JsonLines:
    """What is answered to a question as the object that HTTP would reply with, on a line of its own."""

    def show(self, reply: ChatReply, events: Events) -> Answers:
        answers: Answers = [[] for _ in reply.call.choices]
        for event in events:
            answers[event.index].append(event)
        ends = [answer[-1].finish for answer in answers]
        if not any(end is not None and end.reason == "abort" for end in ends):
            whole = reply.whole([event for answer in answers for event in answer])
            typer.echo(json.dumps(whole, ensure_ascii=False))
        return answers

    def note(self, text: str) -> None:
        """Nothing but answers."""


def receipt_line(choice: Choice, tokens: int) -> str:
    """What happened to an answer, for people."""
    receipt = choice.get("steering")
    if receipt is None or receipt["mode"] == "off":
        parts = ["off", f"{tokens} tokens"]
    else:
        parts = [f"{receipt['profile']} {receipt['mode']}", f"fired at {receipt['fired_tokens']} of {tokens} tokens"]
        if "at" in receipt:
            parts.append(f"first at token {receipt['at']}")
        if "max_drift" in receipt:
            parts.append(f"drift {receipt['max_drift']:.2f}")
        if "early_token" in receipt and "late_token" in receipt:
            parts.append(f"early {receipt['early_token']!r}, late {receipt['late_token']!r}")
        if "skipped" in receipt:
            parts.append(f"not applied: {receipt['skipped']}")
    if choice["finish_reason"] == "length":
        parts.append("cut off at its limit")
    return " · ".join(parts)


def printable(text: str) -> str:
    """A model may write escape sequences; a terminal must not obey them."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) != "Cc" else "\N{REPLACEMENT CHARACTER}" for char in text
    )
