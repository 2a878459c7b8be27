"""Settings and engine -> what `GET /v1/steering/config` tells about them."""

from __future__ import annotations

from server.configuration import Configuration
from server.deps import MAX_BODY
from server.schemas import config as schema
from server.schemas.completions import MAX_PROMPTS
from server.schemas.generation import MAX_STOP_LENGTH, MAX_STOPS
from server.schemas.lens import MAX_CANDIDATES
from server.schemas.openai import MAX_MESSAGES
from server.schemas.steering import MAX_CORRECTIONS, MAX_UNITS
from server.serving import Served
from server.size import bytes_of
from server.traces import MAX_TRACE
from server.translate.call import short_profile
from server.translate.completions import MAX_CHOICES as MAX_ANSWERS
from server.translate.lens import MAX_CELLS
from steering.engine.engine import Engine
from steering.engine.request import MAX_BIASED, MAX_CHOICES, MAX_STOP_IDS, MAX_TOP_LOGPROBS
from steering.model.loading import LanguageModel


def describe(configuration: Configuration, served: Served) -> schema.Config:
    """All of it but the key."""
    return {
        "object": "steering.config",
        "settings": {name: _setting(name, configuration) for name in vars(configuration.settings) if name != "api_key"},
        "model": _model(served.model),
        "engine": _sizes(served.engine),
        "speed": _speed(served.engine),
        "steering": _defaults(configuration, served),
        "requires_key": configuration.settings.asks_for_key,
        "limits": {
            "body_bytes": MAX_BODY,
            "upload_bytes": bytes_of(configuration.settings.max_upload) or 0,
            "messages": MAX_MESSAGES,
            "prompts": MAX_PROMPTS,
            "answers": MAX_ANSWERS,
            "n": MAX_CHOICES,
            "stop": MAX_STOPS,
            "stop_characters": MAX_STOP_LENGTH,
            "stop_token_ids": MAX_STOP_IDS,
            "top_logprobs": MAX_TOP_LOGPROBS,
            "logit_bias": MAX_BIASED,
            "trace_bytes": MAX_TRACE,
            "lens_cells": MAX_CELLS,
            "lens_candidates": MAX_CANDIDATES,
            "corrections": MAX_CORRECTIONS,
            "correction_units": MAX_UNITS,
        },
    }


def _setting(name: str, configuration: Configuration) -> schema.Setting:
    setting: schema.Setting = {"value": configuration.value(name)}
    if name in configuration.sources:
        setting["source"] = configuration.sources[name]
    return setting


def _model(model: LanguageModel) -> schema.Served:
    told: schema.Served = {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_layers": model.layout.num_layers,
        "num_heads": model.layout.num_heads,
        "num_groups": model.layout.num_groups,
        "d_model": model.layout.d_model,
        "d_mlp": model.layout.d_mlp,
        "vocab_size": model.layout.vocab_size,
    }
    if model.quantized:
        told["quantized"] = model.quantized
    return told


def _sizes(engine: Engine) -> schema.Sizes:
    kv, wanted = engine.kv, engine.kv_wanted
    return {
        "rows": kv.rows,
        "rows_wanted": wanted.rows,
        "context": kv.context,
        "context_wanted": wanted.context,
        "prefill_tokens": engine.config.prefill_tokens,
        "queue": engine.config.queue,
        "deterministic": kv.deterministic,
        "kv_budget_bytes": kv.budget,
        "kv_bytes_per_token": kv.bytes_per_token,
    }


def _speed(engine: Engine) -> schema.Speed:
    speed = engine.speed
    return {
        "packed_linears": speed.num_packed,
        "packed_bytes": speed.packed_bytes,
        "rounded": speed.rounded,
        "compiled": speed.compiled,
        "threads": speed.num_threads,
    }


def _defaults(configuration: Configuration, served: Served) -> schema.Defaults:
    defaults: schema.Defaults = {"mode": configuration.settings.default_mode}
    if served.default_profile is not None:
        pack = served.store.get(served.default_profile)
        defaults["profile"] = short_profile(f"{pack.name}@{pack.digest}")
    return defaults
