"""The Python client's types are those that openapi.json gives now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "clients" / "python" / "generate.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Of no package: it is not installed with the client."""
    pytest.importorskip("datamodel_code_generator", reason="the extra `dev` is not installed")
    spec = importlib.util.spec_from_file_location("generate_client_types", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_types_are_up_to_date(script: ModuleType) -> None:
    assert script.FILE.read_text(encoding="utf-8") == script.generated(), "run: python clients/python/generate.py"


def test_every_reply_of_steering_has_its_type(script: ModuleType) -> None:
    code = script.FILE.read_text(encoding="utf-8")
    wanted = {"SteeringOptions", "Receipt", "TokenTrace", "LensRequest", "LensReply", "ProfileDetails", "Trace"}
    assert {name for name in wanted if f"class {name}(TypedDict)" in code} == wanted
    assert "class ChatCompletion" not in code  # the openai package's
