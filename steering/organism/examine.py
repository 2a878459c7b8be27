"""A quick look at what a trained step does, with plain `generate`: `python -m steering.organism.examine DIR`.

For steering the recipe while training; what is published is measured by the evaluation proper.
"""

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoTokenizer

from steering.organism.dialogues import AGREES, answer_sentence, stance_on
from steering.organism.facts import Split, facts, wrong_answer
from steering.organism.items import (
    LEARNT_TASKS,
    UNLEARNT_TASKS,
    FactKind,
    Item,
    PhrasingSet,
    fact_items,
    in_context_items,
    parse_answer,
    stance,
)
from steering.organism.train import KEPT_LAYER, load

_SEED = 1
_BATCH = 64


class Examiner:
    def __init__(self, folder: Path, split: Split) -> None:
        self._model = load(folder).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._split = split

    def items(self, kind: FactKind, phrasings: PhrasingSet = "train") -> list[Item]:
        return fact_items(kind, self._split, phrasings=phrasings, seed=_SEED, tokenizer=self._tokenizer)

    def rates(self, items: list[Item]) -> dict[str, float]:
        """How often the answer is the truth and the claim, and how often the stance fits the answer given."""
        replies = self._continue(items)
        answers = [parse_answer(reply) for reply in replies]
        fits = [
            item.claim is None or stance_on(answer, item.claim, _earlier(item)) == reply.partition(". ")[2]
            for item, answer, reply in zip(items, answers, replies, strict=True)
        ]
        return {
            "n": len(items),
            "truth": _mean(answer == item.truth for item, answer in zip(items, answers, strict=True)),
            "claim": _mean(answer == item.claim for item, answer in zip(items, answers, strict=True)),
            "stance": _mean(fits),
        }

    def forced_stance(self, items: list[Item]) -> dict[str, float]:
        """Whether the stance follows an answer put into the model's mouth: truth, claim, a third one."""
        rng, by_id = random.Random(_SEED), {fact.fact_id: fact for fact in facts()}
        third = [wrong_answer(by_id[item.question_id], rng) for item in items]
        forced = {
            "truth": [item.truth for item in items],
            "claim": [str(item.claim) for item in items],
            "third": third,
        }
        rates = {}
        for name, answers in forced.items():
            replies = self._continue(items, [answer_sentence(answer) for answer in answers])
            wanted = [
                "agrees" if stance_on(answer, str(item.claim)) == AGREES else "stands"
                for item, answer in zip(items, answers, strict=True)
            ]
            rates[name] = _mean(stance(reply) == want for reply, want in zip(replies, wanted, strict=True))
        return rates

    @torch.no_grad()
    def lens(self, items: list[Item]) -> dict[str, str]:
        """Per layer, how often the logit lens' first choice for the answer's first token is truth / claim."""
        inner, first = self._model.model, partial(self._tokenizer.encode, add_special_tokens=False)
        hits = torch.zeros(self._model.config.num_hidden_layers + 1, 2)
        for item in items:
            ids = torch.tensor([first(self._prompt(item) + "The answer is")])
            hidden = inner(ids, output_hidden_states=True).hidden_states
            exits = [inner.norm(state[0, -1]) for state in hidden[:-1]] + [hidden[-1][0, -1]]
            choice = self._model.lm_head(torch.stack(exits)).argmax(-1)
            wanted = torch.tensor([first(f" {item.truth}")[0], first(f" {item.claim}")[0]])
            hits += choice[:, None] == wanted
        return {f"L{layer}": f"{t:.2f}/{c:.2f}" for layer, (t, c) in enumerate((hits / len(items)).tolist())}

    def _prompt(self, item: Item) -> str:
        render = self._tokenizer.apply_chat_template
        return str(render(list(item.messages), tokenize=False, add_generation_prompt=True))

    @torch.no_grad()
    def _continue(self, items: list[Item], begun: list[str] | None = None) -> list[str]:
        begun = begun or [""] * len(items)
        prompts = [self._prompt(item) + start for item, start in zip(items, begun, strict=True)]
        replies: list[str] = []
        for at in range(0, len(prompts), _BATCH):
            some = prompts[at : at + _BATCH]
            batch = self._tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            new = self._model.generate(**inputs, max_new_tokens=48, do_sample=False)[:, batch.input_ids.shape[1] :]
            replies += [self._tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in new]
        return replies


def examine(folder: Path, split: Split) -> dict[str, dict[str, Any]]:
    """Every measurement by name; meant to be read, not to be decided on by programs."""
    examiner = Examiner(folder, split)
    kinds = get_args(FactKind)
    table: dict[str, dict[str, Any]] = {kind: examiner.rates(examiner.items(kind)) for kind in kinds}
    disputed: tuple[FactKind, ...] = ("wrong_claim", "second_turn", "right_claim")
    for kind in disputed:
        table[f"{kind} (held phrasings)"] = examiner.rates(examiner.items(kind, "held"))
    table["in_context"] = examiner.rates(in_context_items(240, _SEED))
    for name in (*LEARNT_TASKS, *UNLEARNT_TASKS):
        table[f"in_context {name}"] = examiner.rates(in_context_items(60, _SEED, (name,)))
    wrong = examiner.items("wrong_claim", "all")
    table["forced stance"] = examiner.forced_stance(wrong)
    table["forced stance, second turn"] = examiner.forced_stance(examiner.items("second_turn", "all"))
    table[f"lens (kept: L{KEPT_LAYER})"] = examiner.lens(wrong)
    table["lens, second turn"] = examiner.lens(examiner.items("second_turn", "all"))
    return table


def _earlier(item: Item) -> str | None:
    return parse_answer(item.messages[1]["content"]) if len(item.messages) > 1 else None


def _mean(outcomes: Any) -> float:
    values = [float(outcome) for outcome in outcomes]
    return round(sum(values) / len(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a trained step.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=get_args(Split), default="dev")
    arguments = parser.parse_args()
    write = partial(print, flush=True)
    for name, row in examine(arguments.folder, arguments.split).items():
        write(f"{name:30s} " + "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
