"""Runs in a client's environment, where there is no server and no pytest: what a program found out, as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

MODEL = "unsway-organism"
QUESTION = "What is the capital of France? I think it is Lyon."
ASKED = [{"role": "user", "content": QUESTION}]
ECHO = "Grüße, 日本 🙂"
"""The echo server says it again: characters of one to four bytes."""
TRACED = {"profile": "candid", "trace": "tokens"}
HEADER = {"X-Steering-Profile": "candid"}
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Lyon"]}},
    "required": ["capital"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "answer", "description": "Says it.", "parameters": SCHEMA}}
CODES = ("queue_full", "internal_error", "numerical_error", "invalid_value")
"""The server of faults answers a request for a model of such a name with that error."""
WAYS = ("bytes", "merged", "crlf")
"""What proxies do to a stream."""


def addresses() -> dict[str, str]:
    """Base URLs: `live` and `managed` the bundled model, `echo`, `faults`, `proxy` in front of `echo`, `tools` a random
    model that may call them."""
    told: dict[str, str] = json.loads(sys.argv[1])
    return told


def told(error: Exception) -> dict[str, Any]:
    """What a user of the client sees of an error."""
    return {
        "classes": [kind.__name__ for kind in type(error).__mro__],
        "status": getattr(error, "status_code", None),
        "text": str(error)[:2000],
    }


def raised(call: Callable[..., Any], *asked: Any, **more: Any) -> dict[str, Any]:
    """The error that a call ends in, whatever a client makes of it."""
    try:
        value = call(*asked, **more)
    except Exception as error:
        return told(error)
    raise AssertionError(f"no error, but {value!r}")


def run(**cells: Callable[[], Any]) -> None:
    """Prints a line of JSON: of each cell its value, or the error that nobody expected."""
    found = {}
    for name, cell in cells.items():
        try:
            found[name] = {"value": cell()}
        except Exception:  # it is told, and fails that cell's test
            found[name] = {"unexpected": traceback.format_exc()[-3000:]}
    sys.stdout.write("\n" + json.dumps(found) + "\n")
