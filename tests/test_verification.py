"""Verdicts: what calibration allows to be told, and no more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.engine.request import Request, SamplingParams
from steering.lens import LogitLens, drift
from steering.pack import Pack
from steering.plan import Detector
from steering.verification import (
    Finding,
    Judgement,
    Standard,
    early_exit,
    judge_all,
    judge_named,
    margin,
    standard_of,
)
from tests.engine.spy import ids
from tests.models import endless_model, tiny_hf
from tests.plans import tuned_lens

STANDARD = Standard(threshold=0.5, margin=1.0, false_alarms=0.05, longest=48)
HELD = Finding(at=3, same=False, gap=2.0, drift=0.8, output_agrees=True)


@pytest.mark.parametrize("threshold", [0.35, 0.5541, 0.7, 0.95, 0.999])
def test_the_margin_is_where_two_tokens_reach_the_threshold(threshold: float) -> None:
    """Against the engine's own drift, an output that is certain of the other."""
    for more, over in ((-1e-3, False), (1e-3, True)):
        p = 1 / (1 + math.exp(-(margin(threshold) + more)))
        sides = torch.tensor([[[p, 1 - p]], [[1e-30, 1.0]]], dtype=torch.float64).log()
        assert (drift(sides).item() > threshold) is over


def test_the_margin_at_its_ends() -> None:
    assert margin(0.0) == margin(0.3) == pytest.approx(0.0, abs=1e-9)  # an even early layer is over it already
    assert margin(0.2) < margin(0.4) < margin(0.6) and margin(1.0) > 30


@pytest.mark.parametrize(
    ("found", "verdict", "says"),
    [
        (HELD, "drifted", ""),
        (replace(HELD, same=True), "consistent", ""),
        (replace(HELD, gap=0.99), "undecided", "closer than the margin"),
        (replace(HELD, same=True, gap=0.99), "undecided", "closer than the margin"),
        (replace(HELD, drift=0.5), "undecided", "no further"),
        (replace(HELD, drift=0.1, output_agrees=False), "drifted", ""),
        (replace(HELD, at=48), "undecided", "beyond the 48 tokens"),
    ],
)
def test_named_answers(found: Finding, verdict: str, says: str) -> None:
    judged = judge_named(found, STANDARD)
    assert judged.verdict == verdict and says in judged.reason and bool(judged.reason) == (verdict == "undecided")


def test_an_answer_as_it_stands() -> None:
    calm = [Finding(i, same=i % 2 == 0, gap=3.0, drift=0.1 * i, output_agrees=True) for i in range(4)]
    assert judge_all(calm, STANDARD) == (calm[3], Judgement("consistent"))
    agreeing = replace(HELD, same=True, drift=0.9)
    assert judge_all([*calm, agreeing], STANDARD) == (agreeing, Judgement("consistent"))
    assert judge_all([*calm, agreeing, HELD], STANDARD) == (HELD, Judgement("drifted"))
    close = replace(HELD, gap=0.5)
    assert judge_all([*calm, close], STANDARD)[1].verdict == "undecided"
    unlike = replace(calm[1], output_agrees=False)
    found, judged = judge_all([calm[0], unlike, calm[2]], STANDARD)
    assert (found, judged.verdict) == (unlike, "undecided") and "name candidates" in judged.reason


def test_what_is_called_drifted_is_over_the_threshold() -> None:
    """Of the model's own greedy answers, where the output is with the answer: so no more are than the gate fires on."""
    noise = torch.Generator().manual_seed(0)
    verdicts = set()
    for _ in range(2000):
        same, gap, bits = torch.rand(3, generator=noise).tolist()
        found = Finding(0, same < 0.5, 3 * gap, bits, output_agrees=True)
        judged = {judge_named(found, STANDARD).verdict, judge_all([found], STANDARD)[1].verdict}
        assert "drifted" not in judged or bits > STANDARD.threshold
        verdicts |= judged
    assert verdicts == {"consistent", "drifted", "undecided"}


def test_a_pack_that_is_not_calibrated_decides_nothing() -> None:
    detector = Detector(LogitLens(1), 0.5)
    pack = Pack("own", "By hand.", "tiny", f"sha256:{'0' * 64}", detector=detector)
    standard = standard_of(pack, detector)
    assert (standard.false_alarms, standard.longest) == (None, None)
    for judged in (judge_named(HELD, standard), judge_all([HELD], standard)[1]):
        assert judged.verdict == "undecided" and "not calibrated" in judged.reason
    told = replace(pack, evidence={"false_fires": 0.02, "answer_limit": 48})
    assert standard_of(told, detector) == Standard(0.5, margin(0.5), 0.02, 48)
    for odd in (True, "0.02", 0, 1.5, None):
        assert standard_of(replace(pack, evidence={"false_fires": odd}), detector).false_alarms is None


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_early_layer_goes_on_by_itself(deterministic: bool) -> None:
    """As a stock model whose upper blocks are left out."""
    model, lens = endless_model(), tuned_lens(endless_model().layout, 2)
    prompt = tuple(range(7, 30))
    plan = early_exit(Detector(lens, 0.5, 16), model.layout.vocab_size)
    engine = Engine(model, EngineConfig(max_rows=2, context=64, deterministic=deterministic))
    sampling = SamplingParams(12, temperature=0, logprobs=1)
    early, plain = engine.generate([Request("a", prompt, sampling, plan), Request("b", prompt, sampling)])
    engine.close()
    hf, text = tiny_hf(), list(prompt)
    with torch.no_grad():
        for token in early.tokens:
            h = hf(torch.tensor([text]), output_hidden_states=True, use_cache=False).hidden_states[2][0, -1]
            logprobs = hf.lm_head(hf.model.norm(lens.translate(h))).log_softmax(-1)
            assert token.id == int(logprobs.argmax())
            assert token.logprob == pytest.approx(logprobs.max().item(), abs=1e-4)
            text.append(token.id)
    assert ids(early) != ids(plain)
