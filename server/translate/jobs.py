"""A job of the wire -> what is to be done, checked as far as can be before it starts; jobs and events -> the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.caller import Caller, require
from server.errors import ApiError, to_api_error
from server.jobs.job import Asked
from server.jobs.job import Job as Record
from server.jobs.log import JobLog
from server.jobs.publish import check_free
from server.jobs.supervisor import End
from server.request_json import parse
from server.schemas import jobs as schema
from server.schemas.violations import validate
from server.serving import Served
from server.settings import Settings
from server.translate import catalog
from steering.commands.calibrate import brings_questions
from steering.contrast.questions import read_questions
from steering.contrast.source import source_of
from steering.data_file import Row
from steering.errors import DataError, EvaluationError, InvalidRequest, PackExists, TemplateError
from steering.evaluation.goals import parse_goal
from steering.evaluation.protocol import Source, Suite
from steering.evaluation.run import Evaluation
from steering.evaluation.suites import suites_named
from steering.pack import Overrides, Pack

LOG_LINES = 100
"""Of one job's log, in its document."""


def prepare(body: bytes, owner: str, caller: Caller, served: Served, settings: Settings) -> Asked:
    """Parses, validates and reads what can be read; CPU-bound: not for the event loop."""
    data = parse(body)
    kind = validate(schema.AnyJob, data).kind
    if kind == "calibrate" and served.uploads is not None:  # what it makes will be served
        require(caller, "profiles", "A calibration", "kind")
    parameters = _calibrate(data, owner, served) if kind == "calibrate" else _evaluate(data, served, settings)
    return Asked(kind, owner, parameters, served.model.fingerprint)


def document(job: Record, log: JobLog | None, *, whole: bool = True) -> Any:
    """One job. log: None where it is not at hand; whole: with result and last lines."""
    told: dict[str, Any] = {"id": job.id, "object": "steering.job", "state": job.state}
    if job.asked.kind:
        told |= {"kind": job.asked.kind, "created": int(job.created), "attempts": job.attempts}
        told["parameters"] = _parameters(job.asked.parameters)
    for name in ("started", "ended"):
        if (moment := getattr(job, name)) is not None:
            told[name] = int(moment)
    told |= {} if job.exit_code is None else {"exit_code": job.exit_code}
    told |= {"reason": job.reason} if job.reason else {}
    if log is not None and log.progress is not None:
        told["progress"] = log.progress
    if whole:
        told |= {} if job.result is None else {"result": job.result}
        told["log"] = [] if log is None else log.lines(LOG_LINES)
    return told


def end_document(end: End) -> dict[str, Any]:
    """What the last event of a stream says: the job, without what its result and its log fill."""
    ended: dict[str, Any] = document(end.job, None, whole=False)
    return ended


def _parameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in asked.items() if value is not None}
    questions = told.get("questions")
    return told | ({"questions": len(questions)} if isinstance(questions, list) else {})


def _calibrate(data: Any, owner: str, served: Served) -> dict[str, Any]:
    fields = validate(schema.CalibrateJob, data)
    try:
        check_free(fields.profile, owner, served, replace=fields.replace)
    except PackExists as error:
        raise ApiError("profile_exists", f'{error} To replace it, send "replace": true.', "profile") from error
    if fields.questions is None and not brings_questions(served.model):
        raise ApiError(
            "missing_required_parameter", f"questions are required to calibrate {served.model.name}.", "questions"
        )
    asked = fields.model_dump(exclude={"kind"})
    if fields.questions is not None:
        asked["questions"] = [question.model_dump(exclude_none=True) for question in fields.questions]
        _check_questions(asked["questions"], served)
    return asked


def _check_questions(questions: list[dict[str, Any]], served: Served) -> None:
    """All that `unsway calibrate` would refuse of them."""
    rows = [Row(question, "questions", number) for number, question in enumerate(questions, start=1)]
    try:
        if not served.model.tokenizer.chat_template:
            raise TemplateError(f"model {served.model.name} has no chat template, so nobody can put pressure on it.")
        source_of(read_questions(rows, "questions"), served.model.tokenizer)
    except (DataError, TemplateError) as error:
        raise ApiError("invalid_value", str(error), "questions") from error


def _evaluate(data: Any, served: Served, settings: Settings) -> dict[str, Any]:
    fields = validate(schema.EvaluateJob, data)
    if settings.benchmarks is None:
        message = "This server has no benchmarks' files: start it with --benchmarks FOLDER (UNSWAY_BENCHMARKS)."
        raise ApiError("jobs_unavailable", message)
    suites = suites_named(fields.suites)
    for suite in suites:
        if suite.needs_judge or suite.name == "humaneval":
            why = "is graded by a judge" if suite.needs_judge else "runs what the model writes"
            raise ApiError("invalid_value", f"{suite.name} {why}: `unsway eval` does that, not a server.", "suites")
    try:
        Evaluation(suites, Source(settings.benchmarks, fields.seed), {}, None, fields.limit).load()
    except (DataError, EvaluationError) as error:  # which name files: their folder is nobody's business
        told = str(error).replace(str(settings.benchmarks), "--benchmarks")
        raise ApiError("invalid_value", told, "suites") from error
    _check_goals(fields, suites)
    asked = fields.model_dump(exclude={"kind"})
    asked["suites"] = [suite.name for suite in suites]
    asked["profiles"] = [_pinned(name, i, served) for i, name in enumerate(dict.fromkeys(fields.profiles))]
    return asked


def _check_goals(fields: schema.EvaluateJob, suites: list[Suite]) -> None:
    for name in ("fail_under", "fail_over"):
        for goal in getattr(fields, name):
            try:
                parse_goal(goal, suites, "under" if name == "fail_under" else "over")
            except EvaluationError as error:
                raise ApiError("invalid_value", str(error), name) from error


def _pinned(reference: str, index: int, served: Served) -> str:
    """By its digest, so that a job that goes on measures the same as before; it can be put to use."""
    param = f"profiles.{index}"
    pack = catalog.profile(reference, served, param)
    if not isinstance(pack, Pack):
        raise ApiError("profile_unavailable", f"{reference}: {pack['broken']}", param)
    try:
        pack.plan(Overrides())
    except InvalidRequest as error:
        raise ApiError(to_api_error(error).code, str(error), param) from error
    return f"{pack.name}@{pack.digest[:12]}"
