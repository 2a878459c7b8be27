"""Uploads before the real engine, on the tiny model: as the command line puts it together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.serving import load
from server.settings import BadSettings, Settings
from steering.errors import PackError
from steering.model.loading import load_model
from steering.pack import Pack, load_pack
from tests.models import tiny_model
from tests.one_file import raw_of
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs
from tests.server.test_end_to_end import LONG_SEED
from tests.server.uploads import etag, put

LONG: dict[str, Any] = {"max_tokens": 80, "seed": LONG_SEED}
SHORT: dict[str, Any] = {"max_tokens": 12, "seed": LONG_SEED}


@pytest.fixture(scope="module")
def firm(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Acts always."""
    packs = tmp_path_factory.mktemp("packs")
    model = load_model(str(tiny_folder))
    save_packs(packs, model, tiny_model(seed=1))
    return load_pack(packs / "firm", model)


@pytest.fixture(scope="module")
def settings(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        model=str(tiny_folder),
        uploads=tmp_path_factory.mktemp("server") / "uploads",
        served_model_name="tiny",
        deterministic=True,
        max_rows=4,
        threads=1,
    )


@pytest.fixture(scope="module")
def real(settings: Settings) -> Iterator[Live]:
    with serve(lambda: load(settings), settings) as live:
        yield live


def text(live: Live, **fields: Any) -> str:
    return live.chat(**fields).json()["choices"][0]["message"]["content"]


def test_T20_an_answer_under_way_keeps_its_profile(real: Live, firm: Pack) -> None:
    """In the midst of it the profile is replaced, and then deleted; it ends as if nothing had been."""
    (one, first), (two, second) = raw_of(firm), raw_of(replace(firm, corrections=weaker(firm)))
    plain = text(real, **SHORT)
    assert put(real, one, "firm").status_code == 201
    before = text(real, steering="firm", **LONG)
    body = {"model": "tiny", "messages": HELLO, "stream": True, "steering": "firm", **LONG}
    with real.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        events = reply.iter_lines()
        told = [next(events)]
        assert put(real, two, "firm", if_match=etag(first)).status_code == 200
        after = text(real, steering="firm", **SHORT)
        assert real.client.delete("/v1/steering/profiles/firm").status_code == 204
        assert real.engine.num_open == 1
        told += list(events)
    chunks = [json.loads(line[6:]) for line in told if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == before
    assert choices[-1]["steering"]["profile"] == f"firm@{first[:12]}" and reply.headers["x-steering-profile"]
    assert len({plain, before[: len(plain)], after}) == 3 and first != second and len(choices) > 20
    assert text(real, **SHORT) == plain


def weaker(pack: Pack) -> tuple[Any, ...]:
    return tuple(replace(correction, strength=-correction.strength) for correction in pack.corrections)


def test_what_is_uploaded_does_what_the_same_pack_does_from_the_start(
    real: Live, settings: Settings, firm: Pack, tmp_path: Path
) -> None:
    raw, digest = raw_of(firm)
    put(real, raw, "firm")
    uploaded = text(real, steering="firm", **SHORT)
    assert settings.uploads is not None
    again = replace(settings, packs=settings.uploads, uploads=tmp_path / "none")
    with serve(lambda: load(again), again) as live:
        assert live.served.store.get("firm").digest == digest and live.served.uploads is not None
        assert text(live, steering="firm", **SHORT) == uploaded
        assert put(live, raw, "firm", if_match="*").status_code == 403  # of --packs, here
    assert real.client.delete("/v1/steering/profiles/firm").status_code == 204


def test_L10_a_second_server_refuses(real: Live, settings: Settings) -> None:
    with pytest.raises(PackError, match="another server writes to"):
        load(settings)
    assert real.chat(**SHORT).status_code == 200


def test_settings(tmp_path: Path) -> None:
    for wrong, says in (
        ({"max_upload": "lots"}, "--max-upload must be a size"),
        ({"uploads_size": "1"}, "--uploads-size must be a size"),
        ({"uploads_count": 0}, "--uploads-count must be between 1 and 65536"),
        ({"uploads": Path(__file__)}, "--uploads must be a folder"),
        ({"uploads": tmp_path / "in", "packs": tmp_path}, "--uploads must be --packs itself or a folder outside"),
    ):
        with pytest.raises(BadSettings, match=says):
            Settings(**wrong)  # type: ignore[arg-type]
    assert Settings(uploads=tmp_path, packs=tmp_path).uploads == tmp_path
