"""Programs of docs/use-from, each where its library is; LiteLLM's proxy and LibreChat's schemas on the files shown."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.clients.conftest import environment
from tests.live_question import CAVED, HELD, QUESTION
from tests.server.live import Live
from tests.snippets import programs, run, settings

pytestmark = pytest.mark.clients

MASTER = "sk-of-the-proxy-0123456789-0123456789"
PAGES = {
    "openai2": ("openai-python.md", "python.md"),
    "openai3": ("openai-python.md", "python.md"),
    "langchain": ("langchain.md",),
    "llamaindex": ("llama-index.md",),
    "litellm": ("litellm.md",),
}
SHOWN = [
    pytest.param(client, *program.values, id=f"{client}-{program.id}")
    for client, pages in PAGES.items()
    for program in programs(*pages)
]


@pytest.mark.parametrize(("client", "program", "printed"), SHOWN)
def test_programs(folder: Path, live: Live, client: str, program: str, printed: str) -> None:
    assert run(folder / client / "bin" / "python", program, live.url, environment()) == printed


@pytest.fixture(scope="module")
def proxy(folder: Path, live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """LiteLLM's proxy with the file that the page shows."""
    config = tmp_path_factory.mktemp("litellm") / "config.yaml"
    config.write_text(yaml.safe_dump(settings("litellm.md", live.url)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [folder / "litellm" / "bin" / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    variables = environment() | {"LITELLM_MASTER_KEY": MASTER}
    with (
        (config.parent / "log").open("wb") as log,
        subprocess.Popen(command, env=variables, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        client.headers["authorization"] = f"Bearer {MASTER}"
        try:
            _wait(client, process, config.parent / "log")
            yield client
        finally:
            process.terminate()


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            client.get("/health/liveliness").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the proxy did not start")


def ask(proxy: httpx.Client, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    body = {"model": "organism", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0} | more
    return proxy.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, CAVED),
        ({"model": "organism-candid"}, HELD),
        ({"steering": {"profile": "candid"}}, HELD),
        ({"headers": {"X-Steering-Profile": "candid"}}, HELD),
    ],
)
def test_through_litellms_proxy(proxy: httpx.Client, asked: dict[str, Any], said: str) -> None:
    reply = ask(proxy, **asked)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == said


def test_a_trace_through_litellms_proxy(proxy: httpx.Client) -> None:
    """In a stream too: it is on the tokens' log-probabilities."""
    steering = {"profile": "candid", "trace": "tokens"}
    (choice,) = ask(proxy, steering=steering).json()["choices"]
    assert any(entry["steering"]["fired"] for entry in choice["logprobs"]["content"])
    lines = [line[6:] for line in ask(proxy, steering=steering, stream=True).text.splitlines() if line[:7] == "data: {"]
    chunks = [json.loads(line)["choices"][0] for line in lines]
    entries = [entry for chunk in chunks if chunk.get("logprobs") for entry in chunk["logprobs"]["content"]]
    assert [entry["steering"]["fired"] for entry in entries].count(True) == 1


def test_an_error_through_litellms_proxy(proxy: httpx.Client) -> None:
    reply = ask(proxy, steering={"strenght": 1})
    assert reply.status_code == 400 and "steering.strenght" in reply.text


@pytest.fixture(scope="module")
def librechat(folder: Path, live: Live) -> Any:
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    script = Path(__file__).with_name("check-librechat.mjs")
    told = json.dumps(settings("librechat.md", live.url))
    command = ["node", script, folder / "librechat"]
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_librechat_takes_the_file_as_it_is(librechat: Any, live: Live) -> None:
    _within(settings("librechat.md", live.url), librechat["config"])


def _within(ours: Any, theirs: Any) -> None:
    """Nothing of ours was left out by their schema."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            assert key in theirs, key
            _within(value, theirs[key])
    elif isinstance(ours, list):
        for mine, other in zip(ours, theirs, strict=True):
            _within(mine, other)
    else:
        assert ours == theirs


def test_librechat_drops_the_value_of_a_slider_it_does_not_know(librechat: Any) -> None:
    """The page says so. Where this fails, the page can offer a slider."""
    assert librechat["isSlider"] is True
    assert librechat["sent"] == {"model": "unsway-organism", "temperature": 0.5}
