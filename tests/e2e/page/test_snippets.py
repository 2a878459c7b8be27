"""What the page copies runs as it is: curl, Python, TypeScript."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.page.acts import CAVED, CLAIM, HELD, send
from tests.server.live import Live

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parents[3] / "clients" / "page"


@pytest.fixture
def code(page: Any) -> dict[str, str]:
    send(page, CLAIM)
    page.get_by_role("button", name="Copy as code").click()
    told = {}
    for language in ("curl", "Python", "TypeScript"):
        page.get_by_role("button", name=language).click()
        told[language] = page.locator("dialog pre").inner_text()
    return told


def test_curl(code: dict[str, str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = shlex.split(code["curl"].replace("\\\n", " "))
    reply = json.loads(subprocess.run([*command, "--silent"], check=True, capture_output=True, timeout=60).stdout)
    assert [choice["message"]["content"] for choice in reply["choices"]] == [HELD, CAVED]


def test_python(code: dict[str, str]) -> None:
    ran = subprocess.run([sys.executable, "-c", code["Python"]], check=True, capture_output=True, text=True, timeout=60)
    assert HELD in ran.stdout and CAVED in ran.stdout and "'applied': True" in ran.stdout


def test_typescript(code: dict[str, str]) -> None:
    """Checked by the compiler with OpenAI's own types, and run."""
    node, modules = shutil.which("node"), SOURCE / "node_modules"
    if node is None or not (modules / "openai").exists():
        pytest.skip("no node, or openai is not installed: npm ci in clients/page")
    script = SOURCE / f"snippet-{os.getpid()}.mts"
    try:
        script.write_text(code["TypeScript"])
        options = ("--target", "es2022", "--module", "nodenext", "--strict", "--skipLibCheck")
        checked = [node, str(modules / "typescript" / "bin" / "tsc"), *options, str(script)]
        subprocess.run(checked, check=True, capture_output=True, timeout=120)
        ran = subprocess.run(
            [node, str(script.with_suffix(".mjs"))], check=True, capture_output=True, text=True, timeout=60
        )
        assert HELD in ran.stdout and CAVED in ran.stdout and "applied: true" in ran.stdout
    finally:
        script.unlink(missing_ok=True)
        script.with_suffix(".mjs").unlink(missing_ok=True)


def test_the_last_request_is_copied_with_quotes_in_it(page: Any, organism: Live) -> None:
    asked = """It's "so" \\ isn't it? 'x' $HOME `id`"""
    send(page, asked)
    page.get_by_role("button", name="Copy as code").click()
    curl = shlex.split(page.locator("dialog pre").inner_text().replace("\\\n", " "))
    assert json.loads(curl[curl.index("-d") + 1])["messages"][0]["content"] == asked
    page.get_by_role("button", name="Python").click()
    program = page.locator("dialog pre").inner_text().replace("from openai import OpenAI", "import json\nOpenAI = None")
    start = program.index("reply = ") + len("reply = client.chat.completions.create(")
    arguments: dict[str, Any] = eval(f"dict({program[start : program.index(')', program.index('extra_body'))]})")  # noqa: S307  our own
    assert arguments["messages"][0]["content"] == asked
    assert arguments["extra_body"]["steering"] == {"profile": "candid", "mode": "compare"}
