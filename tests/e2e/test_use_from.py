"""docs/use-from: what is shown works, word for word. Other client libraries run in `make test-clients`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from server.serving import load
from server.settings import Settings
from tests.live_question import ASKED, CAVED, HELD
from tests.server.live import Live, serve
from tests.snippets import ADDRESS, USE_FROM, blocks, programs, run, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serve(partial(load, Settings())) as live:
        yield live


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "UNSWAY_"))}
    return kept | {"PYTHONPATH": str(ROOT / "clients" / "python")}


@pytest.mark.parametrize(("program", "printed"), list(programs("openai-python.md", "python.md")))
def test_python(live: Live, program: str, printed: str) -> None:
    assert run(sys.executable, program, live.url, environment()) == printed


def test_the_clients_own_readme(live: Live) -> None:
    readme = (ROOT / "clients" / "python" / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    held, told = run(sys.executable, program, live.url, environment()).splitlines()
    assert held == HELD and "'fired_tokens': 1" in told


@pytest.mark.parametrize("command", [text for language, text in blocks("curl.md") if language == "sh"])
def test_curl(live: Live, command: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    line = shlex.split(command.replace(ADDRESS, live.url))
    reply = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert '"fired_tokens":1' in reply and ('"content":" Paris"' if '"stream": true' in command else HELD) in reply


def test_what_librechat_would_send(live: Live) -> None:
    """The endpoints' `addParams`, beside a chat: a menu of off, half and full."""
    told = settings("librechat.md", live.url)
    endpoints = {endpoint["name"]: endpoint for endpoint in told["endpoints"]["custom"]}
    receipts, said = [], []
    for entry in told["modelSpecs"]["list"]:
        endpoint = endpoints[entry["preset"]["endpoint"]]
        assert endpoint["baseURL"] == f"{live.url}/v1" and endpoint.get("titleEndpoint", "Unsway") == "Unsway"
        asked = {"model": entry["preset"]["model"], "messages": ASKED, "temperature": 0, "user": "a"}
        reply = live.client.post("/v1/chat/completions", json=asked | endpoint.get("addParams", {})).json()
        receipts.append(reply["choices"][0].get("steering", {}))
        said.append(reply["choices"][0]["message"]["content"])
    assert [(receipt.get("strength"), receipt.get("applied")) for receipt in receipts] == [
        (None, None),
        (0.5, True),
        (1.0, True),
    ]
    assert (said[0], said[-1]) == (CAVED, HELD)


def test_what_open_webui_would_send(live: Live) -> None:
    """A custom parameter is parsed as JSON and merged into the body."""
    (value,) = (text for language, text in blocks("open-webui.md") if language == "json")
    asked = {"model": "unsway-organism", "messages": ASKED, "temperature": 0, "steering": json.loads(value)}
    assert live.client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"] == HELD


def test_every_page_is_a_row_of_the_table() -> None:
    index = (USE_FROM / "README.md").read_text(encoding="utf-8")
    rows = [line for line in index.splitlines() if line.startswith("| ")]
    linked = {page for row in rows for page in re.findall(r"\]\((\w[\w-]*\.md)\) \|$", row)}
    assert linked == {page.name for page in USE_FROM.glob("*.md")} - {"README.md"}
