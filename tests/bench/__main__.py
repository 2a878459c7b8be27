"""Speed, in one run: `python -m tests.bench`. One table, docs/performance.json, docs/performance.svg.

Every ratio is of contenders that took turns within a round, and is told with its 95 % bootstrap interval; a goal is met
where the lower bound reaches it, in at least 15 rounds. Models are random, in float32, on one thread.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from tests.bench import curves, decode, over_http, report, steering_cost
from tests.bench.models import SHAPES
from tests.bench.peers import Peers
from tests.bench.ratios import ENOUGH_ROUNDS, Measured
from tests.bench.rounds import Cell, deadlines
from tests.bench.workload import ENGINES

SECTIONS = ("decode", "steering", "http", "curves")
DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=190)
    planned = list(cells(options))
    lines, notes = kept(options.json, planned) if options.add else ([], [])
    for i, (cell, deadline) in enumerate(zip(planned, deadlines(options.minutes, len(planned)), strict=True), 1):
        console.print(f"{i} of {len(planned)}: {cell}", highlight=False)
        try:
            found, told = measure(cell, options.rounds, deadline)
        except Exception as error:  # one contest that breaks is told of; the others go on
            found, told = [], [f"broke off: {type(error).__name__}: {error}"]
        lines += found
        notes += (fresh := [f"{cell}: {note}" for note in told])
        console.print("\n".join(fresh), highlight=False, markup=False)
        report.write_json(options.json, report.document(lines, vars(options), notes))  # a run may be broken off
    console.print(report.table(lines, "ratios of speeds, contenders taking turns; one thread, float32"))
    report.draw(options.picture, lines)
    console.print(f"{options.json}, {options.picture}", highlight=False)


def kept(path: Path, planned: Sequence[Cell]) -> tuple[list[Measured], list[str]]:
    """What the file holds of other cells."""
    lines, notes = report.read_json(path) if path.exists() else ([], [])
    again = {(cell.section, cell.shape, cell.batch, cell.context) for cell in planned}
    lines = [line for line in lines if (line.section, line.shape, line.batch, line.context) not in again]
    return lines, [note for note in notes if not note.startswith(tuple(f"{cell}:" for cell in planned))]


def measure(cell: Cell, rounds: int, deadline: float | None) -> tuple[list[Measured], list[str]]:
    with cell.open() as contest:
        found = report.measured(cell, contest, contest.times(rounds, deadline))
    gc.collect()  # models, before the next ones are made
    return found, list(contest.notes)


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    shapes, new = options.shapes, options.new
    if "decode" in options.sections:
        yield from decode.cells(shapes, options.batches, new)
    if "steering" in options.sections:
        yield from steering_cost.cells(shapes, options.batches, options.engines, new)
    if "http" in options.sections:
        yield from over_http.cells(shapes, options.batches, new, Peers(options.peers))
    if "curves" in options.sections:
        yield from curves.cells(shapes, options.contexts, options.engines[0], new)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--shapes", nargs="+", default=["9M", "88M"], choices=list(SHAPES))
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 8, 32, 128], help="Rows; up to 32 of them clients."
    )
    parser.add_argument(
        "--contexts", nargs="+", type=int, default=[128, 2048, 8192], help="Of the curve over contexts."
    )
    parser.add_argument("--new", type=int, default=64, help="Tokens of an answer.")
    parser.add_argument("--rounds", type=int, default=ENOUGH_ROUNDS)
    parser.add_argument("--minutes", type=float, help="For all cells together; rounds are left out, and that is told.")
    parser.add_argument("--engines", nargs="+", default=["fast-linears"], choices=list(ENGINES),
                        help="That steering is measured in; curves in the first.")  # fmt: skip
    parser.add_argument("--peers", type=Path, help="Folder that tests/bench/install-peers made.")
    parser.add_argument("--json", type=Path, default=DOCS / "performance.json")
    parser.add_argument("--add", action="store_true", help="To what the JSON file has of parts measured before.")
    parser.add_argument("--picture", type=Path, default=DOCS / "performance.svg")
    return parser


if __name__ == "__main__":
    main()
