"""Verification from outside: an answer that stands, against what the early layers would have said where it was decided.

What may be told of it follows from the profile's gate. Its threshold is calibrated: of harmless answers of the model's
own, greedy ones, at most a stated share exceeds it anywhere. To call an answer drifted takes as much as to open the
gate and more, so no more of them are called that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from steering.correction import LogitCorrection
from steering.edit import LensContrast
from steering.pack import Pack
from steering.plan import Detector, Plan

Verdict = Literal["consistent", "drifted", "undecided"]

MAX_CONTINUED = 16
"""Tokens that the early layer goes on by itself."""


@dataclass(frozen=True)
class Standard:
    """By what answers are judged under one profile."""

    threshold: float
    """Drift, bits."""
    margin: float
    """Nats by which the early layer must prefer what it would say."""
    false_alarms: float | None
    """Most of harmless answers that are called drifted, as a share; None where the profile does not say."""
    longest: int | None
    """Tokens of the answers that it was calibrated on."""


def standard_of(pack: Pack, detector: Detector) -> Standard:
    """Of packs that calibration made; of others without the share of false alarms."""
    share, longest = pack.evidence.get("false_fires"), pack.evidence.get("answer_limit")
    return Standard(
        threshold=detector.threshold,
        margin=margin(detector.threshold),
        false_alarms=float(share) if isinstance(share, int | float) and 0 < share < 1 else None,
        longest=longest if isinstance(longest, int) and longest > 0 else None,
    )


def margin(threshold: float) -> float:
    """The log-odds of the early layer between two tokens at which their drift from an output that is certain of the
    other reaches the threshold. An early layer that prefers one by less could not have opened the gate on these two."""
    low, high = 0.5, 1.0
    for _ in range(60):  # drift grows with the probability
        middle = (low + high) / 2
        low, high = (middle, high) if _drift_from_certainty(middle) < threshold else (low, middle)
    return math.log(low) - math.log1p(-low) if low < 1.0 else math.inf


def _drift_from_certainty(p: float) -> float:
    """Jensen-Shannon, bits, of (p, 1 - p) and (0, 1)."""

    def entropy(q: float) -> float:
        return -sum(x * math.log2(x) for x in (q, 1 - q) if x > 0)

    return entropy(p / 2) - entropy(p) / 2


@dataclass(frozen=True)
class Finding:
    """What the early layer says where the answer could have gone on otherwise."""

    at: int
    """Token of the answer."""
    same: bool
    """What the early layer says is what the answer says."""
    gap: float
    """Nats by which the early layer prefers what it says to what the answer says or, if that is the same, to the
    next."""
    drift: float
    """Of early and output, bits, as the gate measures it."""
    output_agrees: bool
    """The output does not prefer what the early layer says to what the answer says."""


class Judgement(NamedTuple):
    verdict: Verdict
    reason: str = ""
    """Of an undecided one."""


def judge_named(found: Finding, standard: Standard) -> Judgement:
    """Between answers that were named, which part at one token."""
    if missing := _missing(found, standard):
        return Judgement("undecided", missing)
    if found.gap < standard.margin:
        return Judgement("undecided", "the early layer's best two are closer than the margin")
    if found.same:
        return Judgement("consistent")
    if found.drift > standard.threshold or not found.output_agrees:
        return Judgement("drifted")
    return Judgement(
        "undecided", "the early layer says otherwise, but is no further from the output than harmless answers are"
    )


def judge_all(findings: Sequence[Finding], standard: Standard) -> tuple[Finding, Judgement]:
    """Of an answer as it stands, token by token: which of them decided it, and how."""
    farthest = max(findings, key=lambda found: found.drift)
    if missing := _missing(farthest, standard):
        return farthest, Judgement("undecided", missing)
    over = [found for found in findings if found.drift > standard.threshold]
    held = [found for found in findings if not found.same and found.gap >= standard.margin]
    if drifted := next((found for found in held if found in over), None):
        return drifted, Judgement("drifted")
    if close := next((found for found in over if found.gap < standard.margin), None):
        return close, Judgement("undecided", "the early layer's best two are closer than the margin")
    if unlike := next((found for found in held if not found.output_agrees), None):
        return unlike, Judgement("undecided", "the output would not say this either: name candidates")
    return farthest, Judgement("consistent")


def _missing(found: Finding, standard: Standard) -> str:
    if standard.false_alarms is None:
        return "the profile's threshold is not calibrated"
    if standard.longest is not None and found.at >= standard.longest:
        return f"this is beyond the {standard.longest} tokens that the threshold is calibrated for"
    return ""


def early_exit(detector: Detector, vocab_size: int) -> Plan:
    """Under which greedy answers are those of the early layer: a contrast that takes all tokens and leaves nothing of
    the output."""
    everything = Detector(detector.lens, 1.0, vocab_size)
    return Plan("on", logit_corrections=(LogitCorrection("early", LensContrast()),), detector=everything)
