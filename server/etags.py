"""Lists of entity tags, as `If-Match` and `If-None-Match` have them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TAG = re.compile(r'(?:W/)?"[^"]*"')
_LIST = re.compile(rf"{_TAG.pattern}(?:[ \t]*,[ \t]*{_TAG.pattern})*")


def etags(lines: Iterable[str]) -> list[str] | None:
    """As they stand there, in their quotes (in which there may be commas), or `*` alone; None if it is no such list."""
    text = ", ".join(lines).strip(" \t")
    if text == "*":
        return ["*"]
    return _TAG.findall(text) if _LIST.fullmatch(text) else None


def has_it(lines: Iterable[str], etag: str) -> bool:
    """Whether a client that sends these as `If-None-Match` has what this is the tag of; weak or not is all the same."""
    bare = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") in ("*", bare) for tag in etags(lines) or ())
