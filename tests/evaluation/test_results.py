"""Results, goals and reports: numbers by hand, nothing lost, nothing that could not be said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import pytest

from steering.errors import EvaluationError
from steering.evaluation.core import Reply
from steering.evaluation.goals import Goal, parse_goal
from steering.evaluation.html_report import as_html
from steering.evaluation.protocol import Heatmap, Measure, Outcome, Suite
from steering.evaluation.results import SuiteResult, tabulate
from steering.evaluation.running_text import RunningText
from steering.evaluation.suite_report import Report
from steering.evaluation.suites import SUITES, suites_named

RATE = Measure("rate", "how often <so>")
SCORE = Measure("score", "how much", "lower", (-10.0, 10.0))
NATS = Measure("nats", "unbounded", "lower", None)


def suite(*measures: Measure, name: str = "toy", capability: bool = False, heatmap: bool = False) -> Suite:
    drawn = Heatmap("a & b", ("one", "two"), ("50 %", "100 %"), ((1.0, -2.0), (0.0, 4.0)))
    made = (lambda questions, replies: drawn) if heatmap else None
    return Suite(name, "A <toy> suite", lambda source: [], measures, 1, capability=capability, heatmap=made)


def column(
    values: Sequence[Mapping[str, float | None]], *, fired: Sequence[bool] = (), judge: Sequence[float | None] = ()
) -> list[Outcome]:
    """One outcome a row of values, each a cluster."""
    outcomes = []
    for i, value in enumerate(values):
        grades = {"main": value} | ({"judge": {"rate": judge[i]}} if judge else {})
        replies = (Reply("x", fired_tokens=int(bool(fired and fired[i]))),)
        outcomes.append(Outcome(RunningText(str(i), "text"), replies, grades))
    return outcomes


def rates(*values: float | None) -> list[dict[str, float | None]]:
    return [{"rate": value} for value in values]


def test_means_and_paired_differences_by_hand() -> None:
    result = tabulate(suite(RATE), {"off": column(rates(0, 0, 1, None)), "on": column(rates(1, 0, 1, 1))})
    [row] = result.rows
    off, on = row.cells["off"], row.cells["on"]
    assert off is not None and on is not None and on.difference is not None
    assert (off.interval.estimate, off.n, off.difference) == (pytest.approx(1 / 3), 3, None)
    assert (on.interval.estimate, on.n) == (0.75, 4)
    assert on.difference.estimate == pytest.approx(1 / 3), "over the three questions with both"
    assert on.interval.low < 0.75 < on.interval.high <= 1.0


def test_extremes_set_how_intervals_are_widened() -> None:
    values = [{"score": 2.0, "nats": 2.0}] * 40
    result = tabulate(suite(SCORE, NATS), {"off": column(values), "on": column(values)})
    score, nats = (row.cells["on"] for row in result.rows)
    assert score is not None and nats is not None and score.difference is not None and nats.difference is not None
    assert score.interval.low < 2.0 < score.interval.high and score.difference.low < 0 < score.difference.high
    assert (nats.interval.low, nats.interval.high, nats.difference.high) == (2.0, 2.0, 0.0)


def test_questions_that_share_a_cluster_are_no_independent_draws() -> None:
    values = rates(*([1.0, 0.0] * 20))
    apart = tabulate(suite(RATE), {"off": column(values)}).rows[0].cells["off"]
    together = [Outcome(_InCluster(str(i), str(i % 2)), (), {"main": v}) for i, v in enumerate(values)]
    shared = tabulate(suite(RATE), {"off": together}).rows[0].cells["off"]
    assert apart is not None and shared is not None
    assert shared.interval.high - shared.interval.low > 1.5 * (apart.interval.high - apart.interval.low)


class _InCluster(RunningText):
    @property
    def cluster(self) -> str:
        return self.text


def test_disagreement_is_the_share_of_what_both_grade() -> None:
    graded = column(rates(1, 1, 0, None), judge=[1, 0, None, 1])
    result = tabulate(suite(RATE), {"off": graded})
    assert result.disagreement == {"off": {"judge": 0.5}}
    assert [row.grader for row in result.rows] == ["main", "judge"]
    assert result.silence["off"].unjudged == 1


def test_capability_is_reported_for_what_fired_and_what_did_not() -> None:
    result = tabulate(
        suite(RATE, capability=True),
        {"off": column(rates(1, 1, 1, 0)), "on": column(rates(0, 1, 1, 0), fired=[True, False, False, True])},
    )
    parts = {row.part: row.cells["on"] for row in result.rows}
    fired, idle = parts["fired"], parts["did not fire"]
    assert fired is not None and idle is not None and fired.difference is not None and idle.difference is not None
    assert (fired.interval.estimate, fired.n, fired.difference.estimate) == (0.0, 2, -0.5)
    assert (idle.interval.estimate, idle.n, idle.difference.estimate) == (1.0, 2, 0.0)
    assert result.silence["on"].fired == 2
    nothing = tabulate(suite(RATE, capability=True), {"off": column(rates(1))})
    assert [row.part for row in nothing.rows] == [""]


def test_questions_without_an_answer_count_nowhere() -> None:
    failed = Outcome(RunningText("9", "x"), (Reply("", cut=True),), {}, "too long")
    result = tabulate(suite(RATE), {"off": [*column(rates(1, 0)), failed]})
    cell, silence = result.rows[0].cells["off"], result.silence["off"]
    assert cell is not None and cell.n == 2
    assert (silence.unanswered, silence.reason, silence.cut) == (1, "too long", 1)


def report(**options: bool) -> Report:
    on = column(rates(1, 1), judge=[1, 0], fired=[True, False])
    off = column(rates(0, 1), judge=[0, 1])
    failed = Outcome(RunningText("9", "x"), (Reply("", cut=True),), {}, "context <8>")
    known = suite(RATE, name="are-you-sure", **options)
    result = tabulate(known, {"off": [*off, failed], "firm": [*on, failed]})
    return Report(
        {"off": {"model": "m<1>"}, "firm": {"model": "m<1>", "plan": "p"}}, {"seed": 0, "limit": "none"}, [result]
    )


def test_markdown_says_all_there_is() -> None:
    text = report(heatmap=True).as_markdown()
    assert "| model | m<1> | m<1> |" in text
    assert re.search(r"\| rate +\| main +\| 2 +\| \.50 \[[\d., ]+\] +\| 1\.00 \[[\d., ]+\] \(\+50\.0\)", text)
    assert "- `rate`: how often <so>, higher is better" in text
    assert "firm: the grader 'judge' disagrees on 50.0 % of what is graded." in text
    assert "off: 1 questions could not be asked (context <8>)" in text and "off: 1 replies were cut" in text
    assert "firm: the gate opened in 1 of 3 questions." in text
    assert "Published: Llama-3-8B truthfulness 49.8; SPT, single heads 71.5, SPT, KV groups 76.8 (Hara et al." in text
    assert re.search(r"\| two +\| \+0\.0 +\| \+4\.0 +\|", text)


def test_json_is_json_and_has_the_same_numbers() -> None:
    document = json.loads(json.dumps(report(heatmap=True).as_json(), allow_nan=False))
    row = document["suites"]["are-you-sure"]["rows"][0]
    assert row["cells"]["firm"]["estimate"] == 1.0 and row["cells"]["firm"]["difference"]["estimate"] == 0.5
    assert len(document["published"]) == 4 and document["conditions"]["firm"]["plan"] == "p"
    assert document["suites"]["are-you-sure"]["heatmaps"]["off"]["cells"] == [[1.0, -2.0], [0.0, 4.0]]


def test_html_is_whole_and_loads_nothing() -> None:
    page = as_html(report(heatmap=True))
    ElementTree.fromstring(re.sub(r"<!doctype html>|<meta [^>]*>", "", page))  # noqa: S314  our own
    assert not re.search(r"https?:|src=|href=|<script|url\(", page)
    assert "context &lt;8&gt;" in page and "m&lt;1&gt;" in page and "A &lt;toy&gt; suite" in page
    assert page.count("<circle") == 2 and page.count("<rect") == 8
    opacities = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', page)]
    assert sorted(opacities) == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def results(**cells: float | None) -> list[SuiteResult]:
    return [tabulate(suite(RATE, SCORE), {name: column(rates(value)) for name, value in cells.items()})]


def test_goals() -> None:
    goal = parse_goal("rate=0.7", [suite(RATE, SCORE)], "under")
    assert goal == Goal("toy", "rate", 0.7, "under")
    measured = results(off=0.5, on=0.9)
    assert goal.missed(measured, ["on"]) == [] and goal.missed(measured, ["off"]) == [
        "toy.rate of off is 0.500, under 0.7."
    ]
    over = parse_goal("toy.rate=0.7", [suite(RATE)], "over")
    assert over.missed(measured, ["off", "on"]) == ["toy.rate of on is 0.900, over 0.7."]
    assert Goal("toy", "rate", 0.5, "under").missed(measured, ["off"]) == []
    unknown = Goal("toy", "score", 1.0, "over")
    assert unknown.missed(measured, ["on"]) == ["toy.score of on could not be measured."]
    assert goal.missed(results(off=None, on=0.9), ["off"]) == ["toy.rate of off could not be measured."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate", "expected METRIC=VALUE"),
        ("rate=much", "expected METRIC=VALUE"),
        ("rate=nan", "expected METRIC=VALUE"),
        ("other=1", "'other' is no metric of these suites: toy.rate, toy.score, two.rate"),
        ("rate=1", "'rate' means several: toy.rate, two.rate"),
    ],
)
def test_goals_that_are_none(text: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        parse_goal(text, [suite(RATE, SCORE), suite(RATE, name="two")], "under")


def test_suites_by_name() -> None:
    assert [s.name for s in suites_named(["syco-bench", "mirror", "gsm8k"])] == [
        *("pickside", "mirror", "whosaid", "delusion", "gsm8k")
    ]
    with pytest.raises(EvaluationError, match=r"no suite named 'nope'; there are: are-you-sure, .*capability"):
        suites_named(["gsm8k", "nope"])


def test_every_suite_is_described() -> None:
    for name, known in SUITES.items():
        assert known.name == name and known.title and known.measures and known.num_asks >= 1
        assert len({measure.name for measure in known.measures}) == len(known.measures)
        assert all(m.extremes is None or math.isfinite(m.extremes[1] - m.extremes[0]) for m in known.measures)
