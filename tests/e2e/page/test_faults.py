"""What goes wrong is said where it goes wrong: keys, refusals, a full queue, a server that is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from server.errors import ApiError
from server.serving import load
from server.settings import Settings
from tests.e2e.page.acts import CLAIM, HELD, answer, ended, send, stream, text_of, token
from tests.e2e.page.conftest import Open
from tests.e2e.page.cut import cutting
from tests.server.live import Live, serve

pytestmark = pytest.mark.slow
KEY = "sk-only-in-memory"


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    settings = Settings(api_key=KEY, threads=1)
    with serve(partial(load, settings), settings) as live:
        yield live


def failures(page: Any) -> list[str]:
    return [note.inner_text() for note in page.locator(".failure").all()]


def refused(page: Any, code: str, message: str) -> None:
    """The next chat gets this error, as the server tells it."""
    error = ApiError(code, message)
    told = {
        "status": error.status,
        "json": error.reply(),
        "headers": {"content-type": "application/json", **error.headers},
    }
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**told))


def test_the_key_is_asked_for_refused_taken_and_kept_nowhere(open_page: Open, locked: Live) -> None:
    page = open_page("#scenario=claim", at=locked.url, ready=False)
    field = page.get_by_label("API key")
    field.wait_for()
    assert "needs a key" in page.locator(".served").inner_text()
    for wrong in ("sk-wrong", "schlüssel-🔑"):
        field.fill(wrong)
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("not accepted").wait_for()
    field.fill(KEY)
    page.keyboard.press("Enter")
    ended(page, 1)
    assert text_of(page, "steered") == HELD and field.count() == 0
    page.get_by_role("button", name="Copy as code").click()
    for language in ("curl", "Python", "TypeScript"):
        page.get_by_role("button", name=language).click()
        code = page.locator("dialog pre").inner_text()
        assert "UNSWAY_API_KEY" in code and KEY not in code
    assert KEY not in page.url and KEY not in page.content()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    assert kept == '[{},{},"",null]'
    page.reload()
    page.get_by_label("API key").wait_for()


def test_a_key_withdrawn_is_asked_for_again(page: Any) -> None:
    refused(page, "invalid_api_key", "Incorrect API key.")
    page.get_by_role("textbox", name="Message").fill(CLAIM)
    page.keyboard.press("Enter")
    page.get_by_label("API key").wait_for()
    assert all("The key was not accepted" in said for said in failures(page))


def test_A_refusal_is_readable_and_names_the_field(page: Any) -> None:
    """A real one: what is far longer than the context."""
    send(page, "What is it? " * 300)
    told = failures(page)
    assert len(told) == 2 and told[0] == told[1]
    assert "The context is" in told[0] and "context_length_exceeded · messages" in told[0]
    page.unroute_all()
    send(page, "What is the capital of France?")
    assert text_of(page, "steered") == "The answer is Paris."


def test_a_full_queue_says_when_to_try_again(page: Any) -> None:
    refused(page, "queue_full", "All 256 places of the queue are taken.")
    send(page, CLAIM)
    assert failures(page)[0].startswith(
        "The queue is full All 256 places of the queue are taken. Try again in 1 second."
    )


def test_an_error_in_the_stream_ends_it_and_keeps_what_came(page: Any) -> None:
    error = {
        "error": {"message": "The server is shutting down.", "type": "x", "param": None, "code": "server_shutdown"}
    }
    body = stream([token(" The"), token(" answer")], [token(" The")], done=False) + f"data: {json.dumps(error)}\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    send(page, CLAIM)
    assert text_of(page, "steered") == "The answer"
    assert "The server is stopping The server is shutting down. What had come, 2 tokens, stays." in failures(page)[0]


def test_a_stream_that_just_ends_is_no_answer(page: Any) -> None:
    body = stream([token(" The")], [token(" The")], done=False)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    send(page, CLAIM)
    assert len(failures(page)) == 2 and all("The connection broke off" in said for said in failures(page))
    assert answer(page, "plain").locator(".receipt").count() == 0


def test_a_server_gone_in_mid_stream(open_page: Open, organism: Live) -> None:
    with cutting(organism.port, frames=9) as at:
        page = open_page(at=at)
        send(page, CLAIM)
        told = failures(page)
        assert told and all(said.startswith("The connection broke off") for said in told)
        assert "stays" in told[0] and text_of(page, "steered").startswith("The")
        page.locator(".dot.bad").wait_for()
        assert "cannot be reached" in page.locator(".served").inner_text()
        box = page.get_by_role("textbox", name="Message")
        box.fill("Are you sure?")
        page.keyboard.press("Enter")
        assert page.get_by_role("button", name="Send").is_disabled() and box.input_value() == "Are you sure?"
    organism.wait_until(lambda: organism.engine.num_open == 0)


def test_it_waits_for_a_model_that_loads_and_for_a_server_that_comes_back(open_page: Open, organism: Live) -> None:
    page = open_page(ready=False)
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.locator(".dot.bad").wait_for()
    body = {"error": {"message": "The model is still loading.", "type": "x", "param": None, "code": "model_loading"}}
    page.route("**/v1/models", lambda route: route.fulfill(status=503, json=body))
    page.get_by_text("the model is loading").wait_for()
    page.unroute_all()
    page.locator(".dot.good").wait_for()


def test_links_set_what_makes_sense_and_send_nothing(open_page: Open) -> None:
    said = "mode=on&gate=always&strength=0.5&threshold=0.25&q=" + CLAIM.replace(" ", "+") + "&q=And%20now?"
    page = open_page(f"#{said}")
    page.wait_for_timeout(300)
    assert page.locator(".turn").count() == 0
    assert page.get_by_role("textbox", name="Message").input_value() == CLAIM
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Send").click()
    ended(page, 1)
    assert page.get_by_role("textbox", name="Message").input_value() == "And now?"
    assert page.url.endswith(
        "#profile=candid&mode=on&gate=always&strength=0.5&threshold=0.25&q="
        + CLAIM.replace(" ", "+").replace("?", "%3F")
    )


@pytest.mark.parametrize(
    "said",
    [
        "__proto__=x&constructor=y&prototype=z&profile=__proto__",
        "view=nowhere&mode=constructor&gate=__proto__&strength=NaN&threshold=-1&profile=<img src=x>",
        "scenario=__proto__&strength=Infinity&threshold=1e9",
        "%&%zz&q=" + "x" * 9000 + "&q=" * 50,
    ],
)
def test_J14_links_with_strange_keys_change_nothing(open_page: Open, said: str) -> None:
    page = open_page(f"#{said}")
    assert page.evaluate("Object.keys(Object.prototype).length") == 0
    assert page.locator(".settings select").input_value() == "candid"
    assert page.locator(".settings").get_by_role("radio", checked=True).evaluate_all(
        "all => all.map(e => e.value)"
    ) == ["compare", "profile"]
    assert page.get_by_label("Strength").input_value() in ("1", "1.00")
    assert page.locator(".turn").count() == 0
