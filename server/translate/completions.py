"""A completion request of the wire -> requests of the engine, one per prompt."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from server.caller import Caller
from server.errors import ApiError
from server.request_json import parse
from server.schemas.completions import IGNORED_IN_COMPLETIONS, CompletionRequest
from server.serving import Served
from server.translate.call import (
    Call,
    Echo,
    answer_length,
    make_call,
    read_fields,
    resolve_steering,
    sampling_params,
    too_long,
)
from server.translate.steering import Resolved
from steering.engine.detokenizer import Detokenizer
from steering.engine.request import Request
from steering.engine.spans import SpanReader
from steering.model.text import encode_text
from steering.plan import Mode

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""
MAX_CHOICES = 128
"""Prompts times n."""


@dataclass(frozen=True)
class _Prompt:
    param: str
    """Its path in the body."""
    ids: tuple[int, ...]
    echo: Echo


def prepare(body: bytes, headers: Sequence[str], served: Served, default_mode: Mode, caller: Caller) -> Call:
    """Parses, validates, resolves the steering, encodes the prompts; raises before any work is done.

    headers: values of `X-Steering-Profile`. CPU-bound: not for the event loop.
    """
    fields, ignored = _validate(parse(body))
    resolved = resolve_steering(fields, headers, served, default_mode, caller)
    given = list(_given(fields))
    _check_number(fields, len(given), served)
    prompts = [_prompt(param, prompt, served) for param, prompt in given]
    requests = [_request(fields, prompt, resolved, served) for prompt in prompts]
    call = make_call(fields, requests, resolved, served, ignored)
    if not fields.echo:
        return call
    return replace(call, echoes={r.id: prompt.echo for r, prompt in zip(requests, prompts, strict=True)})


def _validate(body: object) -> tuple[CompletionRequest, list[str]]:
    """Also refuses what is well-formed, but not what this server does, or not together."""
    fields, ignored = read_fields(CompletionRequest, body, IGNORED_IN_COMPLETIONS)
    if fields.suffix:
        raise ApiError("unsupported_parameter", "suffix is not supported: nothing is filled in.", "suffix")
    if fields.best_of not in (None, fields.n or 1):
        raise ApiError("unsupported_parameter", "best_of is not supported other than equal to n.", "best_of")
    if fields.max_tokens == 0 and not fields.echo:
        raise ApiError("invalid_value", "max_tokens 0 is only allowed with echo: true.", "max_tokens")
    return fields, ignored


def _given(fields: CompletionRequest) -> Iterator[tuple[str, str | list[int]]]:
    """Prompts, each with its path in the body."""
    prompt = fields.prompt
    if isinstance(prompt, str):
        yield "prompt", prompt
        return
    items: list[str | int | list[int]] = [*prompt]
    ids = [item for item in items if isinstance(item, int)]
    if ids:  # the schema lets no mixture through
        yield "prompt", ids
    yield from ((f"prompt.{i}", item) for i, item in enumerate(items) if not isinstance(item, int))


def _check_number(fields: CompletionRequest, num_prompts: int, served: Served) -> None:
    n, queue = fields.n or 1, served.engine.config.queue
    if num_prompts * n > MAX_CHOICES:
        message = f"{num_prompts} prompts times n = {n} are more than {MAX_CHOICES} answers."
        raise ApiError("integer_above_max_value", message, "n")
    if num_prompts > queue:
        message = f"prompt must have at most {queue} items on this server (got {num_prompts})."
        raise ApiError("array_above_max_length", message, "prompt")


def _prompt(param: str, prompt: str | list[int], served: Served) -> _Prompt:
    """What is far too long is refused without encoding it."""
    model, context, V = served.model, served.engine.context, served.model.layout.vocab_size
    least = len(prompt.encode()) // served.longest_token if isinstance(prompt, str) else len(prompt)
    if least > context:
        raise too_long(context, f"at least {least}", param)
    if isinstance(prompt, str):
        ids, starts = encode_text(model, prompt)
        echo = Echo(prompt, tuple(starts))
    else:
        for i, token_id in enumerate(prompt):
            if not 0 <= token_id < V:
                where = f"{param}.{i}"
                raise ApiError("invalid_value", f"{where}: token ids are 0 to {V - 1} (got {token_id}).", where)
        ids, echo = prompt, _spell(prompt, served)
    if not ids:
        raise ApiError("invalid_value", f"{param} must have at least one token.", param)
    return _Prompt(param, tuple(ids), echo)


def _spell(ids: Sequence[int], served: Served) -> Echo:
    """Token ids as text; control tokens are no part of it."""
    detokenizer, text, starts = Detokenizer(served.model.tokenizer, ()), "", list[int]()
    for token_id in ids:
        starts.append(len(text))
        text += detokenizer.push(token_id)[0]
    return Echo(text + detokenizer.flush(), tuple(starts))


def _request(fields: CompletionRequest, prompt: _Prompt, resolved: Resolved, served: Served) -> Request:
    limits = (prompt.param, "max_tokens")
    max_tokens = answer_length(fields.max_tokens, DEFAULT_MAX_TOKENS, len(prompt.ids), served.engine.context, limits)
    logprobs = 0 if fields.logprobs is None and resolved.plan.trace == "tokens" else fields.logprobs
    scored = fields.echo and (logprobs is not None or max_tokens == 0)
    return Request(
        id=f"cmpl-{uuid.uuid4().hex}",
        prompt_ids=prompt.ids,
        sampling=sampling_params(fields, served, max_tokens, logprobs, (logprobs or 0) if scored else None),
        plan=resolved.plan,
        n=fields.n or 1,
        compare=resolved.compare,
        continues=prompt.echo.text != "",
        spans=SpanReader(served.model.tokenizer, prompt.ids) if resolved.plan.exempt else None,
    )
