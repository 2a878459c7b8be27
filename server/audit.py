"""The audit log: a line of JSON for each change, and for each refusal that matters. Never a secret, never a prompt."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
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
    """Appends to one file, which another program may move away at any time."""

    def __init__(self, path: Path | None) -> None:
        """None: nothing is kept."""
        try:
            self._file = None if path is None else _File(path, encoding="utf-8")
        except OSError as error:
            raise BadSettings(f"names a file that cannot be written: {error.strerror} ({path}).", "audit_log") from None

    def write(self, action: str, **details: Detail) -> None:
        if self._file is not None:
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action, **details}
            self._file.handle(logging.makeLogRecord({"msg": json.dumps(line)}))  # ASCII: nothing can break the line

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _File(WatchedFileHandler):
    """For its owner's eyes."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """A full disk stops no request."""
        logger.error("the audit log cannot be written; lost: %s", record.getMessage())
