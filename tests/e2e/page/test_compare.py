"""Two columns from one request, what steers them, and the token that is looked at."""

from __future__ import annotations

import re
from typing import Any

import pytest

from server.process import SCENARIO
from tests.e2e.page.acts import CAVED, CLAIM, HELD, answer, chats, ended, send, stream, text_of, token
from tests.e2e.page.conftest import Open
from tests.server.live import Live

pytestmark = pytest.mark.slow


def test_the_link_that_serve_prints_shows_both_in_one_click(open_page: Open) -> None:
    page = open_page(SCENARIO)
    ended(page, 2)
    assert text_of(page, "steered") == HELD
    assert text_of(page, "plain") == "The answer is Lyon. You are right, I apologize."
    assert text_of(page, "steered", 0) == text_of(page, "plain", 0) == "The answer is Paris."


def test_both_columns_stream_from_one_request(page: Any) -> None:
    bodies = chats(page)
    page.evaluate(
        """() => { window.seen = [];
          const count = one => one.querySelectorAll('.token').length;
          const look = () => seen.push([...document.querySelectorAll('.tokens')].map(count));
          new MutationObserver(look).observe(document.body, {childList: true, subtree: true}); }"""
    )
    send(page, CLAIM)
    (body,) = bodies
    assert body["steering"] == {"profile": "candid", "mode": "compare", "trace": "tokens"} and body["stream"]
    assert (text_of(page, "steered"), text_of(page, "plain")) == (HELD, CAVED)
    counts = [tuple(count) for count in page.evaluate("seen") if len(count) == 2]
    assert len({steered for steered, _ in counts}) > 2 and len({plain for _, plain in counts}) > 2, counts
    assert any(0 < steered < 15 and 0 < plain < 8 for steered, plain in counts), "one after the other"


def test_drift_is_seen_in_both_and_told_in_words(page: Any) -> None:
    send(page, CLAIM)
    for side, said, verdict in (("steered", "Paris", "Corrected"), ("plain", "Lyon", "Drifted")):
        fired = answer(page, side).locator(".token.fired")
        assert fired.inner_text() == said and float(fired.evaluate("e => e.style.getPropertyValue('--d')")) > 0.9
        receipt = answer(page, side).locator(".receipt").inner_text()
        assert receipt.startswith(verdict) and "“Paris”" in receipt and "“Lyon”" in receipt and "token 4" in receipt
    assert answer(page, "steered").locator(".token.steered").count() > 5
    assert answer(page, "plain").locator(".token.steered").count() == 0


@pytest.mark.parametrize(
    ("name", "turns", "steered", "plain"),
    [
        ("A wrong claim", 1, HELD, CAVED),
        ("Are you sure?", 2, HELD, "The answer is Lyon. You are right, I apologize."),
        ("A professor says", 1, HELD, CAVED),
        ("A right claim", 1, "The answer is Paris. You are right.", "The answer is Paris. You are right."),
        ("No pressure", 1, "The answer is Paris.", "The answer is Paris."),
        ("Something new", 2, "The answer is parrot.", "The answer is parrot."),
    ],
)
def test_every_scenario_does_what_it_says(page: Any, name: str, turns: int, steered: str, plain: str) -> None:
    page.locator(".scenarios").get_by_role("button", name=name).click()
    ended(page, turns)
    assert (text_of(page, "steered"), text_of(page, "plain")) == (steered, plain)
    assert page.locator('.scenarios [aria-pressed="true"]').inner_text().startswith(name)


def test_every_control_reaches_the_request(page: Any) -> None:
    bodies = chats(page)
    settings = page.locator(".settings")
    assert settings.locator("select").input_value() == "candid"
    settings.get_by_role("radio", name="On drift", exact=True).check()
    settings.get_by_label("Strength").fill("0.5")
    settings.get_by_label("Threshold").fill("0.9")
    send(page, CLAIM)
    changed = {"profile": "candid", "strength": 0.5, "gate": "drift", "threshold": 0.9, "trace": "tokens"}
    assert bodies[-1]["steering"] == changed | {"mode": "compare"}
    settings.get_by_role("button", name="Back to the calibrated").click()
    settings.get_by_role("radio", name="Always", exact=True).check()
    settings.get_by_role("radio", name="Steered", exact=True).check()
    send(page, CLAIM)
    assert bodies[-1]["steering"] == {
        "profile": "candid",
        "mode": "on",
        "strength": 0.5,
        "gate": "always",
        "trace": "tokens",
    }
    assert page.locator(".turn").last.locator(".answer").count() == 1
    settings.get_by_role("radio", name="Observe", exact=True).check()
    send(page, "What is the capital of France?")
    assert bodies[-1]["steering"]["mode"] == "observe"
    settings.get_by_role("radio", name="Off", exact=True).check()
    send(page, "What is the capital of France?")
    assert bodies[-1]["steering"] is False and text_of(page, "plain") == "The answer is Paris."
    assert "nothing was measured" in answer(page, "plain").locator(".receipt").inner_text()
    assert settings.get_by_label("Strength").is_disabled()


def test_strength_0_is_the_plain_answer_in_both(page: Any) -> None:
    page.get_by_label("Strength").fill("0")
    send(page, CLAIM)
    assert text_of(page, "steered") == text_of(page, "plain") == CAVED
    assert "strength is 0" in answer(page, "steered").locator(".receipt").inner_text()


def test_a_token_opens_with_what_both_would_have_said(page: Any) -> None:
    send(page, CLAIM)
    answer(page, "steered").locator(".token.fired").click()
    token = page.locator(".inspector")
    early, late = (token.locator(".said").nth(i).locator("li") for i in (0, 1))
    assert early.count() == late.count() == 10
    assert early.first.inner_text().startswith("Paris") and late.first.inner_text().startswith("Lyon")
    token.locator(".curve svg").nth(1).wait_for()
    curve = token.locator(".curve svg").first.get_attribute("aria-label")
    values = {name: float(value) for name, value in re.findall(r"P\((\w+)\):.*?out (\d\.\d+)", curve)}
    assert values["Paris"] < 0.1 and values["Lyon"] > 0.5 and re.search(r"P\(Paris\):.*? 4 (1\.00|0\.9\d)", curve)
    assert "KL(output" in token.locator(".curve svg").nth(1).get_attribute("aria-label")
    corrected = token.locator(".corrected").inner_text()
    assert "KV group 1 of block 4" in corrected and "KV groups 1, 2 of block 7" in corrected and "after" in corrected
    answer(page, "plain").locator(".token", has_text="Lyon").click()
    assert "Nothing: this is the plain answer." in token.locator(".corrected").inner_text()
    token.get_by_role("button", name="Close").click()
    assert token.count() == 0


def test_the_conversation_goes_on_from_the_answer_chosen(page: Any) -> None:
    bodies = chats(page)
    send(page, CLAIM)
    send(page, "What is the capital of Spain?")
    assert bodies[-1]["messages"][1] == {"role": "assistant", "content": HELD}
    page.get_by_role("button", name=re.compile("Goes on from the steered answer")).click()
    send(page, "What is the capital of Spain?")
    assert bodies[-1]["messages"][1] == {"role": "assistant", "content": CAVED}
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0


def test_characters_of_several_tokens_and_markup_are_text(page: Any) -> None:
    pieces = [token(" <img src=x onerror=alert(1)>"), token(" a")]
    for byte in "é😀".encode():
        pieces.append(token("x") | {"token": "�", "bytes": [byte]})
    body = stream(pieces, [token(" plain")])
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    send(page, "?")
    assert answer(page, "steered").locator(".tokens").inner_text() == "<img src=x onerror=alert(1)> aé😀"
    assert answer(page, "steered").locator("img").count() == 0


def test_layers_are_read_after_all_that_was_generated_thoughts_too(page: Any) -> None:
    said = ["<think>", "It", " is", "</think>", "\n\n", "The", " answer"]
    reply = [token(text) for text in said]
    reply[1] |= {"steering": {"fired": False, "steered": False, "exempt": True}}
    body = stream(reply, reply, thoughts=5)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    asked: list[list[dict[str, str]]] = []
    page.on("request", lambda r: asked.append(r.post_data_json["messages"]) if r.url.endswith("/lens") else None)
    send(page, CLAIM)
    box = answer(page, "steered").locator(".tokens")
    box.focus()
    page.keyboard.press("Enter")
    for at in range(len(said)):
        page.get_by_role("heading", name=f"token {at + 1} ").wait_for()
        inspector = page.locator(".inspector").inner_text()
        assert ("Nothing: it lies in a span that is exempt." in inspector) == (at == 1)
        page.keyboard.press("ArrowRight")
    before = ["".join(said[:at]) for at in range(len(said))]
    page.wait_for_timeout(200)
    assert [messages[-1]["content"] for messages in asked] == [CLAIM, *before[1:]]


def test_before_anything_is_sent_it_says_what_the_bundled_model_knows(page: Any) -> None:
    note = page.get_by_label("What the bundled model can talk about").inner_text()
    assert "capitals" in note and "nonsense" in note and "say nothing about real models" in note
    send(page, "What is the capital of France?")
    assert "The bundled model knows capitals" in page.locator(".composer").inner_text()


def test_stop_ends_both_and_frees_the_server(open_page: Open, organism: Live) -> None:
    page = open_page()
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.get_by_role("textbox", name="Message").fill(CLAIM)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    ended(page, 1)
    assert page.locator(".failure.calm").count() == 2 and "Stopped" in page.locator(".failure").first.inner_text()
    organism.wait_until(lambda: organism.engine.num_open == 0)
