"""GET /v1/steering/config: the settings really in use, where from, and what the engine made of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pydantic import TypeAdapter

from server.configuration import Source
from server.schemas.config import Config
from server.serving import Served, load
from server.settings import Settings
from tests.server.live import Live, serve

CONFIG = TypeAdapter(Config)
KEY = "sk-931415"


def test_what_runs_is_told_and_not_what_was_wished(tiny_folder: Path) -> None:
    settings = Settings(
        model=str(tiny_folder), served_model_name="tiny", kv_memory="256KiB", max_rows=3, threads=1, api_key=KEY
    )
    sources: dict[str, Source] = dict.fromkeys(vars(settings), "default")
    sources |= {"max_rows": "flag", "kv_memory": "file", "api_key": "environment"}
    with serve(lambda: load(settings), settings, sources=sources) as live:
        assert live.client.get("/v1/steering/config").status_code == 401
        reply = live.client.get("/v1/steering/config", headers={"authorization": f"Bearer {KEY}"})
        engine = live.served.engine
        told = reply.json()
        CONFIG.validate_python(told, strict=True, extra="forbid")
        assert KEY not in reply.text and told["requires_key"] is True
        assert told["settings"].keys() == {field.name for field in fields(Settings)} - {"api_key"}
        assert told["settings"]["max_rows"] == {"value": 3, "source": "flag"}
        assert told["settings"]["kv_memory"] == {"value": "256KiB", "source": "file"}
        assert told["settings"]["context"] == {"value": None, "source": "default"}
        assert (told["engine"]["rows"], told["engine"]["context"]) == (engine.kv.rows, engine.context)
        assert told["engine"]["kv_budget_bytes"] == 256 * 1024 and told["engine"]["queue"] == 256 + 3
        assert told["engine"]["context_wanted"] == engine.kv_wanted.context >= engine.context
        assert told["speed"]["threads"] == 1 and told["speed"]["compiled"] is False
        assert told["model"]["name"] == "tiny" and told["model"]["dtype"] == "float32"
        assert told["steering"] == {"mode": "off"}


def test_without_sources_none_are_made_up(live: Live) -> None:
    told = live.client.get("/v1/steering/config").json()
    CONFIG.validate_python(told, strict=True, extra="forbid")
    assert all(setting.keys() == {"value"} for setting in told["settings"].values())
    assert told["steering"]["profile"] == f"candid@{live.served.store.get('candid').digest[:12]}"
    assert told["requires_key"] is False


def test_limits_are_those_that_are_kept(live: Live) -> None:
    limits = live.client.get("/v1/steering/config").json()["limits"]
    top = limits["top_logprobs"]
    assert live.chat(logprobs=True, top_logprobs=top).status_code == 200
    assert live.chat(logprobs=True, top_logprobs=top + 1).status_code == 400
    assert live.chat(stop=["zz"] * limits["stop"]).status_code == 200
    assert live.chat(stop=["zz"] * (limits["stop"] + 1)).status_code == 400
    assert live.chat(n=limits["n"] + 1).status_code == 400
    huge = live.post(b" " * (limits["body_bytes"] + 1))
    assert huge.status_code == 413


def test_before_the_model_is_loaded_it_says_so(fake: Served) -> None:
    import threading

    gate = threading.Event()

    def slow() -> Served:
        gate.wait(10)
        return fake

    with serve(slow, wait=False) as live:
        assert live.client.get("/v1/steering/config").json()["error"]["code"] == "model_loading"
        gate.set()
