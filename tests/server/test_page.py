"""The page at `/`: one small file that loads nothing, under a policy that lets it load nothing."""

from __future__ import annotations

import base64
import hashlib
import re

from server.routes.page import _FILE
from tests.server.live import Live

HTML = _FILE.read_text(encoding="utf-8")


def test_it_is_served_without_a_key_and_as_it_is(live: Live) -> None:
    reply = live.client.get("/")
    assert reply.status_code == 200 and reply.text == HTML
    assert reply.headers["content-type"] == "text/html; charset=utf-8"


def test_it_is_small_and_loads_nothing() -> None:
    assert len(HTML.splitlines()) <= 250
    assert not re.findall(
        r"https?://|//cdn|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|<img|<iframe|src=", HTML
    )


def test_what_comes_from_a_reply_is_text() -> None:
    """Names, messages and tokens are put in by textContent, so none of them is ever markup."""
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "cookie"):
        assert way_in not in HTML
    assert "textContent" in HTML and not re.findall(r"\son\w+=", HTML)


def test_the_policy_allows_its_own_script_and_style_alone(live: Live) -> None:
    policy = live.client.get("/").headers["content-security-policy"]
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert ' style="' not in HTML  # would be refused by it
