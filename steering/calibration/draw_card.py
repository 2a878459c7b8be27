"""Draw the card: what CARD.md says as one page with pictures, nothing loaded from anywhere. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from steering.evaluation.html_report import page
from steering.pack import Pack


def draw_card(pack: Pack) -> str:
    """HTML: each picture stands before the section that has its numbers."""
    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(pack.card)
    for heading, figure in _figures(pack.evidence):
        html = html.replace(f"<h2>{heading}</h2>", f"<h2>{heading}</h2>\n{_svg(figure)}")
    return page(pack.name, html)


def _figures(evidence: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    from steering.calibration import plots

    if "localisation" in evidence:
        found = evidence["localisation"]["total"]
        values = np.array(found["importance"], dtype=np.float64)  # None, not patched, becomes NaN
        yield "Where the claim comes in", plots.importances(values, "KV group", "total effect of each KV group")
    if "curve" in evidence:
        yield "Corrections", plots.dose_curve(evidence["curve"])
    if "nulls" in evidence:
        yield "Against random units", plots.null_histogram(evidence["nulls"]["observed"], evidence["nulls"]["null"])


def _svg(figure: Any) -> str:
    """The drawing alone, without the XML prologue; its text as text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]
