"""A lens request of the wire -> a request of the engine, and what layers said -> the grid."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from server.errors import ApiError
from server.request_json import parse
from server.schemas.lens import LensCandidate, LensCell, LensLayer, LensReply, LensRequest
from server.schemas.violations import validate
from server.serving import Served
from server.translate.call import answer_length, short_profile, too_long
from server.translate.catalog import profile_with_lens
from server.translate.prompt import followed
from server.translate.receipt import finite
from server.translate.turns import check_last, check_size, encode, turns
from steering.engine.lens_query import Grid, LayerReading, LensQuery
from steering.engine.request import Request, SamplingParams
from steering.errors import NumericalError
from steering.lens import Lens, LogitLens, TunedLens
from steering.model.chat import token_bytes, token_text
from steering.model.loading import LanguageModel
from steering.model.text import encode_text
from steering.pack import Pack
from steering.plan import Plan

DEFAULT_TOP = 5
MAX_CELLS = 8192
"""Positions times layers."""
MAX_NUMBERS = 2**17
"""These times tokens named and candidates."""
MAX_ENCODED = 2**18
"""Tokens of the prompt times candidates: with each of them it is encoded once."""

MAX_SPACES = 8
"""Bytes that a template may put around a candidate."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class LensCall:
    """One request, ready to run, with what its reply needs to know."""

    request: Request
    query: LensQuery
    candidates: tuple[LensCandidate, ...]
    profile: str | None
    system_fingerprint: str


def prepare(body: bytes, served: Served) -> LensCall:
    """Parses, validates, encodes; raises before any work is done. CPU-bound: not for the event loop."""
    fields = _validate(parse(body), served)
    encode = _encoder(fields, served)
    prompt_ids = encode("")
    answer_length(0, 0, len(prompt_ids), served.engine.context, (_param(fields), "positions"))
    pack = None if fields.profile is None else profile_with_lens(fields.profile, served)
    lenses = _lenses(fields.layers, pack, served.model)
    num_positions = min(fields.positions or len(prompt_ids), len(prompt_ids))
    _check_size(fields, num_positions, len(lenses) + 1)
    candidates = _candidates(fields, encode, prompt_ids, served.model)
    query = LensQuery(
        lenses=lenses,
        top=fields.top_logprobs or DEFAULT_TOP,
        candidates=tuple(candidate["id"] for candidate in candidates),
        first=len(prompt_ids) - num_positions,
    )
    return LensCall(
        request=Request(
            id=f"lens-{uuid.uuid4().hex}",
            prompt_ids=tuple(prompt_ids),
            sampling=SamplingParams(0, temperature=0, prompt_logprobs=0),
            lens=query,
        ),
        query=query,
        candidates=candidates,
        profile=None if pack is None else short_profile(f"{pack.name}@{pack.digest}"),
        system_fingerprint=served.fingerprint(Plan()),
    )


def _validate(body: object, served: Served) -> LensRequest:
    fields = validate(LensRequest, body)
    if fields.model not in (None, served.model.name):
        raise ApiError("model_not_found", f"The model read here is {served.model.name}.", "model")
    if (fields.messages is None) == (fields.text is None):
        code = "missing_required_parameter" if fields.text is None else "invalid_value"
        raise ApiError(code, "Either messages or text must be given, and not both.", "messages")
    return fields


def _param(fields: LensRequest) -> str:
    return "messages" if fields.text is None else "text"


def _encoder(fields: LensRequest, served: Served) -> Encode:
    """Token ids of the prompt with a text after it. What is far too long is refused without encoding it."""
    model, context = served.model, served.engine.context
    if fields.text is not None:
        text, least = fields.text, len(fields.text.encode()) // served.longest_token
        if least > context:
            raise too_long(context, f"at least {least}", "text")
        return lambda more: encode_text(model, text + more)[0]
    said = turns(fields.messages or [])
    check_last(said)
    check_size(said, None, served, "messages")
    return lambda more: encode(followed(said, more), None, served, "messages")


def _lenses(layers: Sequence[int] | None, pack: Pack | None, model: LanguageModel) -> tuple[Lens, ...]:
    """One for each layer below the output, ascending."""
    L = model.layout.num_layers
    for i, layer in enumerate(layers or ()):
        if not 0 <= layer <= L:
            message = f"layers.{i} must be 0 to {L - 1}, or {L} for the output, which is always read (got {layer})."
            raise ApiError("layer_out_of_range", message, f"layers.{i}")
    of_pack = {} if pack is None or pack.detector is None else {pack.detector.lens.layer: pack.detector.lens}
    wanted = range(L) if layers is None else sorted(layer for layer in layers if layer < L)
    return tuple(of_pack.get(layer) or LogitLens(layer) for layer in wanted)


def _check_size(fields: LensRequest, num_positions: int, num_layers: int) -> None:
    cells, each = num_positions * num_layers, (fields.top_logprobs or DEFAULT_TOP) + len(fields.candidates or ())
    if cells > MAX_CELLS or cells * each > MAX_NUMBERS:
        room = min(MAX_CELLS, MAX_NUMBERS // each) // num_layers
        raise ApiError(
            "integer_above_max_value",
            f"{num_positions} positions times {num_layers} layers (the output among them), each with {each} tokens, "
            f"are more than {MAX_CELLS:,} cells or {MAX_NUMBERS:,} numbers: positions can be at most {room} here, or "
            "name fewer layers.",
            "positions",
        )


def _candidates(
    fields: LensRequest, encode: Encode, prompt_ids: list[int], model: LanguageModel
) -> tuple[LensCandidate, ...]:
    given = fields.candidates or []
    if len(given) * len(prompt_ids) > MAX_ENCODED:
        most = MAX_ENCODED // len(prompt_ids)
        message = f"candidates must have at most {most} items after a prompt of {len(prompt_ids)} tokens."
        raise ApiError("array_above_max_length", message, "candidates")
    ends_in_text = fields.messages is None or fields.messages[-1].role == "assistant"
    return tuple(
        _candidate(i, text, encode(text), prompt_ids if ends_in_text else [], model) for i, text in enumerate(given)
    )


def _candidate(index: int, text: str, ids: list[int], before: list[int], model: LanguageModel) -> LensCandidate:
    """By its tokens at the end of `ids`, which begin with `before`. Templates may strip spaces around it, and put words
    of their own before it."""
    ends = list(_ends(ids, text, model))
    exact = next((n for n, end in enumerate(ends, 1) if end == text), None)
    stripped = next((n for n, end in enumerate(ends, 1) if text.strip() and end.strip() == text.strip()), None)
    count = exact or stripped
    if count is None or ids[: len(before)] != before or len(ids) - count < len(before):
        raise ApiError(
            "invalid_value",
            f"candidates.{index} does not follow the prompt as tokens of its own; begin it where a token begins, "
            "usually with the space before a word.",
            f"candidates.{index}",
        )
    first = ids[len(ids) - count]
    return {"text": text, "token": token_text(model, first), "id": first, "num_tokens": count}


def _ends(ids: list[int], text: str, model: LanguageModel) -> Iterator[str]:
    """What the last token says, the last two, ..., as far as that may be `text`."""
    end, most = b"", len(text.encode()) + MAX_SPACES
    for token_id in reversed(ids):
        end = token_bytes(model, token_id) + end
        if len(end) > most:
            return
        yield end.decode(errors="replace")


def reply(call: LensCall, grid: Grid, model: LanguageModel) -> LensReply:
    """Many short strings: not for the event loop."""
    request, first = call.request, call.query.first
    told: LensReply = {
        "object": "steering.lens",
        "model": model.name,
        "system_fingerprint": call.system_fingerprint,
        "prompt_tokens": len(request.prompt_ids),
        "layers": [*map(_layer, call.query.lenses), {"layer": model.layout.num_layers, "lens": "output"}],
        "positions": [
            {
                "position": position,
                "token": token_text(model, request.prompt_ids[position]),
                "id": request.prompt_ids[position],
                "layers": [_cell(reading, model) for reading in readings],
            }
            for position, readings in enumerate(grid, first)
        ],
    }
    if call.profile is not None:
        told["profile"] = call.profile
    if call.candidates:
        told["candidates"] = list(call.candidates)
    return told


def _layer(lens: Lens) -> LensLayer:
    return {"layer": lens.layer, "lens": "tuned" if isinstance(lens, TunedLens) else "logit"}


def _cell(reading: LayerReading, model: LanguageModel) -> LensCell:
    if not (math.isfinite(reading.entropy) and math.isfinite(reading.kl)):
        raise NumericalError("what a layer says is NaN or infinite.")
    cell: LensCell = {
        "top": [(token_text(model, token_id), finite(value)) for token_id, value in reading.top],
        "entropy": reading.entropy,
        "kl": reading.kl,
    }
    if reading.candidates:
        cell["candidates"] = [finite(value) for value in reading.candidates]
    return cell
