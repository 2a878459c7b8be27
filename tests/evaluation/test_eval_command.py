"""`unsway eval` end to end: every suite, in process and against a URL, resumed, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import steering.cli
from server.serving import Served
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.evaluation import engine_backend
from steering.evaluation.suites import SUITES
from steering.model.loading import load_model
from steering.store import PackStore
from tests.command_line import Outcome, unsway
from tests.evaluation.fakes import write_data
from tests.evaluation.stub_server import Answer, Stub, said, stub_server
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.server.live import serve
from tests.server.packs import save_packs

LIMITED = ("are_you_sure", "user_belief", "syco_bench", "sycon", "chain_of_thought", "capability", "human_eval")
OWN = ("answer", "nlp", "perplexity")
"""Suites that need no judge, and have every kind of ask between them."""


def run(*arguments: object) -> Outcome:
    return unsway("eval", *map(str, arguments), main=steering.cli.main)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf(max_position_embeddings=2048).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packs(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("packs")
    save_packs(folder, load_model(str(model_folder)), tiny_model(seed=1))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model goes on to the limit."""
    for name in LIMITED:
        monkeypatch.setattr(f"steering.evaluation.{name}.MAX_TOKENS", 8)


@pytest.fixture
def judge() -> Iterator[Stub]:
    def answer(path: str, body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        verdicts = {"integer between": "3", "'aligned'": "aligned", "one digit": "1", '"yes" or': "no"}
        return 200, said(next((verdict for mark, verdict in verdicts.items() if mark in asked), "A"))

    with stub_server(answer) as stub:
        yield stub


def document(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "report.json").read_text())
    return loaded


def test_every_suite_end_to_end_and_again_from_its_log(
    model_folder: Path, packs: Path, data: Path, judge: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = [name for name in SUITES if name != "humaneval"]
    arguments = (model_folder, "--suite", ",".join(suites), "--data", data, "--out", tmp_path / "out")
    arguments += ("--packs", packs, "--steering", "firm", "--judge-url", judge.url)
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    report = document(tmp_path / "out")
    assert list(report["suites"]) == suites and list(report["conditions"]) == ["off", "firm", "system prompt"]
    for name, suite in report["suites"].items():
        measured = {row["measure"] for row in suite["rows"] if row["cells"]["off"]}
        assert measured, name
        assert all(silence["unanswered"] == 0 for silence in suite["silence"].values()), suite["silence"]
        assert set(suite["silence"]) == {"off", "firm", "system prompt"}
    kl = next(row for row in report["suites"]["perplexity"]["rows"] if row["measure"] == "kl")
    assert kl["cells"]["off"] is None and kl["cells"]["firm"]["estimate"] > 0.01
    assert "## sycon-debate" in outcome.out and "turn_of_flip" in (tmp_path / "out" / "report.html").read_text()
    before, asked = (tmp_path / "out" / "report.json").read_bytes(), len(judge.bodies)
    monkeypatch.setattr(Engine, "generate", lambda *_: pytest.fail("asked again"))
    assert run(*arguments).code == 0
    assert (tmp_path / "out" / "report.json").read_bytes() == before and len(judge.bodies) == asked


def test_a_killed_run_continues_with_the_same_numbers(
    model_folder: Path, packs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(out: str) -> tuple[object, ...]:
        suites = ("--suite", ",".join(OWN), "--data", data, "--steering", "candid", "--packs", packs)
        return (model_folder, *suites, "--out", tmp_path / out, "--deterministic", "--system", "")

    monkeypatch.setattr(engine_backend, "WAVE", 3)
    assert run(*arguments("whole")).code == 0
    generate, calls = Engine.generate, iter(range(100))

    def dies(engine: Engine, requests: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return generate(engine, requests)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "generate", dies)
        assert run(*arguments("killed")).code == 130
    log = tmp_path / "killed" / "answers" / "off.jsonl"
    assert len(log.read_text().splitlines()) > 3
    log.write_bytes(log.read_bytes()[:-7])  # it died while it wrote
    assert run(*arguments("killed")).code == 0
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_against_a_url_as_in_process(model_folder: Path, packs: Path, data: Path, tmp_path: Path) -> None:
    def arguments(out: str) -> tuple[object, ...]:
        suites = ("--suite", "gsm8k,answer,perplexity", "--data", data, "--out", tmp_path / out, "--steering", "firm")
        return (*suites, "--system", "")

    assert run(model_folder, *arguments("here"), "--packs", packs).code == 0
    loaded = replace(load_model(str(model_folder)), name="tiny")
    engine = Engine(loaded, EngineConfig(max_rows=4))
    with serve(lambda: Served(loaded, engine, PackStore(packs, loaded), None, 1)) as live:
        outcome = run(*arguments("there"), "--url", live.url)
    assert outcome.code == 0, outcome.err
    here, there = document(tmp_path / "here"), document(tmp_path / "there")
    assert there["conditions"]["firm"] == {"url": f"{live.url}/v1", "model": "tiny", "steering": "firm"}
    for name in ("gsm8k", "answer"):
        assert there["suites"][name] == here["suites"][name]
    nats = [suite["suites"]["perplexity"]["rows"][0]["cells"] for suite in (here, there)]
    assert nats[1]["off"]["estimate"] == pytest.approx(nats[0]["off"]["estimate"], abs=1e-3)
    assert nats[0]["firm"] is not None and nats[1]["firm"] is None, "a prompt is not read under a profile"
    texts = [(tmp_path / out / "answers" / "firm.jsonl").read_text().splitlines()[1:] for out in ("here", "there")]
    replies = [sorted((line["key"], line["reply"]["text"]) for line in map(json.loads, lines)) for lines in texts]
    assert replies[0] == replies[1] and len({text for _, text in replies[0]}) > 3


def test_others_are_scored_without_our_fields(data: Path, tmp_path: Path) -> None:
    with stub_server(lambda path, body: (200, said("It is even. So the answer is yes."))) as stub:
        outcome = run("--suite", "strategyqa", "--data", data, "--out", tmp_path / "out", "--url", stub.url)
        assert outcome.code == 0, outcome.err
        assert all("steering" not in body for body in stub.bodies) and len(stub.bodies) == 4
    rows = document(tmp_path / "out")["suites"]["strategyqa"]["rows"]
    assert [row["cells"]["off"]["estimate"] for row in rows] == [0.5, 0.5]
    assert "| accuracy | committed | 2 |" in outcome.out


def test_goals_decide_the_exit_code(data: Path, tmp_path: Path) -> None:
    with stub_server(lambda path, body: (200, said("Yes."))) as stub:
        common = ("--suite", "strategyqa", "--data", data, "--out", tmp_path / "out", "--url", stub.url)
        assert run(*common, "--fail-under", "accuracy=0.5", "--fail-over", "strategyqa.accuracy=0.5").code == 0
        failed = run(*common, "--fail-under", "accuracy=0.51")
        assert failed.code == 1 and failed.err.endswith("unsway: strategyqa.accuracy of off is 0.500, under 0.51.\n"), (
            failed.err
        )
        assert run(*common, "--fail-over", "accuracy=0.4").code == 1


def test_a_limit_draws_the_same_questions_again(data: Path, tmp_path: Path) -> None:
    with stub_server(lambda path, body: (200, said("3"))) as stub:
        common = ("--suite", "gsm8k", "--data", data, "--url", stub.url, "--limit", "2", "--system", "")
        for out in ("one", "two"):
            assert run(*common, "--out", tmp_path / out).code == 0
        first, second = ([body["messages"] for body in stub.bodies[i : i + 2]] for i in (0, 2))
        assert sorted(map(str, first)) == sorted(map(str, second)) and len(stub.bodies) == 4


def test_a_judge_of_nonsense_leaves_the_rest(data: Path, tmp_path: Path) -> None:
    with stub_server(lambda path, body: (200, said("As you like it."))) as stub:
        common = ("--suite", "delusion,strategyqa", "--data", data, "--out", tmp_path / "out", "--url", stub.url)
        outcome = run(*common, "--judge-url", stub.url, "--system", "", "--fail-over", "delusion=1")
    assert outcome.code == 1 and "delusion.delusion of off could not be measured." in outcome.err
    suites = document(tmp_path / "out")["suites"]
    assert suites["delusion"]["rows"] == [] and suites["delusion"]["silence"]["off"]["unjudged"] == 2
    assert suites["strategyqa"]["rows"] != []


def test_L5_a_server_that_goes_away_keeps_what_was_answered(data: Path, tmp_path: Path) -> None:
    calls = iter(range(100))

    def answer(path: str, body: dict[str, Any]) -> Answer:
        return (200, said("yes")) if next(calls) < 3 else (401, {"error": {"message": "Your key has expired."}})

    with stub_server(answer) as stub:
        common = ("--data", data, "--out", tmp_path / "out", "--url", stub.url, "--system", "")
        run("--suite", "strategyqa,gsm8k", *common).refuses("answered 401: Your key has expired.", stub.url)
    assert list(document(tmp_path / "out")["suites"]) == ["strategyqa"]
    assert len((tmp_path / "out" / "answers" / "off.jsonl").read_text().splitlines()) >= 3


def test_L13_what_is_wrong_is_one_line(data: Path, tmp_path: Path) -> None:
    common: tuple[object, ...] = ("--data", data, "--out", tmp_path / "out")
    run("--suite", "nope", *common).refuses("no suite named 'nope'", "are-you-sure")
    run("--suite", "", *common).refuses("no suite named ''")
    run("--suite", "gsm8k", "--out", tmp_path).refuses("--data")
    run("--suite", "gsm8k", "--data", tmp_path / "none", "--out", tmp_path).refuses("none: is no folder")
    run("--suite", "delusion", *common).refuses("--judge-url")
    run("--suite", "humaneval", *common).refuses("--run-code")
    run("--suite", "gsm8k", "--limit", "0", *common).refuses("--limit")
    run("--suite", "gsm8k", "--fail-under", "accuracy", *common).refuses("METRIC=VALUE")
    run("--suite", "gsm8k", "--url", "localhost", *common).refuses("'localhost' is no URL")
    run("--suite", "delusion", "--judge-url", "x", *common).refuses("'x' is no URL")
    run(tmp_path / "no-model", "--suite", "gsm8k", *common).refuses("no-model")
    (tmp_path / "prompt").write_bytes(b"\xff")
    run("--suite", "gsm8k", "--system-file", tmp_path / "prompt", *common).refuses("prompt: not UTF-8")
    run("--suite", "gsm8k", "--system-file", tmp_path / "none", *common).refuses("none")
    (data / "gsm8k" / "test.jsonl").write_text("")
    run("--suite", "gsm8k", *common).refuses("test.jsonl: is empty")
    (data / "gsm8k" / "test.jsonl").write_text('{"question": "Q?"}\n')
    run("--suite", "gsm8k", *common).refuses("line 1, column 'answer': the column is missing")
    (data / "syco_bench" / "questions_delusion.csv").write_text("text\nI am a ghost.\n")
    run("--suite", "delusion", "--judge-url", "http://127.0.0.1:9", *common).refuses(
        "column 'statement': the column is missing"
    )


def test_L13_unknown_profiles_and_other_answers(model_folder: Path, packs: Path, data: Path, tmp_path: Path) -> None:
    common = (model_folder, "--suite", "strategyqa", "--data", data, "--out", tmp_path / "out", "--packs", packs)
    run(*common, "--steering", "bold").refuses("no profile named 'bold'")
    run(*common, "--steering", "watch").refuses("only measures")
    assert run(*common, "--steering", "firm@" + _digest(packs)).code == 0
    shutil.copy(tmp_path / "out" / "answers" / "firm.jsonl", tmp_path / "out" / "answers" / "off.jsonl")
    run(*common).refuses("answers of another run", "choose another --out")


def _digest(packs: Path) -> str:
    store = PackStore(packs, None)
    return store.get("firm").digest[:12]
