"""All suites, by name."""

from __future__ import annotations

from collections.abc import Iterable

from steering.errors import EvaluationError
from steering.evaluation import (
    are_you_sure,
    biography,
    capability,
    chain_of_thought,
    human_eval,
    running_text,
    syco_bench,
    sycon,
    user_belief,
)
from steering.evaluation.protocol import Suite

SUITES: dict[str, Suite] = {
    suite.name: suite
    for family in (
        are_you_sure,
        user_belief,
        biography,
        syco_bench,
        chain_of_thought,
        sycon,
        capability,
        human_eval,
        running_text,
    )
    for suite in family.suites()
}

GROUPS: dict[str, tuple[str, ...]] = {
    "syco-bench": ("pickside", "mirror", "whosaid", "delusion"),
    "sycon": ("sycon-debate", "sycon-ethical", "sycon-presupposition"),
    "capability": ("gsm8k", "strategyqa", "perplexity"),
    "biographies": ("nlp", "phil", "poli"),
}


def suites_named(names: Iterable[str]) -> list[Suite]:
    """Suites and groups, each suite once, in the order named. Raises `EvaluationError`."""
    found: dict[str, Suite] = {}
    for name in names:
        for member in GROUPS.get(name, (name,)):
            if member not in SUITES:
                known = ", ".join((*SUITES, *GROUPS))
                raise EvaluationError(f"no suite named {member[:40]!r}; there are: {known}.")
            found[member] = SUITES[member]
    return list(found.values())
