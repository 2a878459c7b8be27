"""What a chat writes: text as it comes, or one JSON object an answer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol

import typer
from rich.console import Console
from rich.text import Text

from server.schemas.replies import ChatCompletion
from server.translate.reply import Reply
from steering.engine.request import TokenEvent
from steering.errors import SteeringError

FIRED, STEERED, DIM = "bold magenta", "magenta", "dim"

Events = Iterable[tuple[int, TokenEvent]]
Answers = list[list[TokenEvent]]


class Output(Protocol):
    def show(self, replies: Sequence[Reply], events: Events) -> Answers:
        """Writes the answers as their events come, and gives them back, gathered."""

    def note(self, text: str) -> None:
        """A line about the chat itself."""


class Screen:
    """Text: tokens at which the gate fired coloured, and a receipt after each answer."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def show(self, replies: Sequence[Reply], events: Events) -> Answers:
        """Several answers are generated at the same time and written one after the other."""
        answers: Answers = [[] for _ in replies]
        current = 0
        self._begin(replies, current)
        try:
            for index, event in events:
                answers[index].append(event)
                if index == current:
                    self._write(event)
                while current < len(replies) and answers[current] and answers[current][-1].finish is not None:
                    self._end(replies[current], answers[current])
                    current += 1
                    self._begin(replies, current)
                    for waiting in answers[current] if current < len(replies) else ():
                        self._write(waiting)
        except SteeringError:
            self.console.file.write("\n")  # what ended the answer is a line of its own
            raise
        return answers

    def note(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(Text(text, DIM), soft_wrap=True)

    def _begin(self, replies: Sequence[Reply], index: int) -> None:
        if len(replies) > 1 and index < len(replies):
            self.console.print(Text(f"[{replies[index].call.request.plan.mode}]", DIM))

    def _write(self, event: TokenEvent) -> None:
        if not self.console.is_terminal:
            self.console.file.write(event.text)
            return
        token = event.token
        fired = token is not None and token.reading is not None and token.reading.fired
        style = FIRED if fired else STEERED if token is not None and token.steered else ""
        self.console.print(Text(_printable(event.text), style), end="", soft_wrap=True)

    def _end(self, reply: Reply, answer: Sequence[TokenEvent]) -> None:
        self.console.file.write("\n")
        finish = answer[-1].finish
        if finish is not None and finish.reason == "abort":
            self.note(f"stopped after {finish.completion_tokens} tokens")
        else:
            self.note(receipt_line(reply.completion(answer)))
        self.console.file.flush()


class JsonLines:
    """Each answer as the object that HTTP would reply with, on a line of its own."""

    def show(self, replies: Sequence[Reply], events: Events) -> Answers:
        answers: Answers = [[] for _ in replies]
        for index, event in events:
            answers[index].append(event)
        for reply, answer in zip(replies, answers, strict=True):
            if answer[-1].finish is not None and answer[-1].finish.reason != "abort":
                typer.echo(json.dumps(reply.completion(answer), ensure_ascii=False))
        return answers

    def note(self, text: str) -> None:
        """Nothing but answers."""


def receipt_line(completion: ChatCompletion) -> str:
    """What happened to an answer, for people."""
    choice = completion["choices"][0]
    tokens = completion["usage"]["completion_tokens"]
    receipt = choice.get("steering")
    if receipt is None:
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


def _printable(text: str) -> str:
    """A model may write escape sequences; a terminal must not obey them."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) != "Cc" else "\N{REPLACEMENT CHARACTER}" for char in text
    )
