"""The card as a page: all its words, its pictures in place, nothing loaded and nothing run."""

from __future__ import annotations

import re

import pytest

from tests.models import tiny_model
from tests.packs import simple_pack

pytest.importorskip("matplotlib")
from steering.calibration.draw_card import draw_card

CARD = """# candid

Made for a<b.

## Where the claim comes in

| group | I |
| ----- | - |
| 7.2   | **-0.1** |

## Corrections

## Against random units

<script>alert(1)</script>
"""
EVIDENCE = {
    "localisation": {"total": {"importance": [[-0.5, 0.1], [None, 0.0]]}},
    "curve": {"0.5": {"wrong_claim": 0.4}, "1": {"wrong_claim": 0.9}},
    "nulls": {"observed": 0.9, "null": [0.1, 0.2]},
}


def test_every_picture_stands_under_its_heading() -> None:
    html = draw_card(simple_pack(tiny_model(), card=CARD, evidence=EVIDENCE))
    for heading, words in (
        ("Where the claim comes in", "total effect of each KV group"),
        ("Corrections", "strength"),
        ("Against random units", "2 random sets"),
    ):
        section = html.split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]
        assert section.lstrip().startswith("<svg") and words in re.sub(r"<!--|-->", "", section)
    assert html.count("<svg") == html.count("</svg>") == 3
    assert "<td><strong>-0.1</strong></td>" in html and "a&lt;b" in html


def test_nothing_is_loaded_or_run() -> None:
    html = draw_card(simple_pack(tiny_model(), card=CARD, evidence=EVIDENCE))
    assert "<script" not in html and not re.search(r"(src|href)=\"(?!#|data:)", html.replace("xlink:href", "href"))


def test_a_card_without_evidence_is_its_words() -> None:
    html = draw_card(simple_pack(tiny_model(), card="# watch", evidence={}))
    assert "<h1>watch</h1>" in html and "<svg" not in html
