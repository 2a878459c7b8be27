"""What one process serves, loaded once."""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from server.settings import BadSettings, Settings
from server.size import bytes_of
from steering.custom import ScaledUnits, customised
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.grammar.compiler import GrammarCompiler
from steering.model.loading import BUNDLED, LanguageModel, load_model
from steering.model.render import renderer
from steering.model.threads import quickest_num_threads
from steering.pack import Pack
from steering.pack_folder import PackFolder
from steering.plan import Plan
from steering.store import PackStore, packs_folder
from steering.uploads import Quota, Uploads

BUNDLED_PROFILE = "candid"


@dataclass(frozen=True)
class Served:
    """A model, the engine that runs it and its packs. Only the engine thread may call `engine`'s methods."""

    model: LanguageModel
    engine: Engine
    store: PackStore
    default_profile: str | None
    """What `"steering": true` means."""
    created: int
    """Unix seconds."""
    uploads: Uploads | None = None
    """Packs that can be changed while it runs; None where none can."""

    def unchanged(self) -> AbstractContextManager[None]:
        """Meanwhile no pack is changed: disk and store agree."""
        return nullcontext() if self.uploads is None else self.uploads.unchanged()

    def fingerprint(self, plan: Plan) -> str:
        """`system_fingerprint`: changes with whatever may change a token at equal request and seed."""
        parts = (
            self.model.fingerprint,
            plan.digest,
            str(self.model.dtype),
            self.model.quantized or "",
            self.model.device.type,
            torch.__version__,
            str(self.engine.config.deterministic),
        )
        return "fp_" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @cached_property
    def longest_token(self) -> int:
        """Bytes; what has more than `context` times as many cannot fit, and is refused before it is encoded."""
        return max(len(token.encode()) for token in self.model.tokenizer.get_vocab())

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """What answers can be made to be."""
        return GrammarCompiler(self.model)

    @cached_property
    def customised(self) -> Callable[[Pack | None, tuple[ScaledUnits, ...]], Pack]:
        """`steering.custom.customised`; what was asked for lately is the same object: rows that share it share a
        batch. A pack that is replaced or removed is not kept for it."""
        alone = _remembering(None, self.model)
        by_pack = weakref.WeakKeyDictionary[Pack, Callable[[tuple[ScaledUnits, ...]], Pack]]()

        def of(pack: Pack | None, scaled: tuple[ScaledUnits, ...]) -> Pack:
            if pack is None:
                return alone(scaled)
            return (by_pack.get(pack) or by_pack.setdefault(pack, _remembering(pack, self.model)))(scaled)

        return of

    def profiles(self) -> list[Pack]:
        """The packs that can be used."""
        return [pack for _, pack in self.store.entries() if isinstance(pack, Pack)]

    def close(self) -> None:
        """Gives up the folder of uploads. (The engine is closed by its thread.)"""
        if self.uploads is not None:
            self.uploads.close()


def _remembering(pack: Pack | None, model: LanguageModel) -> Callable[[tuple[ScaledUnits, ...]], Pack]:
    base = (lambda: None) if pack is None else weakref.ref(pack)  # or what it made would keep it
    return lru_cache(maxsize=32)(lambda scaled: customised(base(), scaled, model=model))


def load(settings: Settings) -> Served:
    """Takes seconds to minutes. Raises `UnsupportedModel`, `PackError` or `BadSettings`, each with one line."""
    renderer().start()  # beside what follows
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    folder = None if settings.uploads is None else PackFolder(settings.uploads)
    model = load_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        name=settings.served_model_name,
        quantize=settings.quantize,
        device_map=settings.device_map,
    )
    if settings.threads is None and not settings.deterministic:
        torch.set_num_threads(quickest_num_threads(model.hf))
    config = EngineConfig(
        max_rows=settings.max_rows,
        context=settings.context,
        kv_memory=None if settings.kv_memory is None else bytes_of(settings.kv_memory),
        prefix_cache=None if settings.prefix_cache is None else bytes_of(settings.prefix_cache),
        queue=settings.max_rows + settings.queue,  # of open ones the edge keeps count, and whose they are
        prefill_stretch=settings.prefill_stretch,
        deterministic=settings.deterministic,
        fast_linears=settings.fast_linears,
        rounded_linears=torch.bfloat16 if settings.rounded_linears else None,
        compile=settings.compile,
    )
    store = PackStore(packs_folder(settings.model, settings.packs), model)
    uploads = None if folder is None else Uploads(folder, store, model, _quota(settings))
    default = _default_profile(settings, store)
    return Served(model, Engine(model, config), store, default, int(time.time()), uploads)


def _quota(settings: Settings) -> Quota:
    return Quota(
        packs=settings.uploads_count,
        size=bytes_of(settings.uploads_size) or 0,
        packs_each=settings.key_uploads_count,
        size_each=bytes_of(settings.key_uploads_size) or 0,
    )


def _default_profile(settings: Settings, store: PackStore) -> str | None:
    name = settings.default_profile
    if name is None and settings.model == BUNDLED and BUNDLED_PROFILE in store.names:
        name = BUNDLED_PROFILE
    if name is not None:
        store.get(name)
    elif settings.default_mode != "off":
        raise BadSettings(f"--default-mode {settings.default_mode} needs --default-profile.")
    return name
