"""The records of jobs: one small table of SQLite. A transaction is whole or not at all, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from server.errors import ApiError
from server.jobs.job import UNFINISHED, WAITING, Asked, Job, State
from server.settings import BadSettings

FILE = "jobs.sqlite3"
FORMAT = 1
"""`user_version` of the file. Another is left alone."""
MAX_WAITING = 16
"""Jobs of all callers together that are not finished."""
MAX_WAITING_EACH = 8
"""Of one caller, so that nobody takes all places."""
MAX_KEPT = 256
"""Jobs with those that ended and were not deleted."""
MAX_KEPT_EACH = 128
ID = re.compile(r"job_[0-9a-f]{24}")
"""A folder of that name is the job's; any other id on record is damage."""
PATIENCE = 2.0
"""Seconds that a server before this one has to let go of the file."""

_TABLE = """
CREATE TABLE IF NOT EXISTS job (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL, model TEXT NOT NULL,
    parameters TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, started REAL,
    ended REAL, attempts INTEGER NOT NULL DEFAULT 0, exit_code INTEGER, reason TEXT NOT NULL DEFAULT '', result TEXT,
    result_digest TEXT
)"""


class JobStore:
    """The only one that has the folder's file open: a second server is refused. Callable from any thread.

    A file that is damaged, or of a later version, stops no server: `broken` says why, and every call raises it.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `BadSettings` where the folder cannot be used at all."""
        self.folder, self.broken = folder, ""
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                folder / FILE, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._open()
        except OSError as error:
            raise BadSettings(f"must be a folder that can be written ({error.strerror}: {folder}).", "jobs") from None
        except sqlite3.DatabaseError as error:
            self._refuse(error)

    def _open(self) -> None:
        self._database.row_factory = sqlite3.Row
        for line in ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
            self._database.execute(line)
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            self.broken = f"{FILE} has format {version}, this version of Unsway reads {FORMAT}: it takes a later one."
            return
        (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        self._database.execute(_TABLE)
        if version < FORMAT:
            self._database.execute(f"PRAGMA user_version = {FORMAT}")

    def _refuse(self, error: sqlite3.DatabaseError) -> None:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BadSettings(f"must be a folder of this server alone: {self.folder} is in use by another.", "jobs")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            raise BadSettings(f"must be a folder that can be written ({self.folder}: {error}).", "jobs")
        self.broken = f"{FILE} is damaged ({error}); nothing in it was changed: move it away to begin anew."

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def recover(self) -> None:
        """What a server before this one left behind when it ended without a word."""
        with self._transaction() as database:
            database.execute("UPDATE job SET state = 'interrupted' WHERE state = 'running'")
            database.execute("UPDATE job SET state = 'cancelled', ended = ? WHERE state = 'cancelling'", [time.time()])
            _drop_questions(database)

    def add(self, asked: Asked) -> Job:
        """At the end of the queue. Raises `ApiError` where the same is there already, or too many are."""
        parameters = json.dumps(asked.parameters, sort_keys=True)
        digest = _digest(asked.kind, asked.model, parameters)
        with self._transaction() as database:
            same = database.execute(
                f"SELECT id FROM job WHERE owner = ? AND digest = ? AND state IN {UNFINISHED}",  # noqa: S608  constants
                [asked.owner, digest],
            ).fetchone()
            if same:
                raise ApiError("job_already_running", f"{same['id']} does the same already, and has not ended.")
            _check_room(database, asked.owner)
            job_id = f"job_{uuid.uuid4().hex[:24]}"
            values = [job_id, asked.kind, asked.owner, asked.model, parameters, digest, "queued", time.time()]
            database.execute(
                "INSERT INTO job (id, kind, owner, model, parameters, digest, state, created) VALUES "
                "(?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """Raises `ApiError` `job_not_found`."""
        with self._transaction() as database:
            row = database.execute("SELECT * FROM job WHERE id = ?", [job_id]).fetchone()
        if row is None:
            raise not_found(job_id)
        return _job(row)

    def state(self, job_id: str) -> State:
        """The one on record, without reading the rest. Raises `ApiError` `job_not_found`."""
        with self._transaction() as database:
            row = database.execute("SELECT state FROM job WHERE id = ?", [job_id]).fetchone()
        if row is None:
            raise not_found(job_id)
        state: State = row["state"]
        return state

    def all(self, owner: str | None = None) -> list[Job]:
        """Oldest first, without results. owner: whose; None: everybody's."""
        query = "SELECT * FROM job WHERE ?1 IS NULL OR owner = ?1 ORDER BY number"
        return [_job(row, whole=False) for row in self._rows(query, owner)]

    def waiting(self) -> list[Job]:
        """Oldest first; no corrupt ones."""
        query = f"SELECT * FROM job WHERE state IN {WAITING} ORDER BY number"  # noqa: S608  constants
        return [job for job in map(_job, self._rows(query)) if job.state in WAITING]

    def counts(self) -> Mapping[str, int]:
        """Jobs by the state that is on record."""
        with self._transaction() as database:
            return _counts(database)

    def begin(self, job_id: str) -> bool:
        """Whether it was waiting, and is running now."""
        return self._changed(
            "UPDATE job SET state = 'running', attempts = attempts + 1, started = coalesce(started, ?), reason = '' "
            "WHERE id = ? AND state IN ('queued', 'interrupted')",
            [time.time(), job_id],
        )

    def interrupt(self, job_id: str, reason: str) -> None:
        self._changed(
            "UPDATE job SET state = 'interrupted', reason = ? WHERE id = ? AND state = 'running'", [reason, job_id]
        )
        self._changed(
            "UPDATE job SET state = 'cancelled', ended = ? WHERE id = ? AND state = 'cancelling'", [time.time(), job_id]
        )

    def finish(self, job_id: str, *, exit_code: int | None, reason: str = "", result: Any = None) -> bool:
        """Result and state at once, and once only: whether this was the time. One that was being cancelled is
        cancelled, whatever it came to."""
        text = None if result is None else json.dumps(result)
        state = "failed" if reason else "completed"
        return self._changed(
            "UPDATE job SET state = iif(state = 'running', ?, 'cancelled'), ended = ?, exit_code = ?, reason = ?, "
            "result = ?, result_digest = ? WHERE id = ? AND state IN ('running', 'cancelling')",
            [state, time.time(), exit_code, reason, text, None if text is None else _digest(text), job_id],
        )

    def cancel(self, job_id: str) -> None:
        """At once if it waits; one that runs is `cancelling` until its process has ended."""
        with self._transaction() as database:
            database.execute(
                f"UPDATE job SET state = 'cancelled', ended = ? WHERE id = ? AND state IN {WAITING}",  # noqa: S608
                [time.time(), job_id],
            )
            database.execute("UPDATE job SET state = 'cancelling' WHERE id = ? AND state = 'running'", [job_id])
            _drop_questions(database)

    def forget(self, job_id: str) -> None:
        self._changed("DELETE FROM job WHERE id = ?", [job_id])

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """To be parsed by the caller: that takes long, and others wait for the file."""
        with self._transaction() as database:
            return database.execute(query, values).fetchall()

    def _changed(self, statement: str, values: list[Any]) -> bool:
        with self._transaction() as database:
            changed = database.execute(statement, values).rowcount > 0
            _drop_questions(database)
        return changed

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Errors of the file become those of the edge."""
        if self.broken:
            raise ApiError("jobs_unavailable", self.broken)
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.DatabaseError):
                    raise _told(error) from error
                raise


def not_found(job_id: str) -> ApiError:
    return ApiError("job_not_found", f"There is no job {job_id[:80]!r} of yours.", "job_id")


def _check_room(database: sqlite3.Connection, owner: str) -> None:
    for whose, counts, waiting, kept in (
        ("of yours ", _counts(database, owner), MAX_WAITING_EACH, MAX_KEPT_EACH),
        ("", _counts(database), MAX_WAITING, MAX_KEPT),
    ):
        if sum(counts[state] for state in UNFINISHED) >= waiting:
            raise ApiError("queue_full", f"{waiting} jobs {whose}are running or waiting; try again when one has ended.")
        if counts.total() >= kept:
            raise ApiError("queue_full", f"{kept} jobs {whose}are kept; delete some that have ended.")


def _counts(database: sqlite3.Connection, owner: str | None = None) -> Counter[str]:
    query = "SELECT state, count(*) FROM job WHERE ?1 IS NULL OR owner = ?1 GROUP BY state"
    return Counter(dict(database.execute(query, [owner]).fetchall()))


def _drop_questions(database: sqlite3.Connection) -> None:
    """Of jobs that have ended only their number is kept: they may be megabytes."""
    ended = f"state NOT IN {UNFINISHED} AND instr(parameters, '\"questions\": [')"
    for row in database.execute(f"SELECT * FROM job WHERE {ended}").fetchall():  # noqa: S608  constants
        job = _job(row, whole=False)
        questions = job.asked.parameters.get("questions")  # none if the record is damaged: it stays as it is
        if isinstance(questions, list):
            parameters = json.dumps({**job.asked.parameters, "questions": len(questions)}, sort_keys=True)
            digest = _digest(job.asked.kind, job.asked.model, parameters)
            change = "UPDATE job SET parameters = ?, digest = ? WHERE id = ?"
            database.execute(change, [parameters, digest, job.id])


def _told(error: sqlite3.DatabaseError) -> ApiError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ApiError("storage_full", f"The jobs folder cannot be written ({error}); what was in it is as it was.")
    return ApiError("jobs_unavailable", f"{FILE} cannot be read ({error}).")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _job(row: sqlite3.Row, *, whole: bool = True) -> Job:
    """As it is on record; what cannot be believed makes it a corrupt one, which is never run. whole: with its
    result."""
    try:
        if not ID.fullmatch(row["id"]):
            raise ValueError("its id is none of ours")
        if row["digest"] != _digest(row["kind"], row["model"], row["parameters"]):
            raise ValueError("its parameters do not match their digest")
        if row["result"] is not None and row["result_digest"] != _digest(row["result"]):
            raise ValueError("its result does not match its digest")
        if row["state"] not in get_args(State):
            raise ValueError(f"it has the state {row['state'][:40]!r}, which this version does not know")
        parameters = json.loads(row["parameters"])
        result = json.loads(row["result"]) if whole and row["result"] is not None else None
    except (ValueError, TypeError) as error:
        damaged = Asked(str(row["kind"]), str(row["owner"]), {}, str(row["model"]))
        return Job(row["id"], damaged, "corrupt", row["created"], reason=f"its record is damaged: {error}.")
    asked = Asked(row["kind"], row["owner"], parameters, row["model"])
    kept = ("state", "created", "started", "ended", "attempts", "exit_code", "reason")
    return Job(row["id"], asked, **{name: row[name] for name in kept}, result=result)
