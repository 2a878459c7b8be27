"""The base model compiled: one graph for steps of any number of tokens, in which attention and taps are opaque.

To the compiler a step is one object that it passes on and never looks into; keys and values, spans, chunks, gates and
doses are behind it. So nothing that a request brings can ask for another graph, and nothing is guarded or compiled
again once the model is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._dynamo.decorators import mark_unbacked
from torch._library.opaque_object import register_opaque_type
from torch._opaque_base import OpaqueBase
from transformers import AttentionInterface, PreTrainedModel

from steering.model.attention import PackedChunk, SlotKV, Step, attend_slots
from steering.model.hooks import Taps
from steering.model.layout import Layout
from steering.model.linears import PackedLinear
from steering.site import Component

NAME = "unsway_slots_compiled"
TRACED_TOKENS = 5
"""Of the step it is compiled with; any number of at least two would do."""
PROBED_TOKENS = (1, 8, 32)
ROUNDS = 7


class StepHandle(OpaqueBase):
    """A step, as the compiler sees it."""

    def __init__(self, step: Step) -> None:
        self.step = step


class LinearHandle(OpaqueBase):
    """A packed linear, as the compiler sees it."""

    def __init__(self, linear: PackedLinear) -> None:
        self.linear = linear


for _kind in (StepHandle, LinearHandle):
    register_opaque_type(_kind, typ="reference")


@torch.library.custom_op("unsway::linear", mutates_args=())
def _linear(x: Tensor, handle: LinearHandle, out_features: int) -> Tensor:
    y: Tensor = handle.linear(x)
    return y


@_linear.register_fake
def _(x: Tensor, handle: LinearHandle, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


@torch.library.custom_op("unsway::attend", mutates_args=())
def _attend(  # noqa: PLR0913 - what slot attention needs of its module, besides q, k and v
    query: Tensor,
    key: Tensor,
    value: Tensor,
    handle: StepHandle,
    layer: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    qkv = query, key, value
    return attend_slots(handle.step, layer, qkv, scaling=scaling, window=window, softcap=softcap)


@_attend.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    H, N, K = query.shape[1:]
    return query.new_empty(1, N, H, K)


@torch.library.custom_op("unsway::tap", mutates_args=("h",))
def _tap(h: Tensor, handle: StepHandle, component: str, layer: int) -> None:
    """Corrects `h` [1, N, W] in place, and keeps what a lens reads of it."""
    taps = handle.step.taps
    corrected = taps.apply(cast("Component", component), layer, h)
    if corrected is not h:
        h.copy_(corrected)
    if component == "resid_post":
        _keep_copy(taps, layer + 1, h)


@torch.library.custom_op("unsway::keep_embeddings", mutates_args=("h",))
def _keep_embeddings(h: Tensor, handle: StepHandle) -> None:
    """[1, N, D], if a lens reads them. Nothing is changed, but an operator without effect would be dropped."""
    _keep_copy(handle.step.taps, 0, h)


def _keep_copy(taps: Taps, layer: int, h: Tensor) -> None:
    """The compiler writes other states over `h` as soon as it has no more use for it."""
    if layer in taps.capture:
        taps.keep(layer, h.clone())


def _compiled_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As `slot_attention`, with the handle of a step for the step."""
    window, softcap = options.get("sliding_window"), options.get("softcap")
    z = _attend(query, key, value, options["steer"], module.layer_idx, options["scaling"], window, softcap)
    return z, None


AttentionInterface.register(NAME, _compiled_attention)


class CompiledBase:
    """Embeddings, blocks and final norm of one model: plain, and with a tap at each site inside its blocks."""

    def __init__(self, hf: PreTrainedModel, layout: Layout, device: torch.device) -> None:
        """Compiles: seconds a block where nothing is in torch's cache yet. Raises whatever the compiler does."""
        self._base, self._device = layout.base, device
        self._scratch = SlotKV(
            slots=1, shape=(max(PROBED_TOKENS), layout.num_groups, layout.head_dim), dtype=hf.dtype,
            devices=layout.devices,
        )  # fmt: skip
        self._handle: StepHandle | None = None
        for linear in hf.modules():
            if isinstance(linear, PackedLinear):
                linear.handle = LinearHandle(linear)
        before = hf.config._attn_implementation
        hf.set_attn_implementation(NAME)
        try:
            self._plain = self._compile()
            with self._tapping(layout):
                self._tapped = self._compile()
        finally:
            hf.set_attn_implementation(before)

    def __call__(self, packed: Tensor, step: Step) -> Tensor:
        """packed: [2, N] token ids and positions -> [1, N, D] after the final norm."""
        forward = self._tapped if step.taps.inside_blocks else self._plain
        self._handle = StepHandle(step)
        try:
            return forward(packed, self._handle)
        finally:
            self._handle = None

    def speedups(self, eager: Callable[[Tensor, Step], Tensor]) -> list[float]:
        """Speed of this over `eager` at each of `PROBED_TOKENS`: best times of alternating rounds."""
        ratios = []
        for num_tokens in PROBED_TOKENS:
            times = [(self._seconds(eager, num_tokens), self._seconds(self, num_tokens)) for _ in range(ROUNDS)]
            slow, quick = (min(side) for side in zip(*times, strict=True))
            ratios.append(slow / quick)
        return ratios

    def _compile(self) -> Callable[[Tensor, StepHandle], Tensor]:
        """Traced at once, while the hooks and the attention that it is to have are in place."""

        def forward(packed: Tensor, handle: StepHandle) -> Tensor:
            # One tensor for both, so that the compiler knows them to be equally long.
            states: Tensor = self._base(
                input_ids=packed[:1], position_ids=packed[1:], use_cache=False, steer=handle
            ).last_hidden_state
            return states

        # What is compiled is kept by code object, unguarded: another trace of these lines needs one of its own.
        forward.__code__ = forward.__code__.replace()
        compiled = torch.compile(forward, options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe})
        packed, step = self._traced_step(TRACED_TOKENS)
        mark_unbacked(packed, 1)
        self._handle = StepHandle(step)
        compiled(packed, self._handle)
        return compiled

    @contextmanager
    def _tapping(self, layout: Layout) -> Iterator[None]:
        """Hooks that a trace takes in; the eager ones are still there, and do nothing without taps."""

        def at_block(layer: int) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...], h: Tensor) -> None:
                _tap(h, self._handle, "resid_post", layer)

            return hook

        def at_mlp(layer: int) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                _tap(args[0], self._handle, "mlp_act", layer)

            return hook

        def at_embeddings(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            _keep_embeddings(args[0], self._handle)

        handles = [layout.blocks[0].register_forward_pre_hook(at_embeddings)]
        for layer, (block, mlp) in enumerate(zip(layout.blocks, layout.mlp_outputs, strict=True)):
            handles.append(block.register_forward_hook(at_block(layer)))
            if mlp is not None:
                handles.append(mlp.register_forward_pre_hook(at_mlp(layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _traced_step(self, num_tokens: int) -> tuple[Tensor, Step]:
        """A prompt of its own, in a slot of its own."""
        packed = torch.arange(num_tokens, device=self._device).expand(2, -1).contiguous()
        chunk = PackedChunk(self._scratch, slot=0, first=0, start=0, length=num_tokens)
        return packed, Step([], [chunk], Taps({}), self._device)

    def _seconds(self, forward: Callable[[Tensor, Step], Tensor], num_tokens: int) -> float:
        packed, step = self._traced_step(num_tokens)
        start = time.perf_counter()
        forward(packed, step)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - start
