"""`unsway jobs`: a thin client of a running server's jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steering.commands import progress
from steering.commands.table import print_table

if TYPE_CHECKING:
    from steering.evaluation.openai_client import Client

PATH = "steering/jobs"
PATIENCE = 60.0
"""Seconds that a server has to come back to somebody who follows a job."""
ENDED = ("completed", "failed", "cancelled", "corrupt")

app = typer.Typer(help="Calibrations and evaluations of a running server: docs/jobs.md.", no_args_is_help=True)
start = typer.Typer(help="Start one, or put it in the queue.", no_args_is_help=True)
app.add_typer(start, name="start")

Url = Annotated[str, typer.Option("--url", envvar="UNSWAY_URL", help="The server.")]
Key = Annotated[str | None, typer.Option("--key", envvar="UNSWAY_API_KEY", help="Its key; prefer the variable.")]
AsJson = Annotated[bool, typer.Option("--json", help="What the server says, as it says it.")]
JobId = Annotated[str, typer.Argument(help="As `jobs ps` shows it.")]
Follow = Annotated[bool, typer.Option("--follow", help="Go on until it has ended; exit code 1 if it did not do well.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")]
LOCAL = "http://127.0.0.1:8000"


@app.command("ps")
def list_jobs(url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Your jobs, newest first."""
    told = _client(url, key).get(PATH)
    if as_json:
        _print_json(told)
        return
    rows = [
        (job["id"], job.get("kind", ""), job["state"], _progress(job), job.get("reason", "")) for job in told["data"]
    ]
    print_table(("id", "kind", "state", "progress", "note"), rows)


@app.command("show")
def show_job(job_id: JobId, url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """One job: what was asked, how far it is, what it came to."""
    job = _client(url, key).get(f"{PATH}/{job_id}")
    if as_json:
        _print_json(job)
        return
    told = {name: value for name, value in job.items() if name not in ("object", "progress", "log")}
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in told.items()]
    print_table(("", ""), [*rows, ("progress", _progress(job))])


@app.command("logs")
def show_log(job_id: JobId, follow: Follow = False, url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """What a job's command wrote last; with --follow all of it, and what it still writes."""
    client = _client(url, key)
    if follow:
        _follow(client, job_id, as_json)
    lines = client.get(f"{PATH}/{job_id}")["log"]
    typer.echo(json.dumps(lines, indent=2) if as_json else "\n".join(lines))


@app.command("cancel")
def cancel_job(job_id: JobId, url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """End a job that runs or waits. What it measured is lost with `jobs rm` alone."""
    client = _client(url, key)
    if (state := client.get(f"{PATH}/{job_id}")["state"]) in ENDED:
        raise typer.TyperException(f"{job_id} has ended: {state}. Forget it with `unsway jobs rm`.")
    _tell(client.delete(f"{PATH}/{job_id}"), as_json)


@app.command("rm")
def forget_job(job_id: JobId, url: Url = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Forget a job that has ended, with all that it left on the server."""
    client = _client(url, key)
    if (state := client.get(f"{PATH}/{job_id}")["state"]) not in ENDED:
        raise typer.TyperException(f"{job_id} is {state}; `unsway jobs cancel` ends it.")
    told = client.delete(f"{PATH}/{job_id}")
    _print_json(told) if as_json else typer.echo(f"{job_id} is forgotten.")


@start.command("calibrate")
def start_calibration(  # noqa: PLR0913 - options of a command
    name: Annotated[str, typer.Argument(help="What to call the profile.")],
    questions: Annotated[
        Path | None, typer.Option("--questions", help="File of questions; the bundled model brings its own.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="As of `unsway calibrate`.")] = False,
    seed: Seed = 0,
    test: Annotated[
        Literal["test_a", "test_b"] | None, typer.Option("--test", help="As of `unsway calibrate`.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="An uploaded profile of that name gives way.")] = False,
    follow: Follow = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a profile for the model that is served."""
    asked: dict[str, Any] = {"kind": "calibrate", "profile": name, "quick": quick, "seed": seed, "test": test}
    asked["replace"] = replace
    if questions is not None:
        asked["questions"] = _questions(questions)
    _start(_client(url, key), asked, follow, as_json)


@start.command("evaluate")
def start_evaluation(  # noqa: PLR0913 - options of a command
    suite: Annotated[list[str], typer.Option("--suite", help="Suite or group; again, or with commas, for more.")],
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="To measure beside off; again for more.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="As of `unsway eval`.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Questions of a suite; all if not given.")] = None,
    seed: Seed = 0,
    fail_under: Annotated[list[str] | None, typer.Option("--fail-under", help="As of `unsway eval`.")] = None,
    fail_over: Annotated[list[str] | None, typer.Option("--fail-over", help="As of `unsway eval`.")] = None,
    follow: Follow = False,
    url: Url = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Measure the model that is served by published protocols."""
    suites = [name.strip() for group in suite for name in group.split(",")]
    asked: dict[str, Any] = {"kind": "evaluate", "suites": suites, "profiles": profile or [], "seed": seed}
    asked |= {"fail_under": fail_under or [], "fail_over": fail_over or [], "limit": limit}
    asked |= {} if system is None else {"system": system}
    _start(_client(url, key), asked, follow, as_json)


def _start(client: Client, asked: dict[str, Any], follow: bool, as_json: bool) -> None:
    job = client.post(PATH, {name: value for name, value in asked.items() if value is not None})
    if follow:
        _follow(client, job["id"], as_json)
    else:
        _tell(job, as_json)


def _follow(client: Client, job_id: str, as_json: bool) -> None:
    """Ends this process with the job's exit code, or 1 where there is none."""
    end: dict[str, Any] = {}
    with progress.reported("auto", "steps") as bars:
        stage, done = None, 0
        for name, data in _events(client, job_id):
            if as_json:
                typer.echo(json.dumps({"event": name, "data": data}))
            elif name == "log":
                bars.log(data["line"])
            elif name == "progress":
                if data["stage"] != stage or data["done"] < done:
                    stage, done = data["stage"], 0
                    bars.start(data["stage"], data["total"])
                for _ in range(data["done"] - done):
                    bars.advance()
                done = data["done"]
            end = data if name == "end" else end
    if not as_json:
        _tell(end, as_json)
    raise typer.Exit(end.get("exit_code", 1) if end["state"] == "completed" else 1)


def _events(client: Client, job_id: str) -> Iterator[tuple[str, Any]]:
    """To the one named `end`. A server that goes away meanwhile is waited for: the job goes on with it."""
    from steering.errors import BackendError

    last, heard = "", time.monotonic()
    while True:
        try:
            for number, name, data in _frames(client.lines(f"{PATH}/{job_id}/events", {"last-event-id": last})):
                last, heard = number or last, time.monotonic()
                if name == "error":
                    break
                yield name, data
                if name == "end":
                    return
        except BackendError as error:
            if not error.passing or time.monotonic() - heard > PATIENCE:
                raise
        time.sleep(1)


def _frames(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """(number, name, data) of server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}
        else:
            fields = {}  # a comment


def _questions(path: Path) -> list[dict[str, Any]]:
    """A file of any form that `unsway calibrate` reads, in ours."""
    from steering.contrast.formats import load_questions

    rows = [question.content for question in load_questions(path).rows]
    return [{name: value for name, value in row.items() if value} for row in rows]


def _client(url: str, key: str | None) -> Client:
    from steering.evaluation.openai_client import Client

    return Client(url, key)


def _progress(job: dict[str, Any]) -> str:
    told = job.get("progress")
    if told is None:
        return ""
    left = f", {told['eta_s']:.0f} s left" if told.get("eta_s") and job["state"] == "running" else ""
    return f"{told['message']}{left}"


def _tell(job: dict[str, Any], as_json: bool) -> None:
    reason = f": {job['reason']}" if job.get("reason") else ""
    _print_json(job) if as_json else typer.echo(f"{job['id']} is {job['state']}{reason}.".replace("..", "."))


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
