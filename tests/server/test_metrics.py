"""GET /metrics: counts and timings that follow what happens, and labels that stay few."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.serving import Served
from server.settings import Settings
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve

Labels = tuple[tuple[str, str], ...]


def scrape(live: Live) -> dict[tuple[str, Labels], float]:
    reply = live.client.get("/metrics")
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


@contextmanager
def counting(live: Live) -> Iterator[dict[tuple[str, Labels], float]]:
    """What changed meanwhile."""
    before, changes = scrape(live), dict[tuple[str, Labels], float]()
    yield changes
    changes |= {key: value - before.get(key, 0.0) for key, value in scrape(live).items()}


def key(name: str, **labels: str) -> tuple[str, Labels]:
    return name, tuple(sorted(labels.items()))


@pytest.mark.parametrize("stream", [False, True])
def test_requests_answers_tokens_and_times(live: Live, stream: bool) -> None:
    with counting(live) as changed:
        reply = live.chat(stream=stream, max_tokens=5, n=2)
        assert reply.status_code == 200 and reply.text
    told = str(stream).lower()
    assert changed[key("unsway_requests_total", endpoint="/v1/chat/completions", stream=told)] == 1
    assert changed[key("unsway_answers_total", finish="length")] == 2
    assert changed[key("unsway_completion_tokens_total")] == 10
    assert changed[key("unsway_prompt_tokens_total")] > 0
    assert changed[key("unsway_time_to_first_token_seconds_count")] == 2
    assert changed[key("unsway_inter_token_seconds_count")] == 8
    assert changed[key("unsway_request_seconds_count")] == 1
    assert not any(name.startswith("unsway_steering") and count for (name, _), count in changed.items())


def test_what_steering_did_by_profile(live: Live) -> None:
    with counting(live) as changed:
        receipt = live.chat(steering="candid", max_tokens=6).json()["choices"][0]["steering"]
    assert changed[key("unsway_steering_requests_total", profile="candid", mode="on")] == 1
    for action, told in (("all", "tokens"), ("fired", "fired_tokens")):
        assert changed[key("unsway_steering_tokens_total", profile="candid", action=action)] == receipt[told]
    assert changed[key("unsway_steering_fired_answers_total", profile="candid")] == (receipt["fired_tokens"] > 0)
    retried = changed[key("unsway_steering_tokens_total", profile="candid", action="retried")]
    assert 0 <= retried <= receipt["fired_tokens"]
    skipped = changed.get(
        key("unsway_steering_skipped_answers_total", profile="candid", reason=receipt.get("skipped", ""))
    )
    assert skipped == (1 if "skipped" in receipt else None)
    assert changed[key("unsway_steering_max_drift_bits_count", profile="candid")] == ("max_drift" in receipt)


def test_a_plain_answer_that_is_measured_is_skipped_for_the_receipt_s_reason(live: Live) -> None:
    asked = {"profile": "candid", "mode": "compare", "trace": "tokens"}
    with counting(live) as changed:
        _, plain = live.chat(steering=asked, max_tokens=4).json()["choices"]
    name, reason = "unsway_steering_skipped_answers_total", plain["steering"]["skipped"]
    assert reason == "plain answer to compare with"
    assert changed[key(name, profile="candid", reason=reason)] == 1
    assert not changed.get(key(name, profile="candid", reason="observe"))


def test_errors_by_code_and_numerical_aborts(live: Live) -> None:
    with counting(live) as changed:
        assert live.chat(temperature=9).status_code == 400
        assert live.client.get("/v1/nothing").status_code == 404
        assert live.chat(seed=13).status_code == 500
        assert "numerical_error" in live.chat(seed=13, stream=True).text
    assert changed[key("unsway_errors_total", code="decimal_above_max_value")] == 1
    assert changed[key("unsway_errors_total", code="numerical_error")] == 2
    assert changed[key("unsway_numerical_aborts_total")] == changed[key("unsway_answers_total", finish="error")] == 2
    assert sum(count for (name, _), count in changed.items() if name == "unsway_errors_total") == 4


def test_who_leaves_and_who_asks_again(model: LanguageModel, store: PackStore) -> None:
    slow: Any = FakeEngine(model, delay=0.01)
    with serve(lambda: Served(model, slow, store, None, created=1)) as live:
        body = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 400}
        with live.client.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert next(reply.iter_lines()).startswith("data: {")
        live.wait_until(lambda: live.engine.num_open == 0)
        live.chat({"x-stainless-retry-count": "1"}, max_tokens=1)
        told = scrape(live)
    assert told[key("unsway_client_disconnects_total")] == told[key("unsway_client_retries_total")] == 1
    assert told[key("unsway_answers_total", finish="length")] == 1


def test_the_engine_tells_its_own_state(live: Live) -> None:
    told = scrape(live)
    engine = live.served.engine
    assert told[key("unsway_ready")] == 1 and told[key("unsway_requests_open")] == 0
    assert told[key("unsway_rows_free")] == engine.free_rows
    assert told[key("unsway_kv_budget_bytes")] == engine.kv.budget
    assert {"unsway_kv_bytes", "unsway_preemptions_total", "unsway_prefix_cache_hits_total"} <= {n for n, _ in told}


def test_C9_no_text_and_no_key_is_in_it_and_it_needs_the_key(fake: Served) -> None:
    secret = {"authorization": "Bearer s3cret-key"}
    with serve(lambda: fake, Settings(api_key="s3cret-key")) as live:
        assert live.client.get("/metrics").status_code == 401
        live.chat(secret, messages=[{"role": "user", "content": "MARKER-9"}], steering="candid", max_tokens=2)
        page = live.client.get("/metrics", headers=secret).text
    assert 'unsway_errors_total{code="missing_api_key"} 1.0' in page
    assert "MARKER-9" not in page and "s3cret" not in page


def test_before_the_model_is_loaded_it_says_that(fake: Served) -> None:
    loaded = threading.Event()

    def load() -> Served:
        loaded.wait(10)
        return fake

    with serve(load, wait=False) as live:
        told = scrape(live)
        assert told[key("unsway_ready")] == 0 and key("unsway_kv_bytes") not in told
        loaded.set()
        live.wait_until(lambda: scrape(live)[key("unsway_ready")] == 1)


def test_what_the_docs_name_is_there(live: Live) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    page = live.client.get("/metrics").text
    served = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    named = set(re.findall(r"`(unsway_\w+)", docs))
    assert len(named) > 20 and named <= served
