"""Exempt spans in the engine: nothing acts and nothing is measured there, exact at the token, whatever happens to the
row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest

from steering.edit import Scale, Set, Shift
from steering.engine import kv_size
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Completion, Request, SamplingParams
from steering.gate import Gate
from steering.model.loading import LanguageModel
from steering.plan import Detector, Plan
from steering.site import Site
from tests.engine.spy import Spy, drain, gather, ids
from tests.engine.test_spans import tokens
from tests.models import byte_tokenizer, endless_model, tiny_hf
from tests.oracles import plain_hf
from tests.plans import (
    BOTH,
    DRIFT,
    LATCH,
    contrast,
    correction,
    dola,
    separating_threshold,
    steered,
    tuned,
    tuned_lens,
    with_threshold,
)

MODES = [pytest.param(False, id="default"), pytest.param(True, id="deterministic")]
CODE = frozenset({"code"})
TEXT = "It is Paris.\n```py\nParis = Lyon\n```\nAre you sure? Paris.\n~~~\nLyon\n~~~\nYes."
PROMPT = (3, *range(40, 60), 5)


@cache
def model() -> LanguageModel:
    return endless_model()


@cache
def answer_ids() -> tuple[int, ...]:
    return tuple(tokens(byte_tokenizer(), TEXT))


@cache
def in_code() -> tuple[int, ...]:
    """Indices of the tokens that are sampled in code, read off the text."""
    vocabulary, before, found = byte_tokenizer(), "", []
    for i, token_id in enumerate(answer_ids()):
        first, _, second = before.partition("~~~")
        opened = ["```" in first and "```\n" not in first[18:], bool(second) or before.endswith("~~~")]
        closed = "\n~~~\n" in second
        if opened[0] or (opened[1] and not closed):
            found.append(i)
        before += vocabulary.decode([token_id])
    assert before == TEXT and 20 < len(found) < len(answer_ids()) - 20
    return tuple(found)


@cache
def plans() -> dict[str, Plan]:
    layout = model().layout
    watch = Detector(tuned_lens(layout, 1), 0.5, 16)
    push = correction(Shift, layout, Site("resid_post", 2), gate=Gate(phases=BOTH), strength=0.4)
    patch = correction(Set, layout, Site("attn_z", 2), gate=DRIFT)
    mask = correction(Scale, layout, Site("mlp_act", 3), gate=LATCH)
    made = {
        "always": steered(push, correction(Scale, layout, Site("mlp_act", 1))),
        "gated": steered(patch, detector=watch, trace=True),
        "latched": steered(mask, detector=watch, trace=True),
        "contrast": steered(contrast(a=0.7), detector=watch, trace=True),
        "gated contrast": steered(contrast(gate=LATCH), push, detector=watch),
        "dola": steered(dola(0, 2)),
        "gated dola": steered(dola(1, 2, gate=DRIFT), detector=watch, trace=True),
        "observe": Plan(mode="observe", detector=watch, trace="tokens"),
    }
    return {name: replace(_middle(plan), exempt=CODE) for name, plan in made.items()}


def _middle(plan: Plan) -> Plan:
    if plan.detector is None:
        return plan
    engine = Engine(model(), EngineConfig(max_rows=1, context=160))
    (seen,) = engine.generate([request("a", replace(plan, mode="observe", trace="tokens"))])
    engine.close()
    return with_threshold(plan, separating_threshold([t.reading.drift for t in seen.tokens if t.reading]))


def request(name: str, plan: Plan, **fields: object) -> Request:
    """The answer is given; what is told of it is what each of its positions came to."""
    forced = answer_ids()
    sampling = SamplingParams(len(forced), temperature=0, forced=forced, logprobs=0, distributions=True)
    return Request(name, PROMPT, sampling, plan, **fields)  # type: ignore[arg-type]


def run(some: Iterable[Request], *, deterministic: bool, max_rows: int = 9) -> dict[str, Completion]:
    engine = Engine(model(), EngineConfig(max_rows=max_rows, context=160, deterministic=deterministic))
    for one in some:
        engine.add(one)
    done = gather(drain(engine))
    engine.close()
    return done


@cache
def together(deterministic: bool) -> dict[str, Completion]:
    """All plans in one batch, each beside its like without exemption and a plain one."""
    some = [request(name, plan) for name, plan in plans().items()]
    some += [request(f"{name}, all", replace(plan, exempt=frozenset())) for name, plan in plans().items()]
    return run([*some, request("plain", Plan())], deterministic=deterministic, max_rows=17)


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", plans())
def test_it_equals_the_oracle(name: str, deterministic: bool) -> None:
    ours = together(deterministic)[name]
    hf, plan = tiny_hf(), plans()[name]
    expected = plain_hf.answer(
        hf, PROMPT, plan, max_tokens=len(answer_ids()), forced=answer_ids(), exempt=set(in_code())
    )
    assert tuple(ids(ours)) == answer_ids()
    for i, (token, position) in enumerate(zip(ours.tokens, expected, strict=True)):
        assert token.logprob == pytest.approx(position.logprobs[token.id].item(), abs=1e-4), i
        assert (token.exempt, token.steered) == (i in in_code(), position.steered), i
        if plan.trace == "tokens":
            assert (token.reading is None) == token.exempt
        if token.reading is not None:
            assert token.reading.fired == position.fired
    told = ours.finish.receipt
    assert told.exempt_tokens == len(in_code()) and told.fired_tokens == sum(p.fired for p in expected)


@pytest.mark.parametrize("name", plans())
def test_what_is_compared_is_worth_it(name: str) -> None:
    """Without exemption something acts, or fires, within the spans too."""
    free = together(True)[f"{name}, all"].tokens
    assert any(free[i].steered or (free[i].reading and free[i].reading.fired) for i in in_code())
    assert not any(token.exempt for token in free)
    ours = together(True)[name].tokens
    outside = [t for i, t in enumerate(ours) if i not in in_code()]
    assert any(t.steered or (t.reading and t.reading.fired) for t in outside)


def test_a_gate_that_latched_is_open_again_after_the_span() -> None:
    tokens_ = together(True)["latched"].tokens
    first = next(i for i, t in enumerate(tokens_) if t.reading and t.reading.fired)
    assert first < in_code()[0]
    after = [t for i, t in enumerate(tokens_) if i > in_code()[0] and i not in in_code()]
    assert all(t.steered for t in after) and len(after) > 10


@pytest.mark.parametrize("deterministic", MODES)
@pytest.mark.parametrize("name", ["always", "latched", "contrast", "dola"])
def test_bits_are_those_of_the_plain_step(name: str, deterministic: bool) -> None:
    """From the same past: a prompt that leaves a fence open, under a plan that leaves prompts alone."""
    plan = replace(plans()[name], corrections=tuple(replace(c, gate=Gate()) for c in plans()[name].corrections))
    opened = (*PROMPT, *tokens(byte_tokenizer(), "```\n"))
    forced = tuple(tokens(byte_tokenizer(), "x = Paris\nLyon\n```\nYes."))
    sampling = SamplingParams(len(forced), temperature=0, forced=forced, logprobs=5, distributions=True)
    some = {"ours": plan, "plain": Plan(), "all": replace(plan, exempt=frozenset())}
    done = {
        key: run([Request(key, opened, sampling, one)], deterministic=deterministic)[key] for key, one in some.items()
    }
    same = [
        bool(ours.distribution.equal(plain.distribution))  # type: ignore[union-attr]
        for ours, plain in zip(done["ours"].tokens, done["plain"].tokens, strict=True)
    ]
    count = done["ours"].finish.receipt.exempt_tokens
    assert same[:count] == [True] * count and count > 8 and not any(same[count:])
    differ = zip(done["all"].tokens, done["plain"].tokens, strict=True)
    assert not any(t.distribution.equal(p.distribution) for t, p in differ)  # type: ignore[union-attr]


def test_steps_of_exempt_rows_carry_nothing() -> None:
    engine = Engine(model(), EngineConfig(max_rows=1, context=160))
    table, carried = engine._runner._table, list[bool]()
    taps = table.taps

    def spied(*args: object) -> object:
        made = taps(*args)  # type: ignore[arg-type]
        carried.append(bool(made._doses))
        return made

    table.taps = spied  # type: ignore[assignment,method-assign]
    engine.generate([request("a", replace(plans()["always"], trace="off"))])
    engine.close()
    assert carried[-len(answer_ids()) :] == [i not in in_code() for i in range(len(answer_ids()))]


@pytest.mark.parametrize("deterministic", MODES)
def test_preempted_rows_compute_each_position_as_it_was(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_size, "SHORTEST", 16)
    token = model().layout.kv_bytes_per_token(model().dtype)
    config = EngineConfig(
        max_rows=4, context=160, prefill_tokens=24, kv_memory=None if deterministic else 330 * token, prefix_cache=0,
        deterministic=deterministic,
    )  # fmt: skip
    engine = Engine(model(), config)
    spy, names = Spy(engine), ["always", "latched", "gated contrast", "gated dola"]
    for name in names:
        engine.add(request(name, plans()[name]))
    events, steps = [], 0
    while engine.has_work:
        events += engine.step()
        steps += 1
        if deterministic and steps in (25, 40, 50) and engine.num_running:
            engine._scheduler.preempt(engine._scheduler.running[-1])
    done = gather(events)
    engine.close()
    assert engine.num_preemptions >= 2 and spy.most_rows > 1
    for name in names:
        alone = run([request(name, plans()[name])], deterministic=deterministic)[name]
        if deterministic:
            assert [t.logprob for t in done[name].tokens] == [t.logprob for t in alone.tokens]
            assert done[name].finish.receipt == alone.finish.receipt
        expected = [t.logprob for t in alone.tokens]
        assert [t.logprob for t in done[name].tokens] == pytest.approx(expected, abs=1e-4)
        assert [t.exempt for t in done[name].tokens] == [t.exempt for t in alone.tokens]


def test_each_answer_has_its_own_spans() -> None:
    """Of several answers to one prompt, and of two that are compared."""
    plan = plans()["always"]
    drawn = SamplingParams(24, temperature=1.5, seed=3, logit_bias=tuple((i, 12.0) for i in fence_ids()), logprobs=0)
    many = run([Request("a", PROMPT, drawn, plan, n=6)], deterministic=True)
    counts = [one.finish.receipt.exempt_tokens for one in many.values()]
    assert len(set(counts)) > 2 and max(counts) > 0
    for i, one in ((one.index, one) for one in many.values()):
        lone = Request("b", PROMPT, replace(drawn, seed=3 + i), plan)
        alone = run([lone], deterministic=True)["b"]
        assert [(t.id, t.logprob, t.exempt) for t in one.tokens] == [(t.id, t.logprob, t.exempt) for t in alone.tokens]
    compared = run([replace(request("c", plan), compare=True)], deterministic=True)
    assert [compared[name].finish.receipt.exempt_tokens for name in ("c", "c#1")] == [len(in_code()), 0]


def fence_ids() -> list[int]:
    return [*tokens(byte_tokenizer(), "`"), *tokens(byte_tokenizer(), "\n"), *tokens(byte_tokenizer(), "~")]


def test_answers_with_spans_are_not_taken_for_prompts() -> None:
    """A plan that steers both keeps its answers in the prefix cache; with exempt spans it does not do in them what it
    does in prompts."""
    plan = steered(correction(Shift, model().layout, Site("resid_post", 1), gate=Gate(phases=BOTH)))
    exempting = replace(plan, exempt=CODE)
    assert exempting.digest != plan.digest and plan.digest == replace(plan).digest
    for one, more in ((plan, True), (exempting, False)):
        engine = Engine(model(), EngineConfig(max_rows=1, context=160, prefix_cache=2**20))
        engine.generate([request("a", one)])
        again = Request("b", (*PROMPT, *answer_ids(), 5), SamplingParams(1, temperature=0, logprobs=0), one)
        (cached,) = engine.generate([again])
        assert (engine.prefix_cache.hits > len(PROMPT)) is more
        engine.clear_prefix_cache()
        (fresh,) = engine.generate([again])
        engine.close()
        assert cached.tokens[0].logprob == pytest.approx(fresh.tokens[0].logprob, abs=1e-4)


def test_changed_weights_cannot_be_exempt() -> None:
    with pytest.raises(ValueError, match="act everywhere"):
        replace(steered(tuned(model().layout)), exempt=CODE)
