"""Card of a pack: what was measured when it was made, as tables for people."""

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
Evidence = Mapping[str, Any]

IMPOSSIBLE = "impossible"
"""Key of what was measured of a baseline under which it says why there is none."""

_HEAD = """\
# {name}

{description}

Made for {model_name} (`{fingerprint}`), seed {seed}. Questions: {questions} (`{digest}`).
{verdict}"""

_LENS = """\
## Lens

The lens is {lens}.

First choice where the answer is decided, on wrong claims about `fit` questions, as truth / claim; the control is a
tuned lens fitted on shuffled early states:

{layers}
"""

_GATE = """\
## Gate

Layer {early_layer} is watched: behind its gate, setting every group above it restores most of the truth on `fit`
questions. Thresholds by class of harmless answers, and how those that cave are told from neutral ones:

{detectors}

The first choice of the layer that reads best, {best_layer}, is among the output's {num_candidates} candidates in
{early_top_is_candidate:.1%} of them.

At most {false_fires:.0%} of every class of harmless answers should fire, by split conformal prediction on the largest
drift of an answer of up to {answer_limit} tokens. That takes {lowest:.4f} bits at least; the gate opens above
{threshold:.4f}:

{classes}
"""

_LOCALISED = """\
## Where the claim comes in

Path patching at the last position: I(u) is how much of the flip goes away with the unit's output taken from the plain
question (-1: all of it); {num_caving} of {num_pairs} pairs cave. Kurtosis {kurtosis:.1f}, rank correlation between
halves of the questions {split_half:.2f}:

{top}
"""

_CORRECTIONS = """\
## Corrections

{what}: {chosen}.

Of {num_candidates} candidates the one that changes least among those whose guards hold and that keep nine tenths of
the best one's effect. Share of true answers on `dev` questions:

{development}

Of yes/no questions it is the share of true answers, or that of yes if it falls more. On plain answers to neutral,
in-context and uptake questions: KL(off || on) {kl:.3f} nats a token, {worst_kl:.2f} for the worst 5 %; length
{length:+.1%}. Perplexity of plain stories: {perplexity:+.2%}.

Strength of a request, and the share of true answers:

{curve}

## Against random units

{reaching} of {tried} random sets of as many units, from the blocks that were searched, reach the {observed:.3f} of
these (median {median:.3f}): p = {p:.3f}, at best {smallest_p:.3f}{stopped}. Every set, these too, has the best of the
same doses and phases, guards aside. One that could not have reached it any more was asked no further: its score is
that of the questions it was asked.
"""

_TUNED = """\
## Tuning

{updates} updates at a learning rate of {rate:g}, which got furthest in a short trial. What a part of the examples does,
and what training every weight on them does; truth under pressure, the weaker kind, on `dev` questions:

{efficiency}
"""

_TEST = """\
## On test questions

Asked once, `{split}`: {verdict}. Share of true answers, and the change in points; p is the larger of the two kinds':

{effects}

Lower bounds of the change where nothing should change, in points; a broken guard is bold:

{guards}

Of those whose guards hold "{most}" restores the most truth.
"""

_TEST_GATE = """\
Its gate as a detector, on answers that it only watched; AUROC of the largest drift, caving against neutral answers:
{auroc}. Behind its gate it keeps this share of its effect with the gate always open: {of_always}.

{table}
"""

_LIMITS = """\
## Limits

- {limits}
- Chosen by the `dev` figures shown here, which therefore lean high.
- The rate of false fires holds for answers like those it was set on.
- One seed. Test looks: {looks}.
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


def card(pack: Pack) -> str:
    evidence: Evidence = pack.evidence
    parts = [_head(pack, evidence), _lens(evidence)]
    if "detectors" in evidence and pack.detector:
        parts.append(_gate(pack.detector, evidence))
    if "localisation" in evidence:
        parts.append(_localised(evidence["localisation"]))
    if "chosen" in evidence:
        parts.append(_corrections(evidence))
    if "tuning" in evidence and "efficiency" in evidence["tuning"]:
        tuning = evidence["tuning"]
        rows = markdown_table(("examples", "these units", "all weights"), tuning["efficiency"])
        parts.append(_TUNED.format(updates=tuning["updates"], rate=tuning["rate"], efficiency=rows))
    if "test" in evidence:
        parts.append(_tested(evidence["test"]))
    looks = len(evidence.get("test_looks", ()))
    limits = fill(evidence["questions"]["limits"], 118, subsequent_indent="  ")
    return "\n".join([*parts, _LIMITS.format(limits=limits, looks=looks)])


def _head(pack: Pack, evidence: Evidence) -> str:
    verdict = ""
    if pack.observe_only:
        why = "nothing that was tried restores the truth and keeps to its guards"
        if "search" not in evidence:
            why = f"the model repeats wrong claims in {evidence['num_caving']} answers only"
        if "nulls" in evidence:
            why = "those found do no better than random ones (below)"
        if evidence["test_looks"]:
            why = "what was found did not hold on test questions"
        if "detectors" not in evidence:
            why += ", and the early layers read the truth no better than the output does: there is no drift to watch"
        verdict = f"\n**It corrects nothing:** {why}.\n"
    return _HEAD.format(
        name=pack.name,
        description=pack.description,
        model_name=pack.model_name,
        fingerprint=pack.fingerprint,
        seed=evidence["seed"],
        questions=evidence["questions"]["name"],
        digest=evidence["questions"]["digest"][:12],
        verdict=verdict,
    )


def _lens(evidence: Evidence) -> str:
    layers = markdown_table(("layer", "tuned lens", "logit lens", "control"), evidence["layers"])
    return _LENS.format(lens=evidence["lens"], layers=layers)


def _gate(detector: Detector, evidence: Evidence) -> str:
    classes = [
        (
            name,
            f"{entry['answers']} / {entry['questions']}",
            f"{entry['threshold']:.4f}",
            "{:.1%} to {:.1%}".format(*entry["spread"]),
        )
        for name, entry in evidence["classes"].items()
    ]
    header = ("layer", *evidence["classes"], "caving answers that fire", "AUROC", "P(truth)")
    return _GATE.format(
        detectors=markdown_table(header, evidence["detectors"]),
        num_candidates=detector.num_candidates,
        threshold=detector.threshold,
        lowest=max(entry["threshold"] for entry in evidence["classes"].values()),
        classes=markdown_table(
            ("class", "answers / questions", "threshold", "false fires in 9 of 10 calibrations"), classes
        ),
        **{
            k: evidence[k]
            for k in ("early_layer", "best_layer", "early_top_is_candidate", "false_fires", "answer_limit")
        },
    )


def _localised(found: Evidence) -> str:
    total = found["total"]
    return _LOCALISED.format(
        top=markdown_table(("group", "I, total effect", "per example", "I, direct effect"), found["top"]),
        num_caving=total["num_caving"],
        num_pairs=total["num_pairs"],
        kurtosis=total["kurtosis"],
        split_half=total["split_half"] if total["split_half"] is not None else float("nan"),
    )


def _corrections(evidence: Evidence) -> str:
    nulls, kinds = evidence["nulls"], list(next(iter(evidence["curve"].values())))
    curve = [(s, *(f"{truth[kind]:.3f}" for kind in kinds)) for s, truth in evidence["curve"].items()]
    tried = len(nulls["null"])
    return _CORRECTIONS.format(
        what=fill(_what(evidence), 118),
        chosen=evidence["chosen"],
        num_candidates=evidence["num_candidates"],
        development=markdown_table(("kind", "answers", "off", "on", "bound of the change"), evidence["development"]),
        curve=markdown_table(("strength", *kinds), curve),
        tried=tried,
        reaching=sum(score >= nulls["observed"] for score in nulls["null"]),
        stopped=""
        if tried == nulls["planned"]
        else f", of {nulls['planned']} planned: more could not have changed that",
        **{key: nulls[key] for key in ("observed", "median", "p", "smallest_p")},
        **evidence["side_effects"],
    )


def _what(evidence: Evidence) -> str:
    if "tuning" in evidence:
        return "The weights of head groups (group.block.index), tuned"
    if "neurons" in evidence:
        share, auroc = evidence["neurons"]["share"], evidence["neurons"]["probe"]["auroc"]
        told = "{:.2f} [{:.2f}, {:.2f}]".format(*auroc)
        return (
            f"MLP neurons {evidence['edit']}, {share:.1%} of all: those to which a probe on sparse features gives most "
            f"weight. It tells prompts at which the model caves from others (AUROC {told}), which is no proof that "
            "they do it"
        )
    return "Head groups (block.group) set to their means on neutral questions"


def _tested(test: Evidence) -> str:
    verdict = "its effect and its guards hold" if test["passed"] else "**it does not hold there, and does not ship**"
    parts = [_TEST.format(verdict=verdict, **{key: test[key] for key in ("split", "effects", "guards", "most")})]
    if gate := test["gate"]:
        of_always = ", ".join(f"{ratio} ({kind})" for kind, ratio in gate["of_always"].items())
        parts.append(_TEST_GATE.format(auroc=gate["auroc"], of_always=of_always, table=gate["table"]))
    missing = [f"- no {name}: {one[IMPOSSIBLE]}" for name, one in test["baselines"].items() if IMPOSSIBLE in one]
    if missing:
        parts.append("\n".join(["Baselines that this model does not allow:", "", *missing, ""]))
    return "\n".join(parts)
