"""Admission: refuses what could never run, since a step that fails takes all its requests along."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import Tensor

from steering.correction import Correction, WeightCorrection
from steering.edit import LayerContrast, Project
from steering.engine.request import Request
from steering.errors import ContextLengthExceeded, InvalidRequest, LayerOutOfRange
from steering.lens import Lens, TunedLens
from steering.model.loading import LanguageModel


def check_request(request: Request, model: LanguageModel, context: int) -> None:
    """Raises `ContextLengthExceeded` or another `InvalidRequest`."""
    num_prompt, max_tokens, V = len(request.prompt_ids), request.sampling.max_tokens, model.layout.vocab_size
    if not num_prompt:
        raise InvalidRequest("the prompt is empty.", param="messages")
    if not all(0 <= i < V for i in request.prompt_ids):
        raise InvalidRequest("the prompt has a token id outside the model's vocabulary.", param="messages")
    check_ids("logit_bias", (i for i, _ in request.sampling.logit_bias), V)
    check_ids("stop_token_ids", request.sampling.stop_token_ids, V)
    check_ids("forced", request.sampling.forced, V)
    if num_prompt + max_tokens > context:
        raise ContextLengthExceeded(
            f"The context is {context} tokens; the prompt has {num_prompt} and max_tokens is "
            f"{max_tokens}, {num_prompt + max_tokens} in all.",
            param="max_tokens" if num_prompt < context else "messages",
        )
    for correction in request.plan.corrections:
        _check_correction(correction, model)
    for change in request.plan.weight_corrections:
        _check_weights(change, model)
    for contrast in request.plan.logit_corrections:
        if isinstance(contrast.edit, LayerContrast):
            _check_layer(contrast.edit.bucket[-1], model)
    _check_lenses(request, model)


def check_ids(param: str, ids: Iterable[int], vocab_size: int) -> None:
    """vocab_size: width of the logits, not of the tokenizer, which may know more."""
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(f"{param}: token ids are 0 to {vocab_size - 1} (got {token_id}).", param=param)


def _check_correction(correction: Correction, model: LanguageModel) -> None:
    model.layout.check_site(correction.site)
    W = model.layout.width(correction.site.component)
    edit = correction.edit
    for field in fields(edit):
        tensor = getattr(edit, field.name)
        shape = (len(tensor), W) if isinstance(edit, Project) else (W,)
        dtype = torch.bool if field.name == "mask" else model.dtype
        _check_tensor(tensor, shape, dtype, f"correction {correction.name}: {field.name}", model)


def _check_weights(correction: WeightCorrection, model: LanguageModel) -> None:
    edit, layout = correction.edit, model.layout
    layout.check_units(edit.units)
    shape = layout.num_deltas(edit.units), layout.d_model
    _check_tensor(edit.deltas, shape, model.dtype, f"correction {correction.name}: deltas", model)


def _check_lenses(request: Request, model: LanguageModel) -> None:
    if request.plan.detector is not None:
        _check_lens(request.plan.detector.lens, model)
    if request.lens is not None:
        check_ids("candidates", request.lens.candidates, model.layout.vocab_size)
        for lens in request.lens.lenses:
            _check_lens(lens, model)


def _check_lens(lens: Lens, model: LanguageModel) -> None:
    _check_layer(lens.layer, model)
    if isinstance(lens, TunedLens):
        D = model.layout.d_model
        _check_tensor(lens.weight, (D, D), model.dtype, "lens: weight", model)
        _check_tensor(lens.bias, (D,), model.dtype, "lens: bias", model)


def _check_layer(layer: int, model: LanguageModel) -> None:
    L = model.layout.num_layers
    if not 0 <= layer < L:
        raise LayerOutOfRange(f"lens layer {layer} is out of range 0..{L - 1} for this model.", param="steering")


def _check_tensor(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str, model: LanguageModel) -> None:
    got = (tuple(tensor.shape), tensor.dtype, tensor.device)
    if got != (shape, dtype, model.device):
        expected = f"{list(shape)} of {dtype} on {model.device}"
        raise InvalidRequest(
            f"{name} must be {expected}, got {list(tensor.shape)} of {tensor.dtype} on {tensor.device}.",
            param="steering",
        )
