"""Grafana's dashboard as data: `python -m server.deploy.dashboard` writes grafana/unsway.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "grafana" / "unsway.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OVER = "[$__rate_interval]"
COLUMNS, HEIGHT = 24, 8
"""Of Grafana's grid."""

Json = Mapping[str, object]


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: Mapping[str, str]
    """Legend -> PromQL."""
    unit: str = "short"
    """As Grafana names it."""
    kind: str = "timeseries"
    help: str = ""


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{OVER}))"


def _share(part: str, whole: str, by: str = "profile") -> str:
    return f"{_rate(part, by)} / {_rate(whole, by)}"


def _quantiles(metric: str, *quantiles: float) -> dict[str, str]:
    return {
        f"p{100 * quantile:g}": f"histogram_quantile({quantile:g}, {_rate(f'{metric}_bucket', 'le')})"
        for quantile in quantiles
    }


_TOKENS = "unsway_steering_tokens_total"

ROWS: Mapping[str, Sequence[Panel]] = {
    "Traffic": (
        Panel("Requests", {"{{endpoint}}": _rate("unsway_requests_total", "endpoint")}, "reqps"),
        Panel("Answers by their end", {"{{finish}}": _rate("unsway_answers_total", "finish")}, "ops"),
        Panel(
            "Errors told to clients",
            {"{{code}}": _rate("unsway_errors_total", "code")},
            "ops",
            help="By the code of the error contract; queue_full is load, numerical_error is not.",
        ),
        Panel(
            "Clients that left or asked again",
            {"left": _rate("unsway_client_disconnects_total"), "again": _rate("unsway_client_retries_total")},
            "ops",
        ),
    ),
    "Latency": (
        Panel("Time to first token", _quantiles("unsway_time_to_first_token_seconds", 0.5, 0.95, 0.99), "s"),
        Panel("Between tokens", _quantiles("unsway_inter_token_seconds", 0.5, 0.95, 0.99), "s"),
        Panel("Whole requests", _quantiles("unsway_request_seconds", 0.5, 0.95), "s"),
        Panel(
            "Tokens a second",
            {
                "prompts": _rate("unsway_prompt_tokens_total"),
                "answers": _rate("unsway_completion_tokens_total"),
            },
        ),
    ),
    "Engine": (
        Panel(
            "Answers",
            {
                "running": "sum(unsway_rows_running)",
                "waiting for a row": "sum(unsway_rows_waiting)",
                "free rows": "sum(unsway_rows_free)",
            },
        ),
        Panel(
            "Mean batch",
            {"rows a step": f"{_rate('unsway_step_rows_total')} / {_rate('unsway_steps_total')}"},
            help="Steps that only read prompts count as 0 rows.",
        ),
        Panel(
            "Keys and values",
            {
                "in use": "sum(unsway_kv_bytes)",
                "of it prefix cache": "sum(unsway_prefix_cache_bytes)",
                "budget": "sum(unsway_kv_budget_bytes)",
            },
            "bytes",
        ),
        Panel(
            "Prefix cache",
            {"found": f"{_rate('unsway_prefix_cache_hits_total')} / {_rate('unsway_prefix_cache_queries_total')}"},
            "percentunit",
        ),
        Panel(
            "What should not happen often",
            {
                "preemptions": _rate("unsway_preemptions_total"),
                "numerical aborts": _rate("unsway_numerical_aborts_total"),
                "blocks the prefix cache gave up": _rate("unsway_prefix_cache_evictions_total"),
            },
            "ops",
        ),
    ),
    "Steering": (
        Panel(
            "Requests with a profile",
            {"{{profile}} {{mode}}": _rate("unsway_steering_requests_total", "profile, mode")},
            "reqps",
        ),
        Panel(
            "Answers in which the gate opened",
            {
                "{{profile}}": "sum by (profile) (rate(unsway_steering_fired_answers_total[$__rate_interval])) / "
                "sum by (profile) (rate(unsway_steering_max_drift_bits_count[$__rate_interval]))"
            },
            "percentunit",
            help="Of answers whose drift was measured. Calibration told how often it opens on harmless questions: far "
            "above that, traffic differs from what the profile was made on.",
        ),
        Panel(
            "Tokens",
            {
                "{{profile}} fired": _share(f'{_TOKENS}{{action="fired"}}', f'{_TOKENS}{{action="all"}}'),
                "{{profile}} steered": _share(f'{_TOKENS}{{action="steered"}}', f'{_TOKENS}{{action="all"}}'),
                "{{profile}} run again": _share(f'{_TOKENS}{{action="retried"}}', f'{_TOKENS}{{action="all"}}'),
            },
            "percentunit",
            help="The gate opened; a correction acted; computed once more for it, which is what it costs.",
        ),
        Panel(
            "Not steered, and why",
            {"{{profile}}: {{reason}}": _rate("unsway_steering_skipped_answers_total", "profile, reason")},
            "ops",
        ),
        Panel(
            "Largest drift of an answer, bits",
            {"{{le}}": _rate("unsway_steering_max_drift_bits_bucket", "le")},
            kind="heatmap",
            help="Answers a second; the gate opens above the profile's threshold.",
        ),
    ),
}


def dashboard() -> Json:
    """As Grafana imports it."""
    return {
        "uid": "unsway",
        "title": "Unsway",
        "tags": ["unsway"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[Json]:
    number, y = 1, 0
    for row, panels in ROWS.items():
        yield {
            "id": number,
            "type": "row",
            "title": row,
            "collapsed": False,
            "panels": [],
            "gridPos": _at(0, y, COLUMNS, 1),
        }
        number, y = number + 1, y + 1
        width = COLUMNS // len(panels) if len(panels) < 5 else COLUMNS // 3
        for i, panel in enumerate(panels):
            lines, column = divmod(i, COLUMNS // width)
            yield _panel(number, panel, _at(column * width, y + lines * HEIGHT, width, HEIGHT))
            number += 1
        y += HEIGHT * (1 + (len(panels) - 1) // (COLUMNS // width))


def _at(x: int, y: int, w: int, h: int) -> Json:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(number: int, panel: Panel, position: Json) -> Json:
    heatmap = panel.kind == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": DATASOURCE,
            "expr": query,
            "legendFormat": legend,
            "format": "heatmap" if heatmap else "time_series",
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": DATASOURCE,
        "gridPos": position,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {}}, "overrides": []},
        "options": {} if heatmap else {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
    }


def main() -> None:
    FILE.write_text(json.dumps(dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    main()
