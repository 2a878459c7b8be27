"""The audit log: a line of JSON for each change, and for each refusal that matters. Never a secret, never a prompt."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from starlette.types import Scope

from server.caller import address_of, key_id
from server.request_id import request_id_of
from server.settings import BadSettings

logger = logging.getLogger(__name__)

Detail = str | int | float | bool | None


def audit(scope: Scope, action: str, **details: Detail) -> None:
    """Writes who did it, by which request. action: what was done or refused, such as `profile_put`, `job_created`,
    `access_denied`; details: what it was done to. Nothing is written without `--audit-log`."""
    log: AuditLog = scope["app"].state.audit
    log.write(action, key=key_id(scope), request_id=request_id_of(scope), address=address_of(scope), **details)


class AuditLog:
    """Appends to one file, readable by its owner alone, which another program may move away at any time."""

    def __init__(self, path: Path | None) -> None:
        """None: nothing is kept."""
        self._path, self._file = path, None
        self._torn = False
        """The file does not end with a whole line."""
        try:
            self._file = None if path is None else _open(path)
        except OSError as error:
            raise BadSettings(f"names a file that cannot be written: {error.strerror} ({path}).", "audit_log") from None

    def write(self, action: str, **details: Detail) -> None:
        if self._path is None or self._file is None:
            return
        told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action, **details}
        line = json.dumps(told)  # ASCII: nothing can break it
        try:
            if not _is_at(self._file, self._path):
                old, self._file, self._torn = self._file, _open(self._path), False
                old.close()
            raw = b"\n" * self._torn + f"{line}\n".encode()
            if (written := self._file.write(raw)) != len(raw):
                self._torn = written > 0
                logger.error("the audit log took a part of a line (is the disk full?); lost: %s", line)
            else:
                self._torn = False
        except OSError as error:  # a full disk stops no request
            logger.error("the audit log cannot be written (%s); lost: %s", error.strerror, line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _open(path: Path) -> FileIO:
    """Nothing is held back: a line is one write, at the end of the file, whoever else writes to it."""
    return FileIO(path, "a", opener=lambda path, flags: os.open(path, flags, 0o600))


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
