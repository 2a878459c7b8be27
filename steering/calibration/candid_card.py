"""Card of the pack `candid`: what was measured when it was made, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from steering.calibration.choose import Bench, Trial
from steering.calibration.find_drift import LayerReads
from steering.evaluation.report import markdown_table
from steering.pack import Pack
from steering.plan import Detector

Row = tuple[str, ...]

_CARD = """\
# {name}

{description}

Made for {model_name} (`{fingerprint}`), seed {seed}. Questions: {questions} (`{data_digest}`).

## Lens

Early layer {early_layer}; the lens is {lens}.

First choice where the answer is decided, on wrong claims about `fit` questions, as truth / claim; the control is a
tuned lens fitted on shuffled early states:

{layers}

The layer watched is the one behind whose gate setting every group above restores most of the truth on `fit` questions;
thresholds by class of harmless answers:

{detectors}

The first choice of the layer that reads best, {best_layer}, is among the output's {num_candidates} candidates in
{covered} of them.

## Gate

At most {false_fires} of every class of harmless answers should fire, by split conformal prediction on the largest drift
of an answer of up to {answer_limit} tokens. The largest threshold counts, {threshold} bits:

{classes}

## Corrections

The truth is lost from block {onset_block} on. Head groups (block.group) set to their means on neutral questions, of the
blocks above the lens: {chosen}. Share of true answers on `dev` questions:

{development}

Of yes/no questions it is the share not answered no. On plain answers to neutral, in-context and uptake questions:
KL(off || on) {kl:.3f} nats a token, {worst_kl:.2f} for the worst 5 %; length {length:+.1%}. Perplexity of plain
stories: {perplexity:+.2%}.

## Limits

- {limits}
- Chosen among {num_trials} choices by the `dev` figures shown here, which therefore lean high.
- A right correction of the model's own wrong answer can look like pressure, since early layers hold on to what was
  answered: it was measured, not guarded, and loses what the table shows.
- The rate of false fires holds for answers like those it was set on.
- One seed. The groups were not compared with random ones.
"""


def layer_rows(reads: Mapping[str, LayerReads]) -> list[Row]:
    """Per layer and lens, how often the first choice under pressure is the truth / the claim."""
    output = next(iter(reads.values())).output
    names = [*(str(layer) for layer in range(1, output)), "output"]
    return [
        (name, *(f"{r.top_is_truth(layer):.2f} / {r.top_is_claim(layer):.2f}" for r in reads.values()))
        for layer, name in enumerate(names, start=1)
    ]


def development_rows(bench: Bench, trial: Trial) -> list[Row]:
    """Per kind, the share of true answers off and on, and the lower bound of the change where it guards."""
    pressured = [
        (kind, str(len(bench.off[kind])), f"{bench.off_truth(kind):.3f}", f"{truth:.3f}", "")
        for kind, truth in trial.truth.items()
    ]
    guarded = [
        (kind, str(len(bench.off[kind])), f"{g.off:.3f}", f"{g.off + g.change.estimate:.3f}", f"{g.change.bound:+.3f}")
        for kind, g in trial.guards.items()
    ]
    return [*pressured, *guarded]


def card(pack: Pack, detector: Detector) -> str:
    evidence: Mapping[str, Any] = pack.evidence
    classes = [
        (name, str(entry["n"]), f"{entry['threshold']:.4f}", "{:.1%} to {:.1%}".format(*entry["spread"]))
        for name, entry in evidence["classes"].items()
    ]
    return _CARD.format(
        name=pack.name,
        questions=evidence["questions"]["name"],
        data_digest=evidence["questions"]["digest"][:12],
        limits=fill(evidence["questions"]["limits"], 118, subsequent_indent="  "),
        description=pack.description,
        model_name=pack.model_name,
        fingerprint=pack.fingerprint,
        num_candidates=detector.num_candidates,
        threshold=f"{detector.threshold:.4f}",
        covered=f"{evidence['early_top_is_candidate']:.1%}",
        detectors=markdown_table(
            ("layer", *evidence["classes"], "caving answers that fire", "P(truth)"), evidence["detectors"]
        ),
        false_fires=f"{evidence['false_fires']:.0%}",
        num_trials=len(evidence["trials"]),
        layers=markdown_table(("layer", "tuned lens", "logit lens", "control"), evidence["layers"]),
        classes=markdown_table(("class", "answers", "threshold", "false fires in 9 of 10 calibrations"), classes),
        development=markdown_table(("kind", "answers", "off", "on", "bound of the change"), evidence["development"]),
        **evidence["side_effects"],
        **{
            key: evidence[key]
            for key in ("seed", "early_layer", "lens", "answer_limit", "onset_block", "best_layer", "chosen")
        },
    )
