"""Decode speed of the engine against `generate`, in one run: `python -m tests.bench.decode`.

Prints tokens/s at batch 1, 8 and 32 for `generate` (dynamic cache, equal lengths) and for the engine with steering
absent, present but off, and on in every row; with a gate that fires at 5 % of the tokens or at all; with another of 256
resident profiles in every row; and with changed weights in every row or in every fourth. Medians over interleaved
rounds, with ratios round by round. `--clock cpu` counts the time of this process alone: for a machine that is busy.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from steering.correction import Correction, WeightCorrection
from steering.edit import Edit, Set, SparseWeights
from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.lens import TunedLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit
from tests.bench.models import SHAPES, random_llama

PROMPT, NEW = 64, 64
RESIDENT = 256
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def drift_plan(model: LanguageModel, *, threshold: float) -> Plan:
    """A plan shaped like the bundled one: a tuned lens half-way up, `Set` of two KV groups in each of three blocks.

    threshold 1 never fires (the price of watching); threshold -1 would fire at every token.
    """
    layout = model.layout
    early, D = layout.num_layers // 2, layout.d_model
    mask = torch.zeros(layout.width("attn_z"), dtype=torch.bool)
    mask[layout.group_features([0, 1])] = True
    edit = Set(torch.zeros(layout.width("attn_z")), mask)
    gate = Gate(kind="drift")
    corrections = tuple(
        Correction(f"set-{layer}", Site("attn_z", layer), edit, gate) for layer in range(early, early + 3)
    )
    detector = Detector(TunedLens(early, torch.zeros(D, D), torch.zeros(D)), threshold)
    return Plan(mode="on", profile="bench", corrections=corrections, detector=detector)


def always(plan: Plan) -> Plan:
    """The same corrections without a gate: every token of every row is corrected."""
    return replace(plan, corrections=tuple(replace(c, gate=Gate()) for c in plan.corrections))


def fires_at(engine: Engine, watching: Plan, prompts: torch.Tensor, share: float) -> Plan:
    """The plan with a threshold that this share of the tokens exceeds, before its gates change any."""
    observing = replace(watching, mode="observe", trace="tokens")
    drifts = sorted(t.reading.drift for a in run_engine(engine, prompts, [observing]) for t in a.tokens if t.reading)
    return at_threshold(watching, drifts[-round(share * len(drifts)) - 1])


def at_threshold(plan: Plan, threshold: float) -> Plan:
    return replace(plan, detector=plan.detector and replace(plan.detector, threshold=threshold))


def resident_plans(plan: Plan) -> list[Plan]:
    """As many profiles: each with edits, a threshold and a copy of the lens of its own."""
    return [replace(plan, profile=f"bench-{i}", detector=_own_detector(plan.detector, i),
                    corrections=tuple(replace(c, edit=_own_edit(c.edit, i)) for c in plan.corrections))
            for i in range(RESIDENT)]  # fmt: skip


def _own_edit(edit: Edit, i: int) -> Edit:
    return type(edit)(**{name: value.clone() if value.dtype == torch.bool else value + i / RESIDENT
                         for name, value in vars(edit).items()})  # fmt: skip


def _own_detector(detector: Detector | None, i: int) -> Detector | None:
    if detector is None or not isinstance(detector.lens, TunedLens):
        return detector
    lens = TunedLens(detector.lens.layer, detector.lens.weight.clone(), detector.lens.bias.clone())
    return replace(detector, lens=lens, threshold=detector.threshold + i / RESIDENT)


def tuned_plan(model: LanguageModel) -> Plan:
    """Changed weights of 4 % of the KV groups, in the blocks from half-way up."""
    layout = model.layout
    count = max(1, round(0.04 * layout.num_layers * layout.num_groups))
    upper = itertools.product(range(layout.num_groups), range(layout.num_layers // 2, layout.num_layers))
    units = tuple(sorted(Unit("group", layer, group) for group, layer in itertools.islice(upper, count)))
    edit = SparseWeights(units, torch.full((layout.num_deltas(units), layout.d_model), 1e-4))
    return Plan(mode="on", profile="bench", weight_corrections=(WeightCorrection("weights", edit),))


def run_generate(hf: torch.nn.Module, prompts: torch.Tensor) -> None:
    hf.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False)  # type: ignore[operator]


def run_engine(engine: Engine, prompts: torch.Tensor, plans: Sequence[Plan]) -> list[Completion]:
    """The plans take turns over the rows."""
    sampling = SamplingParams(max_tokens=NEW, temperature=0)
    rows = enumerate(prompts.tolist())
    return engine.generate([Request(str(i), tuple(ids), sampling, plans[i % len(plans)]) for i, ids in rows])


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def measure(shape: str, batch: int, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds per round of every contender; each round runs all of them, in turn."""
    plain, served = random_llama(shape), random_llama(shape)
    engine = Engine(served, EngineConfig(max_rows=batch, context=256, prefill_tokens=batch * PROMPT))
    prompts = torch.randint(6, 384, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
    watching, weights = drift_plan(served, threshold=1.0), tuned_plan(served)
    plans: dict[str, list[Plan]] = {
        "engine": [Plan()],
        "present, off": [replace(watching, mode="off")],
        "on, gate drift": [watching],
        "gate fires at 5 %": [fires_at(engine, watching, prompts, 0.05)],
        "gate fires always": [at_threshold(watching, -1.0)],
        "on, gate always": [always(watching)],
        f"{RESIDENT} profiles, gate drift": resident_plans(watching),
        f"{RESIDENT} profiles, gate always": resident_plans(always(watching)),
        "changed weights": [weights],
        "changed weights, 1 row in 4": [weights, Plan(), Plan(), Plan()],
    }
    contenders: dict[str, Callable[[], object]] = {"generate": lambda: run_generate(plain.hf, prompts)}
    contenders |= {name: partial(run_engine, engine, prompts, own) for name, own in plans.items()}
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(seconds(run, clock))
    engine.close()
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    """Median over rounds of speed(name) / speed(to)."""
    return statistics.median(b / a for a, b in zip(times[name], times[to], strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    title = f"tokens/s, prompt {PROMPT}, {NEW} new tokens, fp32, {options.threads} thread(s), prefill included"
    table = Table("model", "batch", "contender", "tokens/s", "/ generate", "/ engine", title=title)
    for shape in options.shapes:
        for batch in options.batches:
            times = measure(shape, batch, options.rounds, CLOCKS[options.clock])
            for name, values in times.items():
                speed = batch * NEW / statistics.median(values)
                ratios = (f"{ratio(times, name, to):.3f}" for to in ("generate", "engine"))
                table.add_row(shape, str(batch), name, f"{speed:.0f}", *ratios)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
