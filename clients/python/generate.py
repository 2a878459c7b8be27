"""Writes unsway_client/types.py from openapi/openapi.json: `python clients/python/generate.py` after the API changed.

A test compares the two. It needs datamodel-code-generator and ruff (extra `dev`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "unsway_client" / "types.py"
OPENAPI = Path(__file__).parents[2] / "openapi" / "openapi.json"
BOUNDS = {"pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum"}
RULES = {"not", "if", "then", "else", "dependentSchemas", "uniqueItems", "maxProperties", "propertyNames"}
"""No type of Python says them, nor these."""
HEADER = '"""What the routes of steering take and tell: written by generate.py from openapi.json, not by hand."""'
OPTIONS = (
    *("--input-file-type", "openapi", "--output-model-type", "typing.TypedDict", "--target-python-version", "3.11"),
    *("--enum-field-as-literal", "all", "--use-schema-description", "--use-field-description"),
    *("--use-standard-collections", "--use-union-operator", "--no-use-closed-typed-dict", "--disable-timestamp"),
    *("--formatters", "builtin"),
)


def generated() -> str:
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "openapi.json"), Path(folder, "types.py")
        source.write_text(json.dumps(_of_steering(document)), encoding="utf-8")
        command = [sys.executable, "-m", "datamodel_code_generator", "--input", source, "--output", target, *OPTIONS]
        subprocess.run(command, check=True)  # noqa: S603 - no input of a stranger
        code = target.read_text(encoding="utf-8").split("from __future__", 1)[1]
    return _formatted(f"{HEADER}\n\nfrom __future__{code}")


def _of_steering(document: dict[str, Any]) -> dict[str, Any]:
    """The schemas that these routes and the field `steering` lead to; all others are the openai package's."""
    schemas = document["components"]["schemas"]
    paths = {path: value for path, value in document["paths"].items() if path.startswith("/v1/steering/")}
    wanted, found = {"SteeringOptions", "ErrorReply"} | _named(paths), set[str]()
    while wanted:
        found |= wanted
        wanted = {name for known in wanted for name in _named(schemas[known])} - found
    kept = {name: _without_bounds(schemas[name]) for name in sorted(found)}
    return {"openapi": document["openapi"], "info": document["info"], "paths": {}, "components": {"schemas": kept}}


def _without_bounds(part: Any, *, names: bool = False) -> Any:
    """names: the keys of `part` are names of properties."""
    if isinstance(part, dict):
        left_out = BOUNDS | RULES | ({"oneOf"} if "properties" in part else set())
        kept = {key: value for key, value in part.items() if names or key not in left_out}
        return {key: _without_bounds(value, names=key == "properties" and not names) for key, value in kept.items()}
    return [_without_bounds(item) for item in part] if isinstance(part, list) else part


def _named(part: object) -> set[str]:
    return set(re.findall(r'#/components/schemas/([^"]+)"', json.dumps(part)))


def _formatted(code: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    for step in (["format"], ["check", "--fix", "--quiet"], ["format"]):
        command = [*ruff, *step, "--stdin-filename", str(FILE), "-"]
        code = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return code


if __name__ == "__main__":
    FILE.write_text(generated(), encoding="utf-8")
