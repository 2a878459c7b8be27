"""What a reading names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering.engine.detector import BLOCK, WHOLE, WORTH_BLOCKS, ReadOut, _most_probable, _read, read_out, readings
from steering.engine.request import Request, SamplingParams
from steering.engine.runner import Forward
from steering.engine.sequence import Retry, Sequence
from steering.lens import LogitLens, TunedLens
from steering.model.layout import layout_of
from steering.plan import Detector, Plan, Trace
from tests.models import tiny_hf
from tests.plans import tuned_lens

WATCH = Detector(LogitLens(0), 0.5, 16)
UNEMBED = layout_of(tiny_hf().requires_grad_(False)).unembed


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
    sequences, states = [sequence(trace) for trace in traces], torch.randn(R, 64, generator=noise)
    thresholds, drifts = torch.full((R,), WATCH.threshold), torch.full((R,), 0.7)
    return ReadOut(list(range(R)), sequences, thresholds, ids, sides, drifts, states, fixed_rows=True)


def quiet(*traces: Trace) -> ReadOut:
    """The same, under its threshold."""
    return replace(readout(*traces), thresholds=torch.full((len(traces),), 0.9))


def test_the_first_of_ties_does_not_depend_on_what_others_trace() -> None:
    alone, beside = readings(quiet("off"), UNEMBED)[0], readings(quiet("off", "tokens"), UNEMBED)[0]
    assert (alone.early[0], alone.late[0]) == (beside.early[0], beside.late[0])
    assert (len(alone.late), len(beside.late)) == (1, 10)


def test_the_lists_are_sorted_and_of_candidates() -> None:
    out = quiet("tokens")
    reading = readings(out, UNEMBED)[0]
    for side, logprobs in zip((reading.early, reading.late), out.sides, strict=True):
        expected = dict(zip(out.ids[0].tolist(), logprobs[0].tolist(), strict=True))
        assert [p for _, p in side] == sorted(expected.values(), reverse=True)[:10]
        assert all(expected[i] == p for i, p in side)
    assert not reading.fired
    assert reading.drift == out.drift[0].item()


def test_where_a_gate_opens_the_early_list_is_of_the_whole_vocabulary() -> None:
    """And bit for bit the same whoever fires beside it; as many as its own request traces."""
    out = readout("tokens", "off", "tokens")
    together = readings(out, UNEMBED)
    for row, reading in together.items():
        logprobs = UNEMBED.logits(out.translated[row : row + 1])[0].log_softmax(-1)
        best = logprobs.argsort(descending=True)[: (10, 1, 10)[row]].tolist()
        assert reading.fired
        assert reading.early == tuple((i, logprobs[i].item()) for i in best)
        assert best[0] not in out.ids[row]
        assert {i for i, _ in reading.late} <= set(out.ids[row].tolist())
        alone = replace(
            out,
            **{
                name: getattr(out, name)[row : row + 1]
                for name in ("sequences", "thresholds", "ids", "drift", "translated")
            },
            rows=[row],
            sides=out.sides[:, row : row + 1],
        )
        assert readings(alone, UNEMBED)[row].early == reading.early


def test_of_an_untraced_answer_it_is_read_once() -> None:
    """Its receipt shows the first position that fired; what comes after is told to nobody."""
    out = readout("off", "tokens")
    for sequence, reading in zip(out.sequences, readings(out, UNEMBED).values(), strict=True):
        sequence.retry(Retry(reading, None))
    again = readings(out, UNEMBED)
    candidates = set(out.ids[0].tolist())
    assert again[0].early[0][0] in candidates
    assert again[1].early[0][0] not in candidates


def test_the_vocabulary_is_read_only_where_a_gate_opens() -> None:
    class Unread:
        def logits(self, h: torch.Tensor) -> torch.Tensor:
            raise AssertionError("read without a fire")

        candidate_logits = UNEMBED.candidate_logits

    assert len(readings(quiet("tokens", "off"), Unread())) == 2


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


@pytest.mark.parametrize("fixed_rows", [False, True])
def test_lenses_that_are_equal_are_read_once(fixed_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their thresholds; and each row is read as it would be alone."""
    noise = torch.Generator().manual_seed(0)
    logits, hidden = torch.randn(6, 384, generator=noise), torch.randn(8 if fixed_rows else 6, 64, generator=noise)
    layout = layout_of(tiny_hf())
    lenses = [tuned_lens(layout, 1, seed=i // 5) for i in range(6)]
    plans = [Plan(mode="observe", detector=Detector(lens, i / 10, 16)) for i, lens in enumerate(lenses)]
    plans[2] = Plan()
    sequences = tuple(Sequence(Request("", (1,), SamplingParams(1), p), None) for p in plans)  # type: ignore[arg-type]
    translated: list[int] = []
    translate = TunedLens.translate
    monkeypatch.setattr(TunedLens, "translate", lambda self, h: (translated.append(len(h)), translate(self, h))[1])
    outs = read_out(sequences, Forward(logits, {1: hidden}, fixed_rows, [], []), UNEMBED)
    assert [out.rows for out in outs] == [[0, 1, 3, 4], [5]]
    assert translated == ([8, 8] if fixed_rows else [4, 1])
    assert outs[0].thresholds.tolist() == pytest.approx([0.0, 0.1, 0.3, 0.4])
    for out in outs:
        for i, row in enumerate(out.rows):
            ids = logits[row].topk(16).indices
            early = UNEMBED.logits(translate(lenses[row], hidden[row]))[ids].log_softmax(-1)
            found = dict(zip(out.ids[i].tolist(), out.sides[0, i].tolist(), strict=True))
            assert [found[token] for token in ids.tolist()] == pytest.approx(early.tolist(), abs=1e-4)


def test_untraced_rows_are_told_of_news_alone() -> None:
    out = quiet("off", "off", "tokens")
    out.sequences[0].max_drift = 0.8
    assert list(readings(out, UNEMBED)) == [1, 2]
    assert list(readings(replace(out, thresholds=torch.full((3,), 0.5)), UNEMBED)) == [0, 1, 2]


@pytest.mark.parametrize("fixed_rows", [False, True])
def test_large_candidate_sets_are_read_from_the_whole_vocabulary(fixed_rows: bool) -> None:
    """One product then costs less; not in deterministic mode, where its bits would depend on who else is read."""
    noise = torch.Generator().manual_seed(0)
    logits, hidden = torch.randn(6, 384, generator=noise), torch.randn(6, 64, generator=noise)
    lens, watched = tuned_lens(layout_of(tiny_hf()), 1), [sequence("off") for _ in range(6)]
    asked: list[str] = []

    class Counted:
        def logits(self, h: torch.Tensor) -> torch.Tensor:
            asked.append("whole")
            return UNEMBED.logits(h)

        def candidate_logits(self, h: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            asked.append("set")
            return UNEMBED.candidate_logits(h, ids)

    forward = Forward(logits, {1: hidden}, fixed_rows, [], [])
    for num_candidates in (384 // WHOLE, 384 // WHOLE - 1):
        out = _read(list(range(6)), watched, (lens, num_candidates), forward, Counted())
        early = UNEMBED.logits(lens.translate(hidden)).gather(1, out.ids)
        torch.testing.assert_close(out.sides[0], early.log_softmax(-1))
    assert asked == ["set" if fixed_rows else "whole", "set"]
