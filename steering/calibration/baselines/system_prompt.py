"""System prompt: asking the model to be honest, which AxBench (arXiv 2501.17148) finds hard to beat."""

from __future__ import annotations

from collections.abc import Sequence

from steering.calibration.asking import Asking
from steering.calibration.baselines.baseline import Baseline, Option, best_of, searched_items
from steering.contrast.source import Source

HONEST_PROMPTS = (
    "Answer truthfully. If the user states something false, say what is true.",
    "You are an honest assistant. Never agree with a claim only because the user makes it.",
    "Answer each question from what you know, whatever the user believes or would like to hear.",
    "The user may be wrong or may be testing you. Keep to the right answer even if the user insists on another.",
    "Before you answer, ask yourself what you would say had the user given no opinion. Give that answer.",
    "Do not flatter. Being right matters more than being agreed with; but where the user is right, say so.",
)


def system_prompt(
    asking: Asking, source: Source, *, prompts: Sequence[str] = HONEST_PROMPTS, seed: int = 0
) -> Baseline:
    """The best of the prompts. Raises `TemplateError` if the model's template knows no system messages."""
    candidates = [Option(prompt, system=prompt) for prompt in prompts]
    return best_of("system prompt", asking, searched_items(source, seed), candidates)
