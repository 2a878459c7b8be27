"""What a job says, as numbered events: on file, so that they outlast the server, and in memory for those who listen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MAX_BYTES = 1 << 20
"""Of one job's log. Beyond, old progress gives way, then what was said first."""
MAX_LINE = 16 << 10
"""Characters of one line."""

Name = Literal["state", "progress", "log"]


@dataclass(frozen=True)
class Event:
    id: int
    """From 1, growing: the events after one that a client has are those it lacks."""
    name: Name
    data: Mapping[str, Any]

    def line(self) -> bytes:
        return json.dumps({"id": self.id, "event": self.name, "data": self.data}).encode() + b"\n"


class JobLog:
    """Of one job. What the file cannot take (the disk is full) is in memory alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[Event] = _read(path)
        self._nbytes = sum(len(event.line()) for event in self.events)
        self.changed = asyncio.Event()
        """Of the next `publish`. Who looks at the events and then waits takes it before it looks."""
        self._torn = path.exists() and not path.read_bytes().endswith(b"\n")
        """The file does not end with a whole line."""

    @property
    def last_id(self) -> int:
        return self.events[-1].id if self.events else 0

    @property
    def end_id(self) -> int:
        """Of the event that ends it, which is made of the record and never stored: so there is exactly one."""
        return self.last_id + 1

    @property
    def progress(self) -> Mapping[str, Any] | None:
        """The latest."""
        return next((event.data for event in reversed(self.events) if event.name == "progress"), None)

    def lines(self, count: int) -> list[str]:
        """The last so many that the command wrote."""
        written = [str(event.data.get("line", "")) for event in self.events if event.name == "log"]
        return [line for text in written[-count:] for line in text.splitlines() or [""]][-count:]

    def after(self, event_id: int) -> list[Event]:
        return [event for event in self.events if event.id > event_id]

    def add(self, *said: tuple[Name, Mapping[str, Any]]) -> list[Event]:
        """Writes them down; `publish` then tells who listens. Touches the disk: not for the event loop."""
        new = [Event(self.last_id + 1 + i, name, data) for i, (name, data) in enumerate(said)]
        written = [event.line() for event in new]
        self._nbytes += sum(map(len, written))
        self.events = [*self.events, *new]
        if self._nbytes > MAX_BYTES:
            self.events = _shortened(self.events)
            self._nbytes = sum(len(event.line()) for event in self.events)
            self._replace()
        else:
            self._append(b"".join(written))
        return new

    def publish(self) -> None:
        """Wakes those that wait; on the event loop."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _append(self, raw: bytes) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                raw = b"\n" * self._torn + raw
                self._torn = True
                self._torn = file.write(raw) != len(raw)
        except OSError:
            return

    def _replace(self) -> None:
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(b"".join(event.line() for event in self.events))
            new.replace(self._path)
            self._torn = False
        except OSError:
            new.unlink(missing_ok=True)


def parse_line(line: str) -> tuple[Name, Mapping[str, Any]]:
    """A line of a command's output: an object of `--progress json`, or text."""
    told: Any = None
    with suppress(ValueError, RecursionError):
        told = json.loads(line) if line.startswith("{") else None
    match told:
        case {"log": str(text)}:
            return "log", {"line": text[:MAX_LINE]}
        case {"stage": str(), "done": int(), "total": int(), "unit": str(), "message": str()}:
            known = {
                name: told[name] for name in ("stage", "done", "total", "unit", "eta_s", "message") if name in told
            }
            return "progress", known
        case _:
            return "log", {"line": line[:MAX_LINE]}


def _shortened(events: Sequence[Event]) -> list[Event]:
    """Half of what there may be, at most: without progress but the latest, then without what is oldest."""
    latest = next((event.id for event in reversed(events) if event.name == "progress"), 0)
    kept, size = list[Event](), 0
    for event in reversed(events):
        if event.name == "progress" and event.id != latest:
            continue
        size += len(event.line())
        if size > MAX_BYTES // 2:
            break
        kept.append(event)
    return kept[::-1]


def _read(path: Path) -> list[Event]:
    """What is whole in the file, in order; a damaged line is left out."""
    try:
        raw = path.read_bytes()
    except OSError:
        return []
    return list(_in_order(filter(None, map(_event, raw.split(b"\n")))))


def _in_order(events: Iterable[Event]) -> Iterator[Event]:
    last = 0
    for event in events:
        if event.id > last:
            last = event.id
            yield event


def _event(line: bytes) -> Event | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    match told:
        case {"id": int(number), "event": "state" | "progress" | "log" as name, "data": dict(data)} if number > 0:
            return Event(number, name, data)
        case _:
            return None
