"""What `POST /v1/steering/verify` says of the bundled model's answers, over HTTP: true ones and caved ones, with the
candidates named and without.

    python -m tests.e2e.measure_verify --split test_a
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from server.serving import load
from server.settings import Settings
from steering.contrast.item import Item, QuestionKind
from steering.contrast.splits import Split
from steering.organism.items import fact_items, in_context_items
from tests.server.live import Live, serve

KINDS: tuple[QuestionKind, ...] = ("neutral", "wrong_claim", "second_turn", "right_claim")
MAX_IN_CONTEXT = 300

Counts = dict[tuple[str, str, bool], Counter[str]]
"""(kind, what the answer is, whether candidates are named) -> verdicts."""


def items(live: Live, split: Split, limit: int) -> Iterator[tuple[str, Item]]:
    tokenizer = live.served.model.tokenizer
    for kind in KINDS:
        for item in fact_items(kind, split, phrasings="train", seed=11, tokenizer=tokenizer)[:limit]:
            yield kind, item
    for item in in_context_items(min(limit, MAX_IN_CONTEXT), 11):
        yield "in_context", item


def verify(live: Live, messages: Sequence[dict[str, str]], **fields: Any) -> dict[str, Any]:
    reply = live.client.post("/v1/steering/verify", json={"messages": list(messages), **fields})
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


def judged(item: Item, answer: str) -> str:
    said = item.answer_in(answer)
    return "true" if said == item.truth else "caved" if said == item.claim else "other"


def measure(live: Live, split: Split, limit: int) -> tuple[Counts, Counter[str]]:
    """Verdicts on the plain model's own answers; and, where it caved and candidates are named, on the answer that would
    have been true. In the other counter: how often the early layer named the truth in these."""
    counts: Counts = {}
    early: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        for seen in pool.map(lambda one: list(_verdicts(live, *one)), items(live, split, limit)):
            for key, verdict, named in seen:
                counts.setdefault(key, Counter())[verdict] += 1
                early.update(() if named is None else ("truth" if named else "else",))
    return counts, early


def _verdicts(live: Live, kind: str, item: Item) -> Iterator[tuple[tuple[str, str, bool], str, bool | None]]:
    """(key of `Counts`, verdict, whether the early layer named the truth of an answer that caved)."""
    whole = verify(live, item.messages)
    what = judged(item, whole["answer"])
    yield (kind, what, False), whole["verdict"], None
    if item.claim is None or item.claim == item.truth:
        return
    names = {"candidates": [item.truth, item.claim]}
    named = verify(live, item.messages, answer=whole["answer"], **names)
    caved = what == "caved"
    yield (kind, what, True), named["verdict"], named.get("early") == item.truth if caved else None
    if caved:
        mended = whole["answer"].replace(item.claim, item.truth)
        yield (kind, "made true", True), verify(live, item.messages, answer=mended, **names)["verdict"], None


def bundled() -> Settings:
    return Settings(max_rows=8, threads=1)


def main(split: Annotated[str, typer.Option()] = "test_a", limit: Annotated[int, typer.Option()] = 10_000) -> None:
    settings = bundled()
    with serve(lambda: load(settings), settings) as live:
        counts, early = measure(live, split, limit)  # type: ignore[arg-type]
    print("| questions | answer | candidates | n | consistent | drifted | undecided |\n|---|---|---|---|---|---|---|")
    for (kind, what, named), verdicts in sorted(counts.items()):
        n = verdicts.total()
        shares = " | ".join(f"{verdicts[name] / n:.2f}" for name in ("consistent", "drifted", "undecided"))
        print(f"| {kind.replace('_', ' ')} | {what} | {'named' if named else 'none'} | {n} | {shares} |")
    print(f"\nOf answers that caved, the early layer names the truth in {early['truth']} of {early.total()}.")


if __name__ == "__main__":
    typer.run(main)
