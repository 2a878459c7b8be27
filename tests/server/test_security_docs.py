"""docs/security.md against the code: the table of scopes, the example of a keys file, codes, fields and numbers."""

from __future__ import annotations

import re
from pathlib import Path

from server.access import TABLE, Need
from server.errors import _KINDS
from server.keys import KeyRing
from server.limits import GUESSES_PER_MINUTE, MAX_WAIT
from server.request_log import AUDITED
from server.schemas.keys import KeyEntry, LimitsEntry, PolicyEntry

DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def written(need: Need) -> str:
    return {"open": "open", "key": "any key"}.get(need, f"`{need}`")


def test_the_table_of_scopes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(/[^`]*)` \| (.+) \| (.+) \|$", DOCS, re.MULTILINE)
    assert rows == [(path, written(row.reading), written(row.writing)) for path, row in TABLE.items()]


def test_the_example_is_a_keys_file(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    path = tmp_path / "keys.toml"
    path.write_text(example)
    (caller,) = KeyRing(None, path).callers.values()
    assert caller.id == "alice" and caller.policy.profiles == {"candid"} and caller.limits.tokens_per_minute == 100_000
    fields = [*KeyEntry.model_fields, *PolicyEntry.model_fields, *LimitsEntry.model_fields]
    assert all(re.search(rf"\b{name} = ", example) for name in fields), "every field is shown"


def test_codes_and_numbers() -> None:
    named = set(re.findall(r"\d{3} `(\w+)`", DOCS))
    assert named == {"insufficient_scope", "steering_policy", "rate_limit_exceeded", "invalid_host"} <= _KINDS.keys()
    assert f"{GUESSES_PER_MINUTE} a minute" in DOCS and f"1 to {MAX_WAIT} seconds" in DOCS
    assert {"insufficient_scope", "steering_policy"} < AUDITED


def test_every_field_of_a_line_is_named() -> None:
    source = (Path(__file__).parents[2] / "server" / "request_log.py").read_text(encoding="utf-8")
    fields = re.findall(r'^        "(\w+)": ', source, re.MULTILINE)
    assert len(fields) >= 16 and all(f"`{name}`" in DOCS for name in fields)


def test_every_action_of_the_server_is_named() -> None:
    sources = (Path(__file__).parents[2] / "server").rglob("*.py")
    written = re.compile(r'\b(?:audit\(\s*[\w.]+,|log\.write\()\s*"(\w+)"')
    actions = {name for path in sources for name in written.findall(path.read_text(encoding="utf-8"))}
    assert {"access_denied", "keys_reloaded", "keys_not_reloaded"} <= actions
    assert all(f"`{name}`" in DOCS for name in actions)
