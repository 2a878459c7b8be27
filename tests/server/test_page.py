"""The page at `/`: files built from clients/page, open to all, under a policy that lets them load nothing else."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
import pytest

import server
from tests.server.live import Live

FOLDER = Path(server.__file__).parent / "page"
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")
ASSETS = sorted(path.name for path in (FOLDER / "assets").iterdir())
MAX_WEIGHT = 100_000
"""Bytes of the whole page, zipped."""


def get(live: Live, path: str, **headers: str) -> httpx.Response:
    return live.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_it_is_served_without_a_key_and_as_it_is(live: Live) -> None:
    reply = live.client.get("/")
    assert reply.status_code == 200 and reply.text == HTML
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r"\./assets/([^\"]+)", HTML))
    assert named and named <= set(ASSETS)


@pytest.mark.parametrize("name", ASSETS)
def test_what_it_is_made_of_may_be_kept_for_ever(live: Live, name: str) -> None:
    reply = get(live, f"/assets/{name}", accept_encoding="identity")
    assert reply.content == (FOLDER / "assets" / name).read_bytes()
    assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert re.fullmatch(r".+-[\w-]{8,}\.(js|css|svg)", name)  # a name that changes with the content
    kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
    assert reply.headers["content-type"].partition(";")[0] == kind


def test_the_index_is_asked_for_again_and_not_sent_again(live: Live) -> None:
    first = live.client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    for known in (
        first.headers["etag"],
        first.headers["etag"].removeprefix("W/"),
        f'"x", {first.headers["etag"]}',
        "*",
    ):
        again = get(live, "/", if_none_match=known)
        assert (again.status_code, again.content) == (304, b"")
    assert get(live, "/", if_none_match='"other"').status_code == 200


def test_zipped_for_who_takes_it(live: Live) -> None:
    (script,) = [name for name in ASSETS if re.fullmatch(r"index-.*\.js", name)]
    plain, zipped = (get(live, f"/assets/{script}", accept_encoding=kind) for kind in ("identity", "gzip"))
    assert "content-encoding" not in plain.headers and zipped.headers["content-encoding"] == "gzip"
    assert plain.content == zipped.content and int(zipped.headers["content-length"]) < len(plain.content) / 2
    assert plain.headers["vary"] == "accept-encoding"


def test_it_is_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in FOLDER.rglob("*") if path.is_file()) < MAX_WEIGHT


def test_the_policy_allows_its_own_files_alone(live: Live) -> None:
    for path in ("/", f"/assets/{ASSETS[0]}"):
        headers = live.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy and "http" not in policy and "data:" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in headers and "access-control-allow-origin" not in headers
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?:", HTML)


def test_H15_ranges_without_number_are_one_whole_file(live: Live) -> None:
    ranges = ",".join(f"{i}-{i}" for i in range(3000))
    reply = get(live, f"/assets/{ASSETS[0]}", range=f"bytes={ranges}", accept_encoding="identity")
    assert reply.status_code == 200 and reply.content == (FOLDER / "assets" / ASSETS[0]).read_bytes()


@pytest.mark.parametrize(
    "path", ["index.html", "../index.html", "%2e%2e%2findex.html", "..%5c..%5capp.py", "a/b", "", "x" * 900]
)
def test_there_is_no_other_file(live: Live, path: str) -> None:
    reply = live.client.get(f"/assets/{path}")
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "not_found"
