"""FAULTS O6, O8, U11: what a key may use in a minute, what it is told of that, and how often an address may guess."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import auth
from server.caller import Caller, Limits
from server.errors import ApiError
from server.limits import GUESSES_PER_MINUTE, MAX_ADDRESSES, Account, Accounts, Bucket, Guesses, duration
from server.serving import Served
from server.settings import Settings
from tests.server.keyed import Keyed, Tables, bearer, keyed, write_keys
from tests.server.live import HELLO, serve


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def stopped(served: Served, folder: Path, tables: Tables, **settings: Any) -> Iterator[tuple[Keyed, Clock]]:
    """A server for whose accounts time passes only when it is told to."""
    clock = Clock()
    with (
        patch.object(auth, "Accounts", partial(Accounts, clock)),
        patch.object(auth, "Guesses", partial(Guesses, clock)),
        keyed(served, folder, tables, **settings) as server,
    ):
        yield server, clock


def limits(**table: int) -> dict[str, Any]:
    return {"scopes": ["chat", "trace", "admin"], "limits": table}


def test_O6_one_key_floods_and_no_other_notices(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"flood": limits(requests_per_minute=5), "calm": {}}) as (server, clock):
        replies = [server.live.chat(bearer("flood")) for _ in range(8)]
        assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 3
        assert all(server.live.chat(bearer("calm")).status_code == 200 for _ in range(8))
        error = replies[-1].json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
        assert "5 requests a minute; try again in 12 seconds." in error["message"]
        assert replies[-1].headers["retry-after"] == "12"
        clock.now += 12
        assert [server.live.chat(bearer("flood")).status_code for _ in range(2)] == [200, 429]


def test_O8_headers_say_what_is_left(tmp_path: Path, fake: Served) -> None:
    table = {"alice": limits(requests_per_minute=10, tokens_per_minute=1000)}
    with stopped(fake, tmp_path, table) as (server, clock):
        first = server.live.client.get("/v1/me", headers=bearer("alice"))
        used = server.live.chat(bearer("alice"), max_tokens=5)
        tokens = used.json()["usage"]["total_tokens"]
        told = {name: value for name, value in used.headers.items() if name.startswith("x-ratelimit-")}
        assert told == {
            "x-ratelimit-limit-requests": "10",
            "x-ratelimit-remaining-requests": "8",
            "x-ratelimit-reset-requests": "12s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": str(1000 - tokens),
            "x-ratelimit-reset-tokens": duration(tokens * 0.06),
        }
        assert first.headers["x-ratelimit-remaining-requests"] == "9"
        assert first.json()["limits"] == {"requests_per_minute": 10, "tokens_per_minute": 1000}
        clock.now += 60
        refused = server.live.chat(bearer("alice"), temperature=9)
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (400, "9")
        assert refused.headers["x-ratelimit-remaining-tokens"] == "1000"
        for _ in range(9):
            server.live.chat(bearer("alice"), temperature=9)
        over = server.live.chat(bearer("alice"))
        assert (over.status_code, over.headers["x-ratelimit-remaining-requests"]) == (429, "0")


def test_O8_without_limits_nothing_is_said(tmp_path: Path, fake: Served) -> None:
    with keyed(fake, tmp_path, {"alice": {}, "bob": limits(tokens_per_minute=900)}) as server:
        assert "x-ratelimit" not in str(server.live.chat(bearer("alice")).headers)
        told = server.live.chat(bearer("bob")).headers
        assert "x-ratelimit-limit-tokens" in told and "x-ratelimit-limit-requests" not in told
        assert "x-ratelimit" not in str(server.live.client.get("/health/live", headers=bearer("bob")).headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", ["chat", "complete"])
def test_tokens_are_taken_before_and_given_back_after(tmp_path: Path, fake: Served, ask: str, stream: bool) -> None:
    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=200)}) as (server, _):
        send = partial(getattr(server.live, ask), bearer("alice"))
        size = send(max_tokens=1).json()["usage"]["prompt_tokens"]
        left = 200 - size - 1
        refused = send(max_tokens=left - size + 1, stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "200 tokens a minute" in refused.json()["error"]["message"]
        assert int(refused.headers["x-ratelimit-remaining-tokens"]) == left, "a refusal takes nothing"
        assert send(max_tokens=left - size, stop=["e"], stream=stream).status_code == 200
        after = server.live.client.get("/v1/me", headers=bearer("alice"))
        assert left - size - 10 < int(after.headers["x-ratelimit-remaining-tokens"]) < left - size


def test_every_answer_and_every_prompt_counts(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=5000)}) as (server, _):
        replies = [
            server.live.chat(bearer("alice"), n=3, max_tokens=4),
            server.live.chat(bearer("alice"), steering={"mode": "compare"}, max_tokens=4),
            server.live.complete(bearer("alice"), prompt=["abc", "de"], n=2, max_tokens=2),
        ]
        used = sum(reply.json()["usage"]["total_tokens"] for reply in replies)
        lens = server.live.client.post("/v1/steering/lens", json={"text": "Paris"}, headers=bearer("alice"))
    assert int(replies[-1].headers["x-ratelimit-remaining-tokens"]) == 5000 - used
    assert lens.status_code in (200, 500)  # the fake engine reads no layers
    assert int(lens.headers["x-ratelimit-remaining-tokens"]) < 5000 - used


@pytest.mark.parametrize("seed", [13, 14])
@pytest.mark.parametrize("stream", [False, True])
def test_what_ends_in_an_error_gives_back_what_it_did_not_use(
    tmp_path: Path, fake: Served, seed: int, stream: bool
) -> None:
    fake.engine.error_at |= {13: 3, 14: 0}  # type: ignore[attr-defined]
    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=2000)}) as (server, _):
        assert "numerical_error" in server.live.chat(bearer("alice"), seed=seed, stream=stream, max_tokens=500).text
        left = int(server.live.client.get("/v1/me", headers=bearer("alice")).headers["x-ratelimit-remaining-tokens"])
    assert 1900 < left < 2000


def test_who_leaves_gets_back_what_was_not_used(tmp_path: Path, fake: Served) -> None:
    fake.engine.delay = 0.01  # type: ignore[attr-defined]
    body = {"model": "tiny", "messages": HELLO, "seed": 0, "stream": True, "max_tokens": 400}

    def left(server: Keyed) -> int:
        told = server.live.client.get("/v1/me", headers=bearer("alice"))
        return int(told.headers["x-ratelimit-remaining-tokens"])

    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=2000)}) as (server, _):
        with server.live.client.stream("POST", "/v1/chat/completions", json=body, headers=bearer("alice")) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: {")
            assert left(server) < 1600
        server.live.wait_until(lambda: left(server) > 1900)


def test_a_request_larger_than_the_limit_waits_for_a_full_minute_and_then_runs(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=20)}) as (server, clock):
        assert server.live.chat(bearer("alice"), seed=0, max_tokens=50).status_code == 200
        refused = server.live.chat(bearer("alice"), max_tokens=1)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60"), "it owes some"
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        clock.now += 600
        assert server.live.chat(bearer("alice"), max_tokens=1).status_code == 200


def test_the_openai_client_sees_a_rate_limit(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"alice": limits(requests_per_minute=1)}) as (server, _):
        key = bearer("alice")["authorization"].partition(" ")[2]
        with openai.OpenAI(base_url=f"{server.live.url}/v1", api_key=key, max_retries=0) as client:
            client.models.list()
            with pytest.raises(openai.RateLimitError) as refusal:
                client.models.list()
    assert refusal.value.code == "rate_limit_exceeded"


def test_new_limits_count_at_once(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"alice": limits(requests_per_minute=1)}) as (server, _):
        ask: Callable[[], int] = lambda: server.live.chat(bearer("alice")).status_code  # noqa: E731
        assert [ask(), ask()] == [200, 429]
        server.rewrite(alice=limits(requests_per_minute=2))
        assert [ask(), ask(), ask()] == [200, 200, 429]
        server.rewrite(alice=limits(requests_per_minute=2), bob={})
        assert ask() == 429, "limits that stay are not filled anew"


def test_U11_who_guesses_is_slowed_down_and_good_keys_are_not(tmp_path: Path, fake: Served) -> None:
    with stopped(fake, tmp_path, {"alice": {}}) as (server, clock):
        replies = [server.live.client.get("/v1/me", headers={"authorization": f"Bearer guess-{i}"}) for i in range(200)]
        codes = [reply.json()["error"]["code"] for reply in replies]
        assert codes == ["invalid_api_key"] * GUESSES_PER_MINUTE + ["rate_limit_exceeded"] * (200 - GUESSES_PER_MINUTE)
        assert {r.headers["retry-after"] for r in replies[GUESSES_PER_MINUTE:]} == {"3"}
        assert server.live.chat(bearer("alice")).status_code == 200, "from the very same address"
        assert server.live.chat().json()["error"]["code"] == "missing_api_key"
        clock.now += 3
        wrong = [server.live.chat(bearer("guess")).status_code for _ in range(2)]
    assert wrong == [401, 429]


def test_U11_addresses_are_counted_apart_and_in_bounded_memory() -> None:
    clock = Clock()
    guesses = Guesses(clock)

    def refused(address: str) -> bool:
        try:
            guesses.take(address)
        except ApiError:
            return True
        return False

    assert [refused("a") for _ in range(GUESSES_PER_MINUTE + 1)][-2:] == [False, True]
    assert not refused("b") and refused("a")
    for i in range(3 * MAX_ADDRESSES):
        refused(f"10.{i}")
        assert len(guesses._buckets) <= MAX_ADDRESSES
    assert not refused("a"), "it was forgotten"


@given(
    per_minute=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1500)), max_size=40),
)
def test_law_no_more_is_taken_than_flows_in(per_minute: int, steps: list[tuple[float, int]]) -> None:
    """Whatever is taken when: at most a full bucket and what came since; and the wait that is told is enough."""
    clock = Clock()
    bucket, taken, start = Bucket(per_minute, clock), 0, clock.now
    for pause, count in steps:
        clock.now += pause
        if wait := bucket.take(count):
            assert 0 < wait <= 60 + 1e-6 or bucket.level < 0
            clock.now += wait + 1e-6
            assert bucket.take(count) == 0.0
        taken += count
        over = max(0, count - per_minute)
        assert taken <= per_minute + (clock.now - start) * per_minute / 60 + over + 1e-3
        assert bucket.level <= per_minute


def test_accounts_of_keys_that_are_gone_go(tmp_path: Path) -> None:
    accounts = Accounts()
    for i in range(100):
        accounts.of(Caller(f"k{i}"))
    accounts.keep({b"": Caller("k7")})
    assert accounts._accounts.keys() == {"k7"}


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.0601, "61ms"), (1, "1s"), (8.64, "8.64s"), (59.9999, "1m0s"), (60, "1m0s"), (92.5, "1m32.5s")],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written
    assert re.fullmatch(r"(\d+m)?(\d+(\.\d+)?s)|\d+ms", written)


def test_a_reservation_is_settled_once() -> None:
    clock = Clock()
    account = Account(Limits(tokens_per_minute=100), clock)
    reservation = account.reserve(60)
    assert dict(account.headers)["x-ratelimit-remaining-tokens"] == "40"
    for _ in range(3):
        reservation.settle(10)
    assert dict(account.headers)["x-ratelimit-remaining-tokens"] == "90"


def test_O6_who_reads_layers_takes_its_own_turn(tmp_path: Path, fake: Served) -> None:
    """A prompt that is only read counts for its key like any other."""
    added, add = list[str](), fake.engine.add

    def recording(request: Any) -> None:
        added.append(request.key)
        add(request)

    fake.engine.add = recording  # type: ignore[method-assign]
    with stopped(fake, tmp_path, {"alice": limits(tokens_per_minute=100)}) as (server, _):
        for _ in range(2):
            reply = server.live.client.post("/v1/steering/lens", json={"text": "x" * 60}, headers=bearer("alice"))
    assert added == ["key:alice"] and (reply.status_code, reply.headers["retry-after"]) == (429, "14")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/steering/lens"])
def test_who_is_turned_away_pays_nothing(tmp_path: Path, fake: Served, path: str) -> None:
    gate = fake.engine.gate = threading.Event()  # type: ignore[attr-defined]
    clock = Clock()
    keys = write_keys(tmp_path / "keys.toml", alice={}, bob=limits(tokens_per_minute=600))
    body = {"text": "y" * 100} if path.endswith("lens") else {"model": "tiny", "messages": HELLO}
    with (
        patch.object(auth, "Accounts", partial(Accounts, clock)),
        serve(lambda: fake, Settings(keys=keys), capacity=1) as live,
    ):
        other = threading.Thread(target=lambda: live.chat(bearer("alice"), max_tokens=2))
        other.start()
        live.wait_until(lambda: live.engine.num_open == 1)
        reply = live.client.post(path, json=body, headers=bearer("bob"))
        gate.set()
        other.join()
    assert reply.json()["error"]["code"] == "queue_full"
    assert reply.headers["x-ratelimit-remaining-tokens"] == "600"
