from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from server.serving import load
from server.settings import Settings
from tests.server.live import Live, serve
from unsway_client import UnswayOpenAI


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """The bundled model."""
    with serve(partial(load, Settings())) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[UnswayOpenAI]:
    with UnswayOpenAI(base_url=f"{live.url}/v1", max_retries=0) as client:
        yield client
