"""Metrics for Prometheus: what was asked and answered, how long it took, and what steering did.

Labels are bounded: endpoints, finish reasons and error codes are fixed sets; profiles come and go, so the first
`MAX_PROFILES` that are used have a label of their own, and all others share one. No text of a prompt or an answer and
no key is in any of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.async_engine import AsyncEngine, Events
from server.jobs.supervisor import Jobs
from server.traces import TraceStore
from server.translate.call import Choice
from server.translate.receipt import why_skipped
from steering.engine.request import Finish, Request, TokenEvent
from steering.errors import NumericalError, SteeringError
from steering.plan import Plan

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MAX_PROFILES = 100
OTHER = "other"
BITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """All of one server."""

    def __init__(self, engine: AsyncEngine, traces: TraceStore, jobs: Jobs | None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second sample of each, that nobody asks for
        own = CollectorRegistry()
        own.register(_State(engine, traces, jobs))
        self._registry = own
        self._profiles = set[str]()
        self.errors = Counter("unsway_errors", "Errors told to clients.", ["code"], registry=own)
        self.retries = Counter("unsway_client_retries", "Requests that a client sent again.", registry=own)
        self.requests = Counter("unsway_requests", "Requests accepted.", ["endpoint", "stream"], registry=own)
        self.left = Counter("unsway_client_disconnects", "Requests whose client left before the end.", registry=own)
        self.answers = Counter("unsway_answers", "Answers that ended.", ["finish"], registry=own)
        self.prompt_tokens = Counter("unsway_prompt_tokens", "Tokens of prompts.", registry=own)
        self.completion_tokens = Counter("unsway_completion_tokens", "Tokens generated.", registry=own)
        self.numerical_aborts = Counter("unsway_numerical_aborts", "Answers that NaN or infinity ended.", registry=own)
        self.first_token = Histogram(
            "unsway_time_to_first_token_seconds", "From acceptance.", buckets=SECONDS, registry=own
        )
        self.inter_token = Histogram(
            "unsway_inter_token_seconds", "Between tokens of an answer.", buckets=SECONDS, registry=own
        )
        self.duration = Histogram("unsway_request_seconds", "From acceptance to end.", buckets=SECONDS, registry=own)
        self.steering_requests = Counter(
            "unsway_steering_requests", "Requests with a profile.", ["profile", "mode"], registry=own
        )
        self.steering_tokens = Counter(
            "unsway_steering_tokens",
            "Tokens of answers with a profile: all; steered; the gate opened there; run once more for it.",
            ["profile", "action"],
            registry=own,
        )
        self.fired_answers = Counter(
            "unsway_steering_fired_answers", "Answers in which the gate opened.", ["profile"], registry=own
        )
        self.skipped = Counter(
            "unsway_steering_skipped_answers",
            "Answers that no correction acted on, and why.",
            ["profile", "reason"],
            registry=own,
        )
        self.drift = Histogram(
            "unsway_steering_max_drift_bits",
            "Largest drift of an answer.",
            ["profile"],
            buckets=BITS,
            registry=own,
        )

    def page(self) -> bytes:
        """Touches the disk: not for the event loop."""
        return generate_latest(self._registry)

    @contextmanager
    def measured(self, endpoint: str, *, stream: bool) -> Iterator[Measure]:
        """One request of the wire, from its acceptance to its end. What it gives counts and times the events of what is
        submitted for it."""
        start, measure = time.perf_counter(), Measure(self)
        self.requests.labels(endpoint, str(stream).lower()).inc()
        try:
            yield measure
        except SteeringError as error:
            self.answers.labels("error").inc()
            self.numerical_aborts.inc(isinstance(error, NumericalError))
            raise
        except GeneratorExit:  # a stream is closed, maybe after its last event
            self.left.inc(measure.unfinished > 0)
            raise
        except asyncio.CancelledError:
            self.left.inc()
            raise
        finally:
            self.duration.observe(time.perf_counter() - start)

    def asked(self, plan: Plan) -> None:
        if plan.mode != "off" and plan.profile:
            self.steering_requests.labels(self._name(plan.profile), plan.mode).inc()

    def ended(self, finish: Finish, choice: Choice) -> None:
        plan = choice.request.plan
        self.answers.labels(finish.reason).inc()
        self.completion_tokens.inc(finish.completion_tokens)
        if plan.mode == "off" or not plan.profile:  # nobody's: the server's own to read with
            return
        profile, told = self._name(plan.profile), finish.receipt
        counts = {
            "all": told.tokens,
            "steered": told.steered_tokens,
            "fired": told.fired_tokens,
            "retried": told.retries,
        }
        for action, count in counts.items():
            self.steering_tokens.labels(profile, action).inc(count)
        if told.fired_tokens:
            self.fired_answers.labels(profile).inc()
        if not told.applied:
            self.skipped.labels(profile, why_skipped(choice, told)).inc()
        if told.max_drift is not None:
            self.drift.labels(profile).observe(told.max_drift)

    def _name(self, profile: str) -> str:
        """Without its digest, if there is a label for it."""
        name = profile.partition("@")[0]
        if len(self._profiles) < MAX_PROFILES:
            self._profiles.add(name)
        return name if name in self._profiles else OTHER


class Measure:
    """Of one request of the wire."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self.unfinished = metrics, 0

    async def __call__(self, events: Events, requests: Sequence[Request]) -> AsyncGenerator[TokenEvent, None]:
        """The same events, counted and timed on the way."""
        metrics, start, last = self._metrics, time.perf_counter(), dict[tuple[str, int], float]()
        choices = {(one.id, one.index): Choice(request, one) for request in requests for one in request.choices}
        self.unfinished += len(choices)
        for request in requests:
            metrics.asked(request.plan)
        async with aclosing(events):
            async for event in events:
                key = event.request_id, event.index
                if event.token is not None:
                    now = time.perf_counter()
                    timer = metrics.inter_token if key in last else metrics.first_token
                    timer.observe(now - last.get(key, start))
                    last[key] = now
                if event.finish is not None:
                    self.unfinished -= 1
                    metrics.ended(event.finish, choices[key])
                yield event


class _State(Collector):
    """What is so when it is asked; of the engine nothing before the model is loaded."""

    def __init__(self, engine: AsyncEngine, traces: TraceStore, jobs: Jobs | None) -> None:
        self._engine, self._traces, self._jobs = engine, traces, jobs

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("unsway_ready", "Whether requests are answered.", self._engine.state == "ready")
        yield GaugeMetricFamily("unsway_requests_open", "Requests not answered yet.", self._engine.num_open)
        yield GaugeMetricFamily("unsway_trace_bytes", "Traces that are kept.", self._traces.nbytes)
        jobs = GaugeMetricFamily("unsway_jobs", "Calibrations and evaluations.", labels=["state"])
        for state, count in (self._jobs.counts() if self._jobs is not None else {}).items():
            jobs.add_metric([state], count)
        yield jobs
        if self._engine.state != "ready":
            return
        engine = self._engine.require_ready().engine
        cache = engine.prefix_cache
        yield GaugeMetricFamily("unsway_rows_running", "Answers that are generated now.", engine.num_running)
        yield GaugeMetricFamily("unsway_rows_waiting", "Answers that wait for a row.", engine.num_waiting)
        yield GaugeMetricFamily("unsway_rows_free", "Rows that nobody uses.", engine.free_rows)
        yield GaugeMetricFamily("unsway_kv_bytes", "Keys and values, the prefix cache among them.", engine.kv_bytes)
        yield GaugeMetricFamily("unsway_kv_budget_bytes", "The most they may take.", engine.kv.budget)
        yield GaugeMetricFamily("unsway_prefix_cache_bytes", "Held by the prefix cache.", cache.nbytes)
        yield CounterMetricFamily("unsway_prefix_cache_queries", "Tokens looked for in it.", cache.queries)
        yield CounterMetricFamily("unsway_prefix_cache_hits", "Tokens found in it.", cache.hits)
        yield CounterMetricFamily("unsway_prefix_cache_evictions", "Blocks it gave up.", cache.evictions)
        steps, rows = engine.num_steps
        yield CounterMetricFamily("unsway_steps", "Steps of the engine.", steps)
        yield CounterMetricFamily("unsway_step_rows", "Answers that took part in them, together.", rows)
        yield CounterMetricFamily("unsway_preemptions", "Answers that started again.", engine.num_preemptions)
