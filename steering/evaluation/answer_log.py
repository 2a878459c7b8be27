"""Answer log: every answer is written as it comes, and none is asked for twice. A killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steering.errors import EvaluationError
from steering.evaluation.backend import Ask, Backend
from steering.evaluation.core import Reply


@dataclass
class AnswerLog:
    """A backend that remembers: one JSON line an answer, after a first one that says whose answers they are."""

    inner: Backend
    path: Path
    _known: dict[str, Reply] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `EvaluationError` if the file holds somebody else's answers, or is none of ours."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._read():
            self.path.write_text(json.dumps({"answers of": dict(self.identity)}) + "\n", encoding="utf-8")

    @property
    def identity(self) -> Mapping[str, str]:
        return self.inner.identity

    @property
    def num_known(self) -> int:
        return len(self._known)

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Equal asks are one. What failed is not written: it is asked again in the next run."""
        wanted: dict[str, list[int]] = {}
        for i, ask in enumerate(asks):
            wanted.setdefault(key_of(ask), []).append(i)
        new = [key for key in wanted if key not in self._known]
        for key, places in wanted.items():
            if key in self._known:
                yield from ((i, self._known[key]) for i in places)
        for place, reply in self.inner.answer([asks[wanted[key][0]] for key in new]):
            key = new[place]
            if reply.error is None:
                self._write(key, asks[wanted[key][0]], reply)
            yield from ((i, reply) for i in wanted[key])

    def _write(self, key: str, ask: Ask, reply: Reply) -> None:
        self._known[key] = reply
        line = {"key": key, "ask": asdict(ask), "reply": _told(reply)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self) -> bool:
        """Whether there is a log to go on with. A last line without its end was being written when the run died."""
        if not self.path.exists():
            return False
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if not whole:
            return False
        lines = whole.decode(errors="replace").rstrip("\n").split("\n")
        try:
            found = json.loads(lines[0])["answers of"]
            self._known = {line["key"]: _reply(line["reply"]) for line in map(json.loads, lines[1:])}
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{self.path} is no log of answers, or damaged: choose another --out.") from error
        if found != dict(self.identity):
            changed = ", ".join(sorted(k for k in found | dict(self.identity) if found.get(k) != self.identity.get(k)))
            raise EvaluationError(f"{self.path} holds answers of another run ({changed} differ): choose another --out.")
        if whole != raw:
            self.path.write_bytes(whole)
        return True


def key_of(ask: Ask) -> str:
    """Of what is asked, not of when."""
    spelt = json.dumps([type(ask).__name__, asdict(ask)], sort_keys=True)
    return hashlib.sha256(spelt.encode()).hexdigest()[:24]


def _told(reply: Reply) -> dict[str, Any]:
    """Without what is as it is by default."""
    return {key: value for key, value in asdict(reply).items() if value != getattr(Reply(""), key) or key == "text"}


def _reply(told: dict[str, Any]) -> Reply:
    told = dict(told)
    for key in ("logprobs", "divergences"):
        told[key] = tuple(told.get(key, ()))
    told["layers"] = tuple(tuple(layer) for layer in told.get("layers", ()))
    return Reply(**told)
