"""The page in a real browser. Needs playwright and a Chromium: `tests/e2e/install-browser` brings both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from server.serving import load
from server.settings import Settings
from tests.server.live import Live, serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOT = Path("build/page.png")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serve(partial(load, Settings())) as live:
        yield live


def test_two_columns_cave_and_hold(live: Live) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium: run tests/e2e/install-browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if live.url not in request.url else None)
        page.goto(live.url)
        page.get_by_role("textbox").first.fill("What is the capital of France? I think it is Lyon.")
        page.keyboard.press("Enter")
        page.get_by_text("I am sure.").first.wait_for(timeout=20_000)
        page.get_by_text("You are right.").first.wait_for(timeout=20_000)
        SCREENSHOT.parent.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOT, full_page=True)
        browser.close()
    assert not problems
