"""A client of OpenAI-compatible servers, of the standard library alone: JSON in and out, tried again with patience."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steering.errors import BackendError

TRIES = 5
TIMEOUT = 600.0
"""Seconds that one answer may take."""
_AGAIN = (408, 409, 429)


class Refused(BackendError):
    """The server says that this request is wrong: another may be right."""


@dataclass(frozen=True)
class Client:
    """base: the URL with or without /v1 at its end. Every error is a `BackendError` with one line."""

    base: str
    key: str | None = field(default=None, repr=False)
    pause: float = 0.5
    """Seconds before the second try; doubled before each further one."""

    def __post_init__(self) -> None:
        if not self.base.startswith(("http://", "https://")):
            raise BackendError(f"{self.base[:80]!r} is no URL: expected http://HOST:PORT or https://...")

    @property
    def root(self) -> str:
        return self.base.rstrip("/").removesuffix("/v1") + "/v1"

    def get(self, path: str) -> dict[str, Any]:
        """Once: nobody waits long to be told that nobody is there."""
        return self._ask(urllib.request.Request(f"{self.root}/{path}", headers=self._headers()), 1)  # noqa: S310  checked

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(f"{self.root}/{path}", data, self._headers()), TRIES)  # noqa: S310  checked

    def delete(self, path: str) -> dict[str, Any]:
        """Once: done twice it could be another thing."""
        request = urllib.request.Request(f"{self.root}/{path}", headers=self._headers(), method="DELETE")  # noqa: S310
        return self._ask(request, 1)

    def lines(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """Of a text that comes as it is made, without their ends."""
        request = urllib.request.Request(f"{self.root}/{path}", headers=self._headers() | dict(headers))  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310  checked
                for line in response:
                    yield line.decode(errors="replace").rstrip("\r\n")
        except urllib.error.HTTPError as error:
            with error:
                self._may_try_again(error, 0, last=True)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(request, error) from error

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "unsway"}
        return headers | ({"authorization": f"Bearer {self.key}"} if self.key else {})

    def _ask(self, request: urllib.request.Request, tries: int) -> dict[str, Any]:
        for attempt in range(tries):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310  checked
                    return _object(request, response.read())
            except urllib.error.HTTPError as error:
                with error:
                    self._may_try_again(error, attempt, last=attempt == tries - 1)
            except (OSError, http.client.HTTPException) as error:
                if attempt == tries - 1:
                    raise _unreachable(request, error) from error
                self._wait(attempt, None)
        raise AssertionError("the last try returns or raises")

    def _may_try_again(self, error: urllib.error.HTTPError, attempt: int, *, last: bool) -> None:
        """Waits, or raises what the server said."""
        passing = error.code in _AGAIN or error.code >= 500
        if passing and error.headers.get("x-should-retry") != "false" and not last:
            self._wait(attempt, error.headers.get("retry-after"))
            return
        kind = Refused if error.code in (400, 413, 422) else BackendError
        raise kind(f"{error.url} answered {error.code}: {_message(error)}", passing=passing) from error

    def _wait(self, attempt: int, told: str | None) -> None:
        asked = float(told) if told and told.isdigit() else 0.0
        time.sleep(min(max(self.pause * 2**attempt, asked), 60.0))


def _unreachable(request: urllib.request.Request, error: Exception) -> BackendError:
    reason = getattr(error, "reason", None) or error
    return BackendError(f"cannot reach {request.full_url}: {reason}.", passing=True)


def _object(request: urllib.request.Request, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise BackendError(f"{request.full_url} answered what is not JSON.") from error
    if not isinstance(value, dict):
        raise BackendError(f"{request.full_url} answered JSON that is no object.")
    return value


def _message(error: urllib.error.HTTPError) -> str:
    """The server's own words, one line."""
    raw = error.read(4096).decode(errors="replace")
    try:
        said = json.loads(raw)["error"]
        raw = said["message"] if isinstance(said, dict) else said
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(raw).split())[:300] or str(error.reason)
