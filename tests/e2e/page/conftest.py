from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from server.serving import load
from server.settings import Settings
from tests.server.live import Live, serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP = {"width": 1280, "height": 860}

Open = Callable[..., Any]
"""(hash, at=URL, **context) -> page; what went wrong in it fails the test."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Of these tests alone: as long as Playwright's driver is open, its event loop counts as the thread's running one,
    and no other test could call `asyncio.run`."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium: run tests/e2e/install-browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def organism() -> Iterator[Live]:
    with serve(partial(load, Settings(threads=1))) as live:
        yield live


@pytest.fixture
def open_page(browser: Any, organism: Live) -> Iterator[Open]:
    """Opens the page. An exception in it, or a request to anybody but its server, fails the test in the end."""
    problems: list[str] = []
    contexts = []

    def open_page(fragment: str = "", at: str = organism.url, ready: bool = True, **context: Any) -> Any:
        contexts.append(browser.new_context(viewport=context.pop("viewport", DESKTOP), **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(at) else None)
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        page.goto(f"{at}/{fragment}")
        if ready:
            page.locator(".dot.good").wait_for()
            assert page.locator(".boot").count() == 0, "the name that stands there until the page has loaded"
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(open_page: Open) -> Any:
    return open_page()
