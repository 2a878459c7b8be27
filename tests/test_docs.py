"""What readers are told leads somewhere: links with their anchors, the site's contents, JSON, commands' flags."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from server.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As Markdown renderers make them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_site_has_every_page_and_no_other() -> None:
    site: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = list(_pages(site["nav"]))
    assert sorted(listed) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")
    )


def _pages(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _pages(value)


def blocks(*languages: str) -> Iterator[Any]:
    for page in PAGES:
        for i, (language, text) in enumerate(FENCE.findall(page.read_text())):
            if language in languages:
                yield pytest.param(text, id=f"{name(page)}:{i}")


@pytest.mark.parametrize("text", list(blocks("json")))
def test_json_is_json(text: str) -> None:
    json.loads(text)


@pytest.mark.parametrize("text", list(blocks("python")))
def test_python_compiles(text: str) -> None:
    compile(text, "snippet", "exec")


@pytest.mark.parametrize("text", list(blocks("sh", "")))
def test_commands_have_these_flags(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.findall(r"(?:^|[|;&]|=\S+ )\s*(unsway .*?)(?=$|\||&&|;|  #| # |>)", line):
            words = [word for word in shlex.split(command.replace("[", "").replace("]", "")) if word != "..."]
            _check(typer.main.get_command(app), words[1:])


def _check(command: Any, words: list[str]) -> None:
    while (commands := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
        assert words[0] in commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {
        "--help",
        *(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)),
    }
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in known, (command.name, word)
