"""Path patching against the naive loop, on the bundled model: `python -m tests.bench.patching`.

The naive loop is the tests' oracle: one pair, one unit, one whole forward of the stock model at a time. It runs on a
few pairs, path patching on all; each round runs both, in turn. Then what was found, and how good the screen is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from steering.calibration.data import answer_position, first_token, pressured_items
from steering.calibration.localisation import Question, agreement, top_recall, top_rows
from steering.calibration.patch_paths import Pair, caving_pairs, patch_paths
from steering.calibration.screen_units import screen_units
from steering.evaluation.report import markdown_table
from steering.model.loading import BUNDLED, LanguageModel, load_model
from steering.organism.items import fact_items
from steering.organism.source import OrganismSource
from tests.oracles.path_patching import Naive


def organism_pairs(model: LanguageModel, count: int) -> list[Pair]:
    """Wrong claims and second turns about `fit` facts, each beside the plain question about the same fact."""
    neutral = {item.question_id: item for item in fact_items("neutral", "fit", seed=0, tokenizer=model.tokenizer)}
    items = pressured_items(OrganismSource(model.tokenizer), "fit", seed=0)
    items = items[:: max(1, len(items) // count)][:count]
    pressured = answer_position(model, items)
    twins = answer_position(model, [neutral[item.question_id] for item in items])
    return [
        Pair(tuple(a), tuple(b), first_token(model, str(item.claim)), first_token(model, item.truth), item.question_id)
        for a, b, item in zip(pressured, twins, items, strict=True)
    ]


def naive(model: LanguageModel, pairs: Sequence[Pair], question: Question) -> int:
    """Patches every unit of every pair; returns how many patches that was."""
    layout, patches = model.layout, 0
    size = layout.num_heads // question.num_units(layout)
    for pair in pairs:
        alone = Naive(model.hf, pair.pressured, pair.neutral, (pair.claim, pair.truth))
        for layer in range(layout.num_layers):
            for unit in range(question.num_units(layout)):
                heads = range(unit * size, (unit + 1) * size)
                alone.patched(layer, heads, width=pair.width(question), direct=question.effect == "direct")
                patches += 1
    return patches


def seconds(run: Callable[[], object]) -> float:
    """CPU time, all threads together: a busy machine does not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--naive-pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="Folder for heat maps and sums by block.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(BUNDLED)
    pairs = organism_pairs(model, options.pairs)
    few = pairs[: options.naive_pairs]
    num_caving = len(caving_pairs(model, pairs))
    console = Console(width=120)
    table = Table(
        "unit",
        "effect",
        "positions",
        "naive",
        "here",
        "ratio",
        title=f"CPU seconds a pair; {num_caving} of {len(pairs)} pairs cave",
    )
    for kind in ("head", "group"):
        for effect, positions in (("total", "last"), ("direct", "last"), ("total", "all")):
            question = Question(kind, effect, positions)  # type: ignore[arg-type]
            times = []
            for _ in range(options.rounds):
                slow = seconds(lambda question=question: naive(model, few, question)) / len(few)
                quick = seconds(lambda question=question: patch_paths(model, pairs, question)) / num_caving
                times.append((slow, quick))
            slow, quick = (statistics.median(side) for side in zip(*times, strict=True))
            ratio = statistics.median(slow / quick for slow, quick in times)
            table.add_row(kind, effect, positions, f"{slow:.3f}", f"{quick:.4f}", f"{ratio:.0f}")
    console.print(table)
    for kind in ("head", "group"):
        report(console, model, pairs, kind, options.pictures)


def report(console: Console, model: LanguageModel, pairs: Sequence[Pair], kind: str, pictures: Path | None) -> None:
    """What is found, and how good the screen is."""
    found = {}
    for effect in ("total", "direct"):
        question = Question(kind, effect)  # type: ignore[arg-type]
        exact, screened = patch_paths(model, pairs, question), screen_units(model, pairs, question)
        found[effect] = exact
        console.print(
            f"{kind} {effect}: {len(exact.pressured)} of {exact.num_pairs} pairs cave; S {exact.pressured.mean():.2f}, "
            f"neutral {exact.neutral.mean():.2f}; kurtosis {exact.kurtosis:.1f}; split-half {exact.split_half:.3f}; "
            f"screen: top-10 recall {top_recall(screened, exact):.2f}, "
            f"rank correlation {agreement(screened, exact):.3f}"
        )
    console.print(f"direct against total: rank correlation {agreement(found['direct'], found['total']):.3f}")
    console.print(
        markdown_table(("unit", "I, total", "per example", "I, direct"), top_rows(found["total"], found["direct"]))
    )
    if pictures is not None:
        from steering.calibration import plots

        pictures.mkdir(parents=True, exist_ok=True)
        for effect, localisation in found.items():
            plots.importance_map(localisation).savefig(pictures / f"{kind}-{effect}.png", dpi=144)
        plots.layer_sums(found).savefig(pictures / f"{kind}-layers.png", dpi=144)


if __name__ == "__main__":
    main()
