"""What every contender of one cell does: prompts of equal length, answers of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.model.loading import LanguageModel
from steering.plan import Plan
from tests.bench.models import FIRST_WORD, SHAPES, random_llama


@dataclass(frozen=True)
class Workload:
    """prompt + new tokens make the context."""

    shape: str
    batch: int
    context: int = 128
    new: int = 64
    temperature: float = 0.0
    """Greedy answers of a random model soon run in circles."""
    keeps_prompts: bool = False
    """Whether the engine reads a prompt in the first round alone, so that the others measure decoding."""

    @property
    def prompt(self) -> int:
        return self.context - self.new

    @property
    def tokens(self) -> int:
        return self.batch * self.new

    @cached_property
    def prompts(self) -> Tensor:
        """[B, T] token ids of which each has a text."""
        seeded = torch.Generator().manual_seed(self.batch)
        high = SHAPES[self.shape]["vocab_size"]
        return torch.randint(FIRST_WORD, high, (self.batch, self.prompt), generator=seeded)

    def config(self, **changes: bool) -> EngineConfig:
        """Room for all rows at once, and for what is kept beside them."""
        shape = SHAPES[self.shape]
        head_dim = shape["hidden_size"] // shape["num_attention_heads"]
        each = 2 * 4 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_dim
        rows = 2 * self.batch * (self.context + self.new + 8) * each
        kept = 2 * self.batch * self.context * each if self.keeps_prompts else 0
        return EngineConfig(
            self.batch,
            self.context + self.new + 8,
            prefill_tokens=min(self.batch * self.prompt, 4096),
            kv_memory=rows + kept,
            prefix_cache=kept,
            **changes,
        )

    def run(
        self, engine: Engine, plans: Sequence[Plan] = (Plan(),), prompts: Sequence[Sequence[int]] | None = None
    ) -> list[Completion]:
        """The plans take turns over the rows. prompts: others than its own."""
        return engine.generate(self._requests(plans, self.prompts.tolist() if prompts is None else prompts, self.new))

    def run_full(self, engine: Engine, plans: Sequence[Plan]) -> None:
        """As many tokens, all rows under way to the end, as under load: answers that need more steps than others, since
        their gates fired, would else leave their neighbours' rows empty."""
        requests = self._requests(plans, self.prompts.tolist(), 2 * self.new)
        for request in requests:
            engine.add(request)
        left = self.tokens
        while left > 0:
            left -= sum(event.token is not None for event in engine.step())
        for request in requests:
            engine.abort(request.id)
        engine.step()

    def _requests(self, plans: Sequence[Plan], prompts: Sequence[Sequence[int]], new: int) -> list[Request]:
        sampling = SamplingParams(max_tokens=new, temperature=self.temperature, seed=0, ignore_eos=True)
        rows = enumerate(prompts)
        return [Request(str(i), tuple(ids), sampling, plans[i % len(plans)]) for i, ids in rows]


ENGINES = {
    "plain": {},
    "fast-linears": {"fast_linears": True},
    "compiled": {"fast_linears": True, "compile": True},
}


@contextmanager
def engine_of(work: Workload, kind: str) -> Iterator[tuple[LanguageModel, Engine]]:
    """An engine of `ENGINES` on a model of its own, taken off it afterwards."""
    model = random_llama(work.shape)
    engine = Engine(model, work.config(**ENGINES[kind]))
    try:
        yield model, engine
    finally:
        engine.close()
