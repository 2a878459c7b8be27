"""Taps: where corrections touch a running forward. The runtime alone adds: h[n] += c[n] * delta(h[n])."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steering.edit import Edit
from steering.model.layout import Layout
from steering.model.weights import WeightDose
from steering.site import Component, Site


@dataclass(frozen=True, eq=False)
class Dose:
    """An edit at one site and the packed tokens that get it."""

    edit: Edit
    """The same for all these tokens, or stacked: one for each."""
    c: Tensor
    """[R, 1] strength * gate * scope, none 0"""
    rows: Tensor | None = None
    """[R] which tokens, each once; None: all of them."""

    def add(self, h: Tensor, to: Tensor) -> Tensor:
        """`to` [N, W] with c * delta(h) added in its rows; all others keep every bit. Nothing is written in place."""
        if self.rows is None:
            return to + self.c * self.edit.delta(h)
        mine = h[self.rows]
        before = mine if to is h else to[self.rows]
        return to.index_copy(0, self.rows, before + self.c * self.edit.delta(mine))


class Taps:
    """What one forward corrects, and which early states it keeps for the lens."""

    def __init__(
        self,
        doses: Mapping[Site, Sequence[Dose]],
        capture: frozenset[int] = frozenset(),
        weights: Mapping[nn.Linear, Sequence[WeightDose]] | None = None,
    ) -> None:
        """doses: of each site, in the order in which they are summed; capture: lens layers i, 0..L-1, whose
        hidden_states[i] (what block i receives) are kept."""
        self._doses = {(site.component, site.layer): tuple(entries) for site, entries in doses.items()}
        self.capture = capture
        self.captured: dict[int, Tensor] = {}
        """lens layer -> [N, D]"""
        self.weights = weights or {}
        """linear -> changes of its weight that some rows carry"""

    def apply(self, component: Component, layer: int, h: Tensor) -> Tensor:
        """[1, N, W] -> [1, N, W]. Rows without a dose come back bit for bit."""
        doses = self._doses.get((component, layer))
        if doses is None:
            return h
        before = after = h[0]
        for dose in doses:  # every delta from the same h, then summed
            after = dose.add(before, after)
        return after[None]

    @property
    def inside_blocks(self) -> bool:
        """Whether anything is corrected or kept elsewhere than at `attn_z`."""
        return bool(self.capture) or any(component != "attn_z" for component, _ in self._doses)

    def keep(self, layer: int, h: Tensor) -> None:
        """Remembers hidden_states[layer], [1, N, D], if a lens reads it."""
        if layer in self.capture:
            self.captured[layer] = h[0]


class TapHooks:
    """Hooks on the blocks and MLP outputs of one model; they read the taps of the forward under way."""

    def __init__(self, layout: Layout) -> None:
        self._current: Taps | None = None
        self._handles = [
            *(block.register_forward_hook(self._block_hook(layer)) for layer, block in enumerate(layout.blocks)),
            *(
                mlp_output.register_forward_pre_hook(self._mlp_hook(layer))
                for layer, mlp_output in enumerate(layout.mlp_outputs)
                if mlp_output is not None
            ),
        ]

    @contextmanager
    def scope(self, taps: Taps) -> Iterator[None]:
        """Makes `taps` the current ones for one forward; refuses nesting."""
        if self._current is not None:
            raise RuntimeError("a forward is already under way")
        self._current = taps
        # Seven linears a block, and few of them ever patched: hooked only for the forwards that need it.
        handles = [linear.register_forward_hook(_weight_hook(doses)) for linear, doses in taps.weights.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._current = None

    def remove(self) -> None:
        """Takes the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()

    def _mlp_hook(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            return None if self._current is None else (self._current.apply("mlp_act", layer, args[0]),)

        return hook

    def _block_hook(self, layer: int) -> Any:
        # transformers 5 returns a bare tensor from a decoder layer, not a tuple.
        def hook(module: nn.Module, args: tuple[Tensor, ...], h: Tensor) -> Tensor | None:
            if self._current is None:
                return None
            if layer == 0:
                self._current.keep(0, args[0])
            h = self._current.apply("resid_post", layer, h)
            self._current.keep(layer + 1, h)
            return h

        return hook


def _weight_hook(doses: Sequence[WeightDose]) -> Any:
    """Every delta is of the same input, and they are summed."""

    def hook(module: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
        for dose in doses:
            dose.apply(args[0][0], y[0])

    return hook
