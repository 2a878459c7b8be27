"""Decode speed: the engine in its three forms against the bounds and against what transformers has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec

import torch
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    ContinuousBatchingManager,
    GenerationConfig,
    PreTrainedModel,
)

from tests.bench import names
from tests.bench.bounds import bandwidth_bound, linears_floor
from tests.bench.models import random_llama
from tests.bench.rounds import Cell, Contender, Contest, timed
from tests.bench.workload import Workload, engine_of

OURS = {names.EAGER: "plain", names.FAST_LINEARS: "fast-linears", names.COMPILED: "compiled"}
THEIRS = (names.BANDWIDTH, names.LINEARS, names.GENERATE, names.STATIC, names.CONTINUOUS)


def cells(shapes: Iterable[str], batches: Iterable[int], new: int) -> Iterator[Cell]:
    batches = list(batches)
    for shape in shapes:
        for batch in batches:
            work = Workload(shape, batch, 64 + new, new)
            yield Cell("decode", shape, batch, work.context, partial(contest, work))


@contextmanager
def contest(work: Workload) -> Iterator[Contest]:
    torch.compiler.reset()  # each size compiles its own, and there is a limit to how many are kept
    contenders: dict[str, Contender] = {}
    notes = []
    with ExitStack() as stack:
        for name, kind in OURS.items():
            _, engine = stack.enter_context(engine_of(work, kind))
            contenders[name] = timed(partial(work.run, engine))
            notes.append(f"{name}: {engine.speed.num_packed} linears packed")
            if kind == "compiled" and not engine.speed.compiled:
                notes.append(f"{name}: measured slower at its start, so it runs eager")
        model = random_llama(work.shape)
        contenders[names.BANDWIDTH] = bandwidth_bound(model, work)
        contenders[names.LINEARS] = linears_floor(model, work)
        contenders[names.GENERATE] = timed(partial(generate, model.hf, work))
        contenders[names.STATIC] = timed(partial(generate_compiled, random_llama(work.shape).hf, work))
        if find_spec("psutil"):
            contenders[names.CONTINUOUS] = stack.enter_context(continuous(random_llama(work.shape).hf, work))
        else:
            notes.append(f"{names.CONTINUOUS}: not measured, it needs psutil")
        pairs = tuple((ours, to) for ours in OURS for to in THEIRS if to in contenders)
        yield Contest(contenders, work.tokens, pairs, tuple(notes))


def generate(hf: PreTrainedModel, work: Workload, **options: object) -> None:
    prompts = work.prompts
    answers = hf.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=work.new,
                          do_sample=False, **options)  # type: ignore[operator]  # fmt: skip
    assert answers.shape == (work.batch, work.context)


def generate_compiled(hf: PreTrainedModel, work: Workload) -> None:
    """As transformers does it by itself on a GPU; on a CPU it has to be asked."""
    compilation = CompileConfig(mode="default")
    compilation._compile_all_devices = True
    generate(hf, work, cache_implementation="static", compile_config=compilation)


@contextmanager
def continuous(hf: PreTrainedModel, work: Workload) -> Iterator[Contender]:
    """transformers' own continuous batching, its manager kept from round to round."""
    page = 64
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=work.batch * (-(-work.context // page) + 1) + 4,
        max_batch_tokens=min(work.batch * work.prompt, 4096),
        max_requests_per_batch=work.batch,
        allow_block_sharing=False,  # every round reads its prompts
    )
    drawing = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=work.new)
    managed = partial(
        hf.continuous_batching_context_manager,
        generation_config=drawing,
        continuous_batching_config=config,
        persistent_manager=True,
    )

    def contender() -> float:
        """Its thread runs in its own turn alone; starting and stopping it is not counted."""
        with managed() as manager:
            return timed(partial(_answer_all, manager, work))()

    try:
        yield contender
    finally:
        hf.destroy_cached_continuous_batching_manager()


def _answer_all(manager: ContinuousBatchingManager, work: Workload) -> None:
    manager.add_requests(inputs=work.prompts.tolist(), max_new_tokens=work.new)
    finished = 0
    while finished < work.batch:
        result = manager.get_result(timeout=1)
        if result is not None and result.is_finished():
            assert result.error is None and len(result.generated_tokens) == work.new
            finished += 1
        elif not manager.is_running():
            raise RuntimeError("continuous batching ended by itself")
