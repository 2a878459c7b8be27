from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.packs import save_packs


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    return replace(tiny_model(), name="tiny")


@pytest.fixture(scope="session")
def store(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> PackStore:
    directory: Path = tmp_path_factory.mktemp("packs")
    save_packs(directory, model, tiny_model(seed=1))
    return PackStore(directory, model)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model, as `--model` takes it."""
    folder: Path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_hf().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def fake(model: LanguageModel, store: PackStore) -> Served:
    """A fresh fake engine."""
    return Served(model, FakeEngine(model), store, default_profile="candid", created=1)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def live(model: LanguageModel, store: PackStore) -> Iterator[Live]:
    """One server with a fake engine for all tests that leave it as it was."""
    engine = FakeEngine(model, EngineConfig(max_rows=4), error_at={13: 3, 14: 0})
    served = Served(model, engine, store, default_profile="candid", created=1)  # type: ignore[arg-type]
    with serve(lambda: served) as running:
        yield running


@pytest.fixture(autouse=True)
def _still_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """The standing harness: after each test the shared server is as it was, and answers."""
    yield
    if "live" in request.fixturenames:
        running: Live = request.getfixturevalue("live")
        running.wait_until(lambda: running.engine.num_open == 0)
        running.wait_until(lambda: running.served.engine.num_running == 0)
        assert running.chat().json()["choices"][0]["message"]["content"].startswith("Hello there")
