"""GET /: one static file that talks to this API and to nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter()
_FILE = Path(__file__).parent.parent / "page" / "index.html"


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    html, policy = _page()
    return HTMLResponse(html, headers={"content-security-policy": policy, "x-content-type-options": "nosniff"})


@cache
def _page() -> tuple[str, str]:
    """The file and the policy under which it runs: its own inline style and script by their digests, nothing else."""
    html = _FILE.read_text(encoding="utf-8")
    script, style = (_digests(html, tag) for tag in ("script", "style"))
    return html, (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digests(html: str, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in blocks)
