"""The filter, run by the code of Open WebUI that runs filters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.clients.conftest import ROOT
from tests.live_question import ASKED
from tests.openwebui.test_steering_filter import MODEL, Emitted, events
from tests.server.live import Live

pytestmark = pytest.mark.clients

SOURCE = ROOT / "clients" / "openwebui" / "steering_filter.py"


class Functions:
    """The part of Open WebUI's database that running filters reads."""

    user_valves: ClassVar[dict[str, Any]] = {}

    @staticmethod
    async def get_active_filter_ids() -> list[tuple[str, bool]]:
        return [("steering", True)]

    @staticmethod
    async def get_functions_by_ids(ids: list[str]) -> list[Any]:
        return [SimpleNamespace(id=name) for name in ids]

    @staticmethod
    async def get_function_valves_by_ids(ids: list[str]) -> dict[str, Any]:
        return {"steering": {"profile": "candid", "models": "unsway-*"}}

    @classmethod
    async def get_user_valves_by_id_and_user_id(cls, function_id: str, user_id: str) -> dict[str, Any]:
        return cls.user_valves


@pytest.fixture
def runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`open_webui.utils.filter` as it is published. What stands around it is ours."""

    async def from_cache(*_: Any, **__: Any) -> tuple[Any, Any, Any]:
        return instance, "filter", {}

    def module(name: str, **values: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(values)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    instance = _loaded(module("function_steering")).Filter()
    for name in ("open_webui", "open_webui.models", "open_webui.utils"):
        module(name)
    module("open_webui.env", ENABLE_FUNCTIONS=True)
    module("open_webui.models.functions", Functions=Functions)
    module("open_webui.utils.plugin", get_function_module_from_cache=from_cache)
    running = module("open_webui.utils.filter")
    exec((folder / "open-webui" / "filter.py").read_text(), vars(running))  # noqa: S102
    return running


def _loaded(module: ModuleType) -> Any:
    """As Open WebUI loads what was pasted into it."""
    exec(SOURCE.read_text(), vars(module))  # noqa: S102
    return module


@pytest.fixture
def chat(runner: Any) -> Callable[..., Any]:
    """Runs one kind of handler of all filters that a chat has on."""
    request = SimpleNamespace(state=SimpleNamespace())

    async def run(kind: str, data: dict[str, Any], emitted: Emitted, on: bool = True, **metadata: Any) -> Any:
        filters = await runner.get_filter_functions(request, {"id": MODEL}, ["steering"] if on else [])
        extra = {"__user__": {"id": "u"}, "__metadata__": metadata, "__event_emitter__": emitted, "__request__": None}
        done, _ = await runner.process_filter_functions(
            request=request,
            filter_context=runner.get_filter_context(request),
            filter_functions=filters,
            filter_type=kind,
            form_data=data,
            extra_params=extra,
        )
        return done

    return run


async def test_a_chat_with_the_switch_on(chat: Any, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Functions, "user_valves", {"strength": 0.9})
    emitted = Emitted()
    body = await chat("inlet", {"model": MODEL, "messages": ASKED, "temperature": 0, "stream": True}, emitted)
    assert body["steering"] == {"mode": "on", "strength": 0.9, "profile": "candid"}
    told = [await chat("stream", event, emitted) for event in events(live, body)]
    assert len(told) > 5 and len(emitted.lines) == 1 and "“Paris”" in emitted.lines[0]
    outlet = {"messages": [{"role": "assistant", "content": ""}]}
    assert await chat("outlet", outlet, emitted) == outlet


async def test_the_switch_is_off_until_it_is_on(chat: Any) -> None:
    body = {"model": MODEL, "messages": ASKED}
    assert await chat("inlet", body, Emitted(), on=False) == body


async def test_titles_stay_plain(chat: Any) -> None:
    body = {"model": MODEL, "messages": ASKED}
    assert await chat("inlet", body, Emitted(), task="title_generation") == body
