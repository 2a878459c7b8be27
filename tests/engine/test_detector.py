"""What a reading names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering.engine.detector import BLOCK, WORTH_BLOCKS, ReadOut, _most_probable, readings
from steering.engine.request import Request, SamplingParams
from steering.engine.sequence import Sequence
from steering.lens import LogitLens
from steering.plan import Detector, Plan, Trace

WATCH = Detector(LogitLens(0), 0.5, 16)


def sequence(trace: Trace) -> Sequence:
    plan = Plan(mode="observe", detector=WATCH, trace=trace)
    return Sequence(Request("", (1,), SamplingParams(1), plan), detokenizer=None)  # type: ignore[arg-type]


def readout(*traces: Trace) -> ReadOut:
    """Rows of 16 candidates, among which many tie, as in bfloat16; the late ones sorted."""
    R = len(traces)
    noise = torch.Generator().manual_seed(0)
    early = torch.randint(0, 3, (16,), generator=noise).float().expand(R, -1)
    late = torch.tensor([5.0] * 4 + [3.0] * 6 + [1.0] * 6).expand(R, -1)
    ids = torch.randperm(99, generator=noise)[:16].expand(R, -1)
    sides = torch.stack((early, late)).log_softmax(-1)
    sequences = [sequence(trace) for trace in traces]
    return ReadOut(list(range(R)), sequences, WATCH.threshold, ids, sides, torch.full((R,), 0.7))


def test_the_first_of_ties_does_not_depend_on_what_others_trace() -> None:
    alone, beside = readings(readout("off"))[0], readings(readout("off", "tokens"))[0]
    assert (alone.early[0], alone.late[0]) == (beside.early[0], beside.late[0])
    assert (len(alone.late), len(beside.late)) == (1, 5)


def test_the_lists_are_sorted_and_of_candidates() -> None:
    out = readout("tokens")
    reading = readings(out)[0]
    for side, logprobs in zip((reading.early, reading.late), out.sides, strict=True):
        expected = dict(zip(out.ids[0].tolist(), logprobs[0].tolist(), strict=True))
        assert [p for _, p in side] == sorted(expected.values(), reverse=True)[:5]
        assert all(expected[i] == p for i, p in side)
    assert reading.fired
    assert reading.drift == out.drift[0].item()


@pytest.mark.parametrize("V", [7, 384, 1000, 4096, 8192])
@pytest.mark.parametrize("k", [2, 16, 64])
@pytest.mark.parametrize("ties", [False, True])
def test_the_candidates_are_the_most_probable_tokens(V: int, k: int, ties: bool) -> None:
    logits = torch.randn(9, V, generator=torch.Generator().manual_seed(V + k))
    logits = (logits * 4).round() if ties else logits
    values, ids = _most_probable(logits, k)
    values, order = values.sort(descending=True)
    ids = ids.gather(1, order)
    expected = logits.sort(dim=-1, descending=True).values[:, :k]
    assert torch.equal(values, expected)
    assert torch.equal(logits.gather(1, ids), values)
    assert all(len(set(row)) == min(k, V) for row in ids.tolist())


def test_the_faster_search_is_really_taken() -> None:
    assert 8192 % BLOCK == 0
    assert 8192 // BLOCK > 64
    assert WORTH_BLOCKS <= 9 * 8192


def test_untraced_rows_are_told_of_news_alone() -> None:
    quiet = replace(readout("off", "off", "tokens"), threshold=0.9)
    quiet.sequences[0].max_drift = 0.8
    assert list(readings(quiet)) == [1, 2]
    assert list(readings(replace(quiet, threshold=0.5))) == [0, 1, 2]
