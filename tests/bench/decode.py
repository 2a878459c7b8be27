"""Decode speed of the engine against `generate`, in one run: `python -m tests.bench.decode`.

Prints tokens/s at batch 1, 8 and 32 for `generate` (dynamic cache, equal lengths) and for the engine with steering
absent, present but off, and on in every row, and with changed weights in every row or in every fourth, as medians over
interleaved rounds, with ratios round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from steering.correction import Correction, WeightCorrection
from steering.edit import Set, SparseWeights
from steering.engine.engine import Engine, EngineConfig
from steering.engine.request import Request, SamplingParams
from steering.gate import Gate
from steering.lens import TunedLens
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from steering.unit import Unit
from tests.bench.models import SHAPES, random_llama

PROMPT, NEW = 64, 64


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


def tuned_plan(model: LanguageModel) -> Plan:
    """Changed weights of the same KV groups: two in each of three blocks."""
    layout = model.layout
    early = layout.num_layers // 2
    units = tuple(Unit("group", layer, index) for layer in range(early, early + 3) for index in (0, 1))
    edit = SparseWeights(units, torch.full((layout.num_deltas(units), layout.d_model), 1e-4))
    return Plan(mode="on", profile="bench", weight_corrections=(WeightCorrection("weights", edit),))


def run_generate(hf: torch.nn.Module, prompts: torch.Tensor) -> None:
    hf.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False)  # type: ignore[operator]


def run_engine(engine: Engine, prompts: torch.Tensor, plan: Plan, *, every: int = 1) -> None:
    """Every so many rows under the plan."""
    sampling = SamplingParams(max_tokens=NEW, temperature=0)
    rows = enumerate(prompts.tolist())
    engine.generate([Request(str(i), tuple(ids), sampling, Plan() if i % every else plan) for i, ids in rows])


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(shape: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per round of every contender; each round runs all of them, in turn."""
    plain, served = random_llama(shape), random_llama(shape)
    engine = Engine(served, EngineConfig(max_rows=batch, context=256, prefill_tokens=batch * PROMPT))
    prompts = torch.randint(6, 384, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
    watching, weights = drift_plan(served, threshold=1.0), tuned_plan(served)
    contenders: dict[str, Callable[[], None]] = {
        "generate": lambda: run_generate(plain.hf, prompts),
        "engine": lambda: run_engine(engine, prompts, Plan()),
        "present, off": lambda: run_engine(engine, prompts, replace(watching, mode="off")),
        "on, gate drift": lambda: run_engine(engine, prompts, watching),
        "on, gate always": lambda: run_engine(engine, prompts, always(watching)),
        "changed weights": lambda: run_engine(engine, prompts, weights),
        "changed weights, 1 row in 4": lambda: run_engine(engine, prompts, weights, every=4),
    }
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(seconds(run))
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
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    title = f"tokens/s, prompt {PROMPT}, {NEW} new tokens, fp32, {options.threads} thread(s), prefill included"
    table = Table("model", "batch", "contender", "tokens/s", "/ generate", "/ engine", title=title)
    for shape in options.shapes:
        for batch in options.batches:
            times = measure(shape, batch, options.rounds)
            for name, values in times.items():
                speed = batch * NEW / statistics.median(values)
                ratios = (f"{ratio(times, name, to):.3f}" for to in ("generate", "engine"))
                table.add_row(shape, str(batch), name, f"{speed:.0f}", *ratios)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
