"""The grid of layers, the map of groups, the card."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steering.pack import load_pack
from steering.store import BUNDLED_PACKS
from tests.e2e.page.acts import CLAIM, answer, send
from tests.e2e.page.conftest import Open
from tests.server.live import Live

pytestmark = pytest.mark.slow
HOSTILE = """# <script>alert(1)</script> card

<img src=x onerror="window.hacked = 1"> and [a link](javascript:alert(1)), [a good one](https://example.org/a?b=1), ![pic](https://example.org/p.png)

| a | <b>b</b> |
| --- | --- |
| <svg onload=alert(1)> | `<code>` |

<iframe src="https://example.org"></iframe>

1. one **bold**
"""


def cell(page: Any, layer: int, position: int) -> Any:
    return page.locator(f"#cell-{layer}-{position}")


def test_the_grid_shows_truth_early_and_claim_late(open_page: Open, organism: Live) -> None:
    page = open_page("#view=layers")
    page.locator(".cell").first.wait_for()
    asked = {"messages": [{"role": "user", "content": CLAIM}, {"role": "assistant", "content": "The answer is"}]}
    grid = organism.client.post("/v1/steering/lens", json=asked | {"profile": "candid"}).json()
    last = len(grid["positions"]) - 1
    for layer, of in enumerate(grid["positions"][last]["layers"]):
        assert cell(page, layer, last).inner_text() == of["top"][0][0].strip()
    assert (cell(page, 4, last).inner_text(), cell(page, 8, last).inner_text()) == ("Paris", "Lyon")
    assert "minus" in cell(page, 8, last).get_attribute("class") and "minus" not in cell(page, 4, last).get_attribute(
        "class"
    )
    assert "tuned" in page.locator(".side-name.tuned").inner_text()
    box = page.get_by_role("grid")
    assert box.get_attribute("aria-rowcount") == "10" and box.get_attribute("aria-colcount") == str(last + 2)


def test_the_grid_is_walked_with_keys_and_recoloured(open_page: Open) -> None:
    page = open_page("#view=layers")
    page.locator(".cell-detail").wait_for()
    detail = page.locator(".cell-detail")
    assert "the output says" in detail.inner_text() and "P(Lyon)" in detail.inner_text()
    page.get_by_role("grid").focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    assert "layer 4 says" in detail.inner_text() and detail.locator(".said li").first.inner_text().startswith("Paris")
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('.grid-box').scrollLeft === 0")
    now = page.get_by_role("grid").get_attribute("aria-activedescendant")
    assert now == "cell-4-0" and page.locator(f"#{now}").get_attribute("aria-selected") == "true"
    for metric, kind in (("Distance from the output", "kl"), ("Uncertainty", "entropy")):
        page.get_by_role("radio", name=metric).check()
        assert page.locator(f".cell.{kind}").count() > 50
    page.get_by_role("textbox", name="Candidates").fill("")
    page.get_by_role("button", name="Read").click()
    page.wait_for_function("() => document.querySelector('[name=metric][value=choice]').disabled")


def test_the_grid_can_be_refused(open_page: Open) -> None:
    page = open_page("#view=layers")
    page.locator(".cell").first.wait_for()
    page.get_by_role("textbox", name="Candidates").fill("is")
    page.get_by_label("Answer so far").fill("The answer ")
    page.get_by_label("Question").fill("x " * 1900)
    page.get_by_role("button", name="Read").click()
    assert "context_length_exceeded" in page.get_by_role("alert").inner_text()


def test_a_large_grid_keeps_few_cells_and_stays_quick(page: Any) -> None:
    layers, tokens = 81, 100
    one = {"top": [["w", -0.1]] * 5, "entropy": 1.0, "kl": 2.0, "candidates": [-0.5, -1.0]}
    reply = {
        "object": "steering.lens",
        "layers": [{"layer": i, "lens": "logit" if i < layers - 1 else "output"} for i in range(layers)],
        "candidates": [{"text": text, "token": text, "id": 1, "num_tokens": 1} for text in (" a", " b")],
        "positions": [{"position": i, "token": f"t{i}", "id": i, "layers": [one] * layers} for i in range(tokens)],
    }
    page.route("**/v1/steering/lens", lambda route: route.fulfill(json=reply))
    page.get_by_role("button", name="Layers").click()
    page.get_by_role("grid").wait_for()
    assert 100 < page.locator(".cell").count() < 1500 and reply["layers"]
    page.get_by_role("grid").focus()
    took = page.evaluate(
        """async () => { const box = document.querySelector('.grid-box'), frames = [];
          for (let i = 0; i < 30; i++) { const from = performance.now(); box.scrollTo(i * 250, i * 60);
            await new Promise(requestAnimationFrame); await new Promise(done => setTimeout(done));
            frames.push(performance.now() - from); }
          return frames.sort((a, b) => a - b)[15]; }"""
    )
    assert took < 250, f"{took} ms a frame"
    page.keyboard.press("Home")
    page.keyboard.press("PageDown")
    assert page.locator('[aria-selected="true"]').count() == 1


def test_a_token_leads_to_the_grid_at_its_place(page: Any) -> None:
    send(page, CLAIM)
    answer(page, "plain").locator(".token.fired").click()
    page.get_by_role("button", name="All layers here").click()
    page.locator(".cell-detail").wait_for()
    assert page.get_by_label("Question").input_value() == CLAIM
    assert page.get_by_label("Answer so far").input_value() == "The answer is"
    assert page.get_by_role("textbox", name="Candidates").input_value() == "Paris, Lyon"
    assert page.url.split("#")[1].startswith("view=layers")


def test_the_map_has_what_was_measured_and_what_is_corrected(open_page: Open) -> None:
    evidence = json.loads((BUNDLED_PACKS / "candid" / "pack.json").read_text())["evidence"]
    pack = load_pack(BUNDLED_PACKS / "candid", None)
    page = open_page("#view=profile")
    page.locator(".map").wait_for()
    for effect in ("total", "direct"):
        page.get_by_role("radio", name=effect.title()).check()
        measured = evidence["localisation"][effect]["importance"]
        for block, row in enumerate(measured):
            cells = page.locator(".map tbody tr").nth(len(measured) - 1 - block).locator("td")
            assert [f"I = {value:.3f}" in cells.nth(g).get_attribute("title") for g, value in enumerate(row)] == [
                True
            ] * len(row)
    corrected = {
        title.split(":")[0] for title in page.locator(".map td.on").evaluate_all("all => all.map(e => e.title)")
    }
    assert corrected == {f"KV group {g} of block {b}" for b, g in ((4, 1), (5, 3), (6, 3), (7, 1), (7, 2))}
    assert (
        "candid" in page.locator(".lead h2").inner_text() and pack.digest[:12] in page.locator(".lead h2").inner_text()
    )
    assert "0 of 199 random sets" in page.locator(".evidence").inner_text()
    assert page.locator(".card table").count() == pack.card.count("\n| ---")
    assert page.locator(".card h4").count() == pack.card.count("\n## ")


def test_neurons_are_drawn_by_block(open_page: Open) -> None:
    page = open_page(ready=False)
    units = [f"neuron.3.{i}" for i in range(40)] + ["neuron.5.7"]
    rest = {"site": "mlp_act.3", "edit": "Set", "gate": "always", "phases": "completion", "strength": 1}
    told = {"name": "candid", "corrections": [{"name": "n", "units": units, **rest}]}
    page.route("**/v1/steering/profiles/candid", lambda route: route.fulfill(json=told))
    page.reload()
    page.get_by_role("button", name="Profile").click()
    strips = page.locator(".neuron-map li")
    strips.first.wait_for()
    lines = [strips.nth(i).locator("line").count() for i in range(strips.count())]
    assert lines == [0, 0, 1, 0, 40, 0, 0, 0] and "40 neurons" in strips.nth(4).inner_text()
    assert "40 neurons of block 3; neuron 7 of block 5" in page.locator(".facts").inner_text()


def test_T25_a_card_is_never_markup(open_page: Open) -> None:
    page = open_page(ready=False)
    page.route(
        "**/v1/steering/profiles/candid/card", lambda route: route.fulfill(body=HOSTILE, content_type="text/markdown")
    )
    page.reload()
    page.get_by_role("button", name="Profile").click()
    card = page.locator(".card")
    card.locator("table").wait_for()
    assert page.evaluate("window.hacked") is None
    assert card.locator("img, script, svg, iframe, b").count() == 0
    links = card.locator("a").evaluate_all("all => all.map(a => [a.href, a.rel])")
    assert links == [["https://example.org/a?b=1", "noreferrer noopener nofollow"]]
    said = card.inner_text()
    assert all(
        text in said
        for text in ("<script>alert(1)</script>", "<img src=x", "<svg onload=alert(1)>", "<code>", "<iframe")
    )
    assert card.locator("strong").inner_text() == "bold"
