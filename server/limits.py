"""How much a key may use, and how often an address may guess: token buckets in memory."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from starlette.types import Scope

from server.caller import Caller, Limits
from server.errors import ApiError

Clock = Callable[[], float]

GUESSES_PER_MINUTE = 20
"""Wrong keys from one address that are told so; more are told to wait."""
MAX_ADDRESSES = 4096
"""Whose wrong keys are counted; then the one that guessed longest ago is forgotten."""
MAX_WAIT = 60
"""Seconds; the SDKs wait no longer, whatever they are told."""

_ACCOUNT = "unsway.account"


class Bucket:
    """Holds up to a minute's worth, fills evenly, starts full."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level, self._at = float(per_minute), clock()

    @property
    def level(self) -> float:
        """Below 0 where more was used than was asked for."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, count: float) -> float:
        """0 if taken, else nothing was and it is how many seconds there will be as much."""
        missing = min(count, self.per_minute) - self.level  # more than it holds: when it is full
        if missing > 0:
            return missing * 60 / self.per_minute
        self._level -= count
        return 0.0

    def give_back(self, count: float) -> None:
        self._level = min(self.per_minute, self.level + count)

    @property
    def until_full(self) -> float:
        return (self.per_minute - self.level) * 60 / self.per_minute


class Account:
    """What one key has left."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        asked = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
        self._buckets = {name: Bucket(limit, clock) for name, limit in asked.items() if limit is not None}

    def take_request(self) -> None:
        self._take("requests", 1)

    def reserve(self, tokens: int) -> Reservation:
        """The most a request may come to; what it did not use is given back in the end."""
        self._take("tokens", tokens)
        return Reservation(self._buckets.get("tokens"), tokens)

    def _take(self, name: str, count: int) -> None:
        bucket = self._buckets.get(name)
        if bucket is not None and (wait := bucket.take(count)):
            raise _slower(f"This API key may use {bucket.per_minute:,} {name} a minute", wait)

    @property
    def headers(self) -> Iterator[tuple[str, str]]:
        """As OpenAI names them, of what is limited."""
        for name, bucket in self._buckets.items():
            yield f"x-ratelimit-limit-{name}", str(bucket.per_minute)
            yield f"x-ratelimit-remaining-{name}", str(max(0, math.floor(bucket.level)))
            yield f"x-ratelimit-reset-{name}", duration(bucket.until_full)


@dataclass
class Reservation:
    _bucket: Bucket | None
    _tokens: int

    def settle(self, used: int) -> None:
        """Once: what the request came to."""
        if self._bucket is not None:
            self._bucket.give_back(self._tokens - used)
            self._bucket = None


class Accounts:
    """By key. Those of keys that are no more go."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, caller: Caller) -> Account:
        """Anew, and full, where the limits have changed."""
        name = caller.id or ""
        account = self._accounts.get(name)
        if account is None or account.limits != caller.limits:
            account = self._accounts[name] = Account(caller.limits, self._clock)
        return account

    def keep(self, callers: Mapping[bytes, Caller]) -> None:
        """And no others."""
        names = {caller.id for caller in callers.values()}
        self._accounts = {name: account for name, account in self._accounts.items() if name in names}


class Guesses:
    """Wrong keys by address, in bounded memory. A right key is never asked about."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str) -> None:
        """Raises `rate_limit_exceeded` if there were too many."""
        bucket = self._buckets.pop(address, None) or Bucket(GUESSES_PER_MINUTE, self._clock)
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if wait := bucket.take(1):
            raise _slower("Too many wrong API keys came from this address", wait)


def set_account(scope: Scope, account: Account) -> None:
    scope[_ACCOUNT] = account


def account_in(scope: Scope) -> Account:
    """Of the key that a request came with."""
    account: Account = scope[_ACCOUNT]
    return account


def duration(seconds: float) -> str:
    """As OpenAI writes it: `0s`, `120ms`, `8.64s`, `1m0s`."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m" * bool(minutes) + f"{rest / 1000:g}s"


def _slower(what: str, wait: float) -> ApiError:
    seconds = max(1, min(MAX_WAIT, math.ceil(wait)))
    message = f"{what}; try again in {seconds} second{'s' if seconds > 1 else ''}."
    return ApiError("rate_limit_exceeded", message, headers={"retry-after": str(seconds)})
