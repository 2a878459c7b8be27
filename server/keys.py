"""Which secret is whose: by digest, from the single key and the keys file, which is read again when it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.caller import SCOPES, Caller, Limits, Policy
from server.errors import ApiError
from server.key_file import SERVER_KEY, digest_of, read_key_file
from server.schemas.keys import KeyEntry
from server.settings import BadSettings
from server.translate.policy import check_scopes
from server.translate.steering import from_body

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int]
"""Changes when a file does."""


@dataclass(frozen=True)
class Reload:
    """The file has changed."""

    keys: int
    """That are valid now."""
    problem: str | None = None
    """Why they are still those of before."""


class KeyRing:
    """A file that is gone holds no keys. One that cannot be read leaves the keys as they were, and that is said: a
    slip of the pen must not lock everybody out."""

    def __init__(self, secret: str | None, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        """Raises `BadSettings` if the file cannot be read; from then on it may be anything."""
        self._clock, self._path = clock, path
        self._own: dict[bytes, Caller] = (
            {} if secret is None else {digest_of(secret.strip().encode()): Caller(SERVER_KEY, SCOPES)}
        )
        self._callers = self._own
        self._stamp: Stamp | None = None
        if path is not None:
            self._stamp = _stamp(path)
            self._callers = _read(path) | self._own

    @property
    def asked_for(self) -> bool:
        """Whether callers need a key."""
        return bool(self._own) or self._path is not None

    @property
    def callers(self) -> Mapping[bytes, Caller]:
        """By the digest of their secret."""
        return self._callers

    def find(self, secret: bytes) -> Caller | None:
        """Raises `invalid_api_key` for a key that has expired.

        What is looked up is a digest: how long that takes says nothing about how much of a guess was right.
        """
        caller = self._callers.get(digest_of(secret))
        if caller is not None and caller.expires is not None and caller.expires <= self._clock():
            raise ApiError("invalid_api_key", "This API key has expired.")
        return caller

    def refresh(self) -> Reload | None:
        """Reads the file again if it has changed."""
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return None
        self._stamp = stamp
        try:
            self._callers = ({} if stamp is None else _read(self._path)) | self._own
        except BadSettings as error:
            logger.error("the keys stay as they were: %s", error)
            return Reload(len(self._callers), str(error))
        return Reload(len(self._callers))


def _stamp(path: Path) -> Stamp | None:
    """None: there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return 0, 0, 0, 0
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _read(path: Path) -> dict[bytes, Caller]:
    entries = read_key_file(path)
    return {bytes.fromhex(entry.sha256): caller_from(path, name, entry) for name, entry in entries.items()}


def caller_from(path: Path, name: str, entry: KeyEntry) -> Caller:
    """Raises `BadSettings` for a default that no request could have."""
    policy, limits = entry.policy, entry.limits
    try:
        default = from_body(entry.steering)
        caller = Caller(
            id=name,
            scopes=frozenset(entry.scopes),
            steering=None if default is None else default.options,
            policy=Policy(
                policy.may_switch_off,
                policy.max_strength,
                None if policy.profiles is None else frozenset(policy.profiles),
            ),
            limits=Limits(limits.requests_per_minute, limits.tokens_per_minute),
            expires=None if entry.expires is None else int(entry.expires.timestamp()),
        )
        if caller.steering is not None:
            check_scopes(caller.steering, caller)
    except ApiError as error:
        raise BadSettings(f"{path}: keys.{name}: {error.message}") from None
    if not policy.may_switch_off and (default is None or default.options.mode in ("off", "observe", "compare")):
        raise BadSettings(f"{path}: keys.{name}: may_switch_off = false needs a default steering that is on.")
    return caller
