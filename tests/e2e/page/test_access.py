"""By keyboard alone, by axe's rules, on a narrow screen, in little time and few bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.page.acts import CLAIM, HELD, answer, ended, send, stream, text_of, token
from tests.e2e.page.conftest import Open

pytestmark = pytest.mark.slow
AXE = Path(__file__).parents[3] / "clients" / "page" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")
MAX_WEIGHT, MAX_PAINT = 100_000, 1000
"""Bytes on the wire; milliseconds to the first contentful paint, on a busy machine."""


def focused(page: Any) -> str:
    told: str = page.evaluate(
        """() => { const one = document.activeElement;
          return (one.getAttribute('aria-label') || one.innerText || one.name || '').trim(); }"""
    )
    return told


def tab_to(page: Any, name: str, most: int = 40) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page).startswith(name):
            return
    pytest.fail(f"{name} was not reached by Tab; at {focused(page)}")


def test_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    tab_to(page, "Message")
    page.keyboard.type(CLAIM)
    page.keyboard.press("Enter")
    ended(page, 1)
    assert text_of(page, "steered") == HELD
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert focused(page).startswith("Tokens") and page.evaluate("document.activeElement.closest('.steered') !== null")
    page.keyboard.press("Enter")
    inspector = page.locator(".inspector")
    assert "token 1" in inspector.inner_text()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "token 4" in inspector.inner_text() and "The gate opened here." in inspector.inner_text()
    page.keyboard.press("End")
    assert "token 15" in inspector.inner_text()
    page.keyboard.press("Escape")
    assert inspector.count() == 0
    page.get_by_role("radio", name="Compare").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="Steered").is_checked()
    page.get_by_role("button", name="Copy as code").focus()
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.get_by_role("button", name="Profile").focus()
    page.keyboard.press("Enter")
    page.locator(".map").wait_for()


@pytest.mark.parametrize(
    "viewport", [{"width": 1280, "height": 860}, {"width": 390, "height": 844}], ids=["wide", "narrow"]
)
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page: Open, colours: str, viewport: dict[str, int]) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci in clients/page")
    page = open_page(color_scheme=colours, viewport=viewport)
    found = {"intro": violations(page)}
    send(page, CLAIM)
    answer(page, "steered").locator(".token.fired").click()
    page.locator(".curve svg").nth(1).wait_for()
    found["compare"] = violations(page)
    page.get_by_role("button", name="Copy as code").click()
    found["dialog"] = violations(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Layers", exact=True).click()
    page.locator(".cell-detail").wait_for()
    found["layers"] = violations(page)
    page.get_by_role("button", name="Profile", exact=True).click()
    page.locator(".card table").first.wait_for()
    found["profile"] = violations(page)
    assert not any(found.values()), json.dumps(found, indent=1)


def violations(page: Any) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    told = page.evaluate("axe.run().then(found => found.violations)")
    return [
        f"{one['id']}: {node['target']} {node.get('failureSummary', '')[:200]}"
        for one in told
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens_scroll_no_page_sideways(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    send(page, CLAIM)
    for view in ("Layers", "Profile", "Compare"):
        page.get_by_role("button", name=view, exact=True).click()
        page.wait_for_timeout(400)
        assert page.evaluate(
            "[document.documentElement, document.querySelector('main')].every(e => e.scrollWidth <= e.clientWidth)"
        ), view
    assert answer(page, "plain").is_visible()


def test_it_is_light_and_paints_soon(open_page: Open) -> None:
    pages = [open_page() for _ in range(4)]  # the machine may be busy with something else
    first = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    paints = [page.evaluate(first) for page in pages]
    page = pages[-1]
    page.get_by_role("button", name="Profile").click()  # what reads the card comes late
    page.locator(".card table").first.wait_for()
    weight = page.evaluate(
        """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
          .filter(e => !e.name.includes('/v1/')).reduce((sum, e) => sum + e.transferSize, 0)"""
    )
    assert 10_000 < weight < MAX_WEIGHT and min(paints) < MAX_PAINT, (weight, paints)


def test_an_answer_of_4000_tokens_stays_responsive(page: Any) -> None:
    def long(side: str) -> list[dict[str, Any]]:
        return [token(f" {side}{i}", drift=i % 7 / 7, fired=i % 50 == 0, steered=i % 50 < 10) for i in range(4000)]

    body = stream(long("a"), long("b"))
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.set_default_timeout(60_000)
    send(page, "Tell me a long story.")
    assert page.locator(".token").count() == 8000
    took = page.evaluate(
        """async () => { const box = document.querySelector('.answer.plain .tokens'), times = [];
          for (let i = 0; i < 21; i++) { const from = performance.now();
            box.dispatchEvent(new KeyboardEvent('keydown', {key: i ? 'ArrowRight' : 'Enter', bubbles: true}));
            await new Promise(requestAnimationFrame); await new Promise(done => setTimeout(done));
            times.push(performance.now() - from); }
          return times.sort((a, b) => a - b); }"""
    )
    assert "token 21" in page.locator(".inspector").inner_text()
    assert took[10] < 400, f"{took[10]} ms from key to drawn"
