"""How long streams wait for their next token while a long prompt comes in: `python -m tests.bench.inter_token`.

Four answers run on a random Llama of 88 M weights when a prompt of 2,000 tokens is added. For each limit on how much
prompts may stretch a step: the gaps between tokens before, and until the prompt is computed; how long that took; and,
that nothing is lost where nobody waits, the same prompt alone. One thread; with `--processor-time` other programs on
the machine do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from rich.console import Console
from rich.table import Table

from steering.engine import engine as engine_module
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.model.loading import LanguageModel
from tests.bench.models import SHAPES, random_llama

STREAMS, BEFORE, WARM_UP = 4, 40, 8
"""Answers that run; steps that are measured without a prompt, and those before."""


@dataclass(frozen=True)
class Waits:
    """Seconds."""

    undisturbed: float
    """Median gap while no prompt is computed."""
    median: float
    p99: float
    longest: float
    """Of the gaps while one is."""
    prompt: float
    """Until its first token."""
    alone: float
    """The same where nothing else runs."""

    @property
    def ratio(self) -> float:
        return self.p99 / self.undisturbed


def request(name: str, length: int, max_tokens: int, vocab_size: int) -> Request:
    ids = torch.randint(6, vocab_size, (length,), generator=torch.Generator().manual_seed(length + len(name)))
    return Request(name, tuple(ids.tolist()), SamplingParams(max_tokens, temperature=0))


class _Clocked:
    """An engine, and how long its steps took."""

    def __init__(self, model: LanguageModel, stretch: float) -> None:
        self.vocab_size = model.layout.vocab_size
        self.engine = Engine(model, EngineConfig(max_rows=8, prefill_stretch=stretch, prefix_cache=0))

    def step(self) -> tuple[float, set[str]]:
        """Seconds, and who got a token."""
        start = engine_module.perf_counter()
        events = self.engine.step()
        return engine_module.perf_counter() - start, {event.request_id for event in events if event.token}

    def run_until_first(self, name: str, length: int) -> list[tuple[float, set[str]]]:
        """The steps up to the first token of a new request, which then ends."""
        self.engine.add(request(name, length, 1, self.vocab_size))
        steps = [self.step()]
        while name not in steps[-1][1]:
            steps.append(self.step())
        return steps


def measure(model: LanguageModel, stretch: float, *, prompt: int) -> Waits:
    """What four streams wait; each gets a token in every step, so that a gap is a step, but in steps for prompts alone,
    which belong to the gap they end in."""
    clocked = _Clocked(model, stretch)
    alone = sum(seconds for seconds, _ in clocked.run_until_first("alone", prompt))
    for i in range(STREAMS):
        clocked.engine.add(request(f"stream {i}", 32, 1500, clocked.vocab_size))
    for _ in range(WARM_UP):
        clocked.step()
    clocked.run_until_first("first", 200)  # what is measured is known by now, as in a server that runs
    undisturbed = [clocked.step()[0] for _ in range(BEFORE)]
    steps = clocked.run_until_first("long", prompt)
    gaps, gap = list[float](), 0.0
    for seconds, names in steps:
        gap += seconds
        if "stream 0" in names:
            gaps.append(gap)
            gap = 0.0
    clocked.engine.close()
    p99 = quantiles(gaps, n=100, method="inclusive")[98] if len(gaps) > 1 else gaps[0]
    return Waits(median(undisturbed), median(gaps), p99, max(gaps), sum(s for s, _ in steps), alone)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="88M")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens")
    parser.add_argument("--stretch", type=float, nargs="+", default=[0.0, 2.0, 1.6])
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.processor_time:
        engine_module.perf_counter = time.process_time
    model = random_llama(options.shape)
    table = Table(
        "stretch", "without, ms", "median, ms", "p99, ms", "longest, ms", "p99 / without", "prompt, s", "alone, s"
    )
    console = Console(width=110)
    table.title = f"{STREAMS} streams on {options.shape} while a prompt of {options.prompt} tokens comes in"
    for stretch in options.stretch:
        waits = measure(model, stretch, prompt=options.prompt)
        gaps = (waits.undisturbed, waits.median, waits.p99, waits.longest)
        cells = [*(f"{1e3 * seconds:.1f}" for seconds in gaps), f"{waits.ratio:.2f}"]
        table.add_row(f"{stretch:g}", *cells, f"{waits.prompt:.2f}", f"{waits.alone:.2f}")
        console.print(f"stretch {stretch:g}: {waits}")  # what is known, should the rest be too much
    console.print(table)


if __name__ == "__main__":
    main()
