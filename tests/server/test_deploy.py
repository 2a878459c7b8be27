"""server/deploy: what it asks for exists. Prometheus' own tool and a real load: tests/e2e/test_observability.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.deploy import dashboard
from tests.server.live import Live

DEPLOY = Path(dashboard.__file__).parent
OF_PROMETHEUS = {"up"}


def queries() -> Iterator[tuple[str, str]]:
    for row in dashboard.ROWS.values():
        for panel in row:
            yield from ((panel.title, query) for query in panel.queries.values())
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


@pytest.fixture(scope="module")
def known(live: Live) -> set[str]:
    """Every name that a query may have; of counters and histograms also before anything is counted."""
    names = set(OF_PROMETHEUS)
    for family in text_string_to_metric_families(live.client.get("/metrics").text):
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        names |= {family.name + ending for ending in endings}
    return names


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_queries_name_metrics_that_exist(title: str, query: str, known: set[str]) -> None:
    named = set(re.findall(r"\bunsway_\w+|\bup\b", query))
    assert named and named <= known, title


def test_the_dashboard_is_what_its_source_says() -> None:
    written = json.loads(dashboard.FILE.read_text())
    assert written == json.loads(json.dumps(dashboard.dashboard())), "run python -m server.deploy.dashboard"
    places = [panel["gridPos"] for panel in written["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < dashboard.COLUMNS


def test_compose_mounts_what_is_there() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    volumes = [
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])
    ]
    for volume in volumes:
        assert (DEPLOY / volume).exists() if volume.startswith("./") else volume in compose["volumes"]
    targets = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0][
        "targets"
    ]
    assert [target.split(":")[0] for target in targets] == ["unsway"] and "unsway" in compose["services"]
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "reachable by others"


def test_alerts_say_what_and_for_whom() -> None:
    rules = [r for g in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for r in g["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["labels"]["severity"] in ("page", "warn") and rule["annotations"]["summary"] for rule in rules)
