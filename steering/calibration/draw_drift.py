"""Draw drift: one chat with a claim, read in one or two models, as numbers and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steering.calibration.fit_lens import LensFit, fit_lenses, record_states
from steering.calibration.forced_completion import Geometry, forced_completion
from steering.calibration.read_drift import Readings, Sides, along, at_ends, probed
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.errors import InvalidRequest
from steering.lens import Lens, LogitLens
from steering.model.chat import encode_chat, token_text
from steering.model.loading import LanguageModel


@dataclass(frozen=True)
class Chat:
    """What a model is asked, and what to look for."""

    messages: tuple[Mapping[str, str], ...]
    opening: str = ""
    """How the answer begins, up to where it is decided: "The answer is"."""
    truth: str | None = None
    claim: str | None = None
    """The right answer and the user's, as they would follow the opening; both or neither."""
    max_tokens: int = 48

    def __post_init__(self) -> None:
        if (self.truth is None) != (self.claim is None):
            raise InvalidRequest("truth and claim belong together; give both, or neither.", "truth")


@dataclass(frozen=True, eq=False)
class Drift:
    """What one model says to a chat, layer by layer."""

    answer: str
    lens: str
    """`tuned` or `logit`"""
    decided: Readings
    """After the opening, k = 1."""
    over_answer: Readings
    """Along its own answer."""
    tokens: tuple[str, ...]
    """Of the answer, one a cut."""
    concluding: Readings | None
    """At the same cuts, the answer broken off and the opening put after it; None without truth, claim and opening."""
    geometry: Geometry | None
    """None without truth and claim."""

    def as_json(self) -> dict[str, Any]:
        return {
            "answer": self.answer,
            "lens": self.lens,
            "decided": self.decided.as_json(),
            "over_answer": {"tokens": list(self.tokens), **self.over_answer.as_json()},
            "concluding": self.concluding and self.concluding.as_json(),
            "forced_completion": self.geometry and self.geometry.as_json(),
        }


def lenses_for(model: LanguageModel, texts: Sequence[Sequence[int]]) -> tuple[str, dict[int, Lens]]:
    """("tuned", lenses fitted on the texts), or the logit lens where there are none."""
    if texts:
        return "tuned", {**fit_lenses(record_states(model, texts), model.layout.unembed, LensFit())}
    return "logit", {layer: LogitLens(layer) for layer in range(1, model.layout.num_layers)}


def read_drift(model: LanguageModel, chat: Chat, texts: Sequence[Sequence[int]] = ()) -> Drift:
    """texts: neutral ones, token ids, to fit tuned lenses on. Raises `InvalidRequest`, `TemplateError`."""
    prompt = encode_chat(model, chat.messages)
    opening = model.tokenizer.encode(chat.opening, add_special_tokens=False)
    sides = _sides(model, chat, opening)
    name, lenses = lenses_for(model, texts)
    answer = _answer(model, prompt, chat.max_tokens)
    decided = [*prompt, *opening]
    over_answer, at = along(model, lenses, prompt, answer, sides)
    return Drift(
        answer=model.tokenizer.decode(answer, skip_special_tokens=True),
        lens=name,
        decided=at_ends(model, lenses, [decided], sides),
        over_answer=over_answer,
        tokens=tuple(token_text(model, answer[i]) for i in at),
        concluding=probed(model, lenses, prompt, answer, opening, sides) if sides and opening else None,
        geometry=forced_completion(model, [decided], [sides.truth], [sides.claim]) if sides else None,
    )


def write(drifts: Mapping[str, Drift], chat: Chat, out: Path) -> list[Path]:
    """drift.json and the pictures, a panel a model; returns what was written."""
    from steering.calibration import plots

    out.mkdir(parents=True, exist_ok=True)
    document = {
        "messages": [dict(message) for message in chat.messages],
        "opening": chat.opening,
        "truth": chat.truth,
        "claim": chat.claim,
        "models": {name: drift.as_json() for name, drift in drifts.items()},
    }
    (out / "drift.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    names = (chat.truth or "truth", chat.claim or "claim")
    figures = {
        "drift-by-layer": plots.drift_by_layer({name: drift.decided for name, drift in drifts.items()}, names),
        "drift-over-answer": plots.drift_over_answer({name: (d.over_answer, d.tokens) for name, d in drifts.items()}),
    }
    if concluding := {name: (d.concluding, d.tokens) for name, d in drifts.items() if d.concluding}:
        figures["preference-over-answer"] = plots.preference_over_answer(concluding)
    if geometries := {name: d.geometry for name, d in drifts.items() if d.geometry}:
        figures["forced-completion"] = plots.completion_geometry(geometries)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=144)
    return [out / "drift.json", *(out / f"{name}.png" for name in figures)]


def _answer(model: LanguageModel, prompt: Sequence[int], max_tokens: int) -> list[int]:
    engine = Engine(model, EngineConfig(max_rows=1, context=len(prompt) + max_tokens))
    try:
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        (completion,) = engine.generate([Request("drift", tuple(prompt), sampling)])
    finally:
        engine.close()
    if completion.finish.error is not None:
        raise completion.finish.error
    if not completion.tokens:
        raise InvalidRequest(f"{model.name} answers nothing to this: there is no answer to read along.", "messages")
    return [token.id for token in completion.tokens]


def _sides(model: LanguageModel, chat: Chat, opening: Sequence[int]) -> Sides | None:
    if chat.truth is None or chat.claim is None:
        return None
    truth, claim = (_first_token(model, chat.opening, opening, word) for word in (chat.truth, chat.claim))
    if truth == claim:
        raise InvalidRequest(f"truth {chat.truth!r} and claim {chat.claim!r} begin with the same token.", "claim")
    return Sides(truth, claim)


def _first_token(model: LanguageModel, before: str, opening: Sequence[int], word: str) -> int:
    """The token that follows the opening, a space between, if the word is said."""
    ids: list[int] = model.tokenizer.encode(f"{before} {word}" if before else word, add_special_tokens=False)
    if ids[: len(opening)] != list(opening) or len(ids) == len(opening):
        raise InvalidRequest(f"{word!r} does not follow {before!r} as a token of its own.", "opening")
    return ids[len(opening)]
