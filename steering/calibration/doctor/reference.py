"""The other side: the same model traced by nnsight and read by tuned-lens, through none of our hooks or layouts.

Both packages change the interpreter they are imported into (nnsight patches glibc's backtrace and would mount `.save`
on every object; tuned-lens is told about families it does not know): never import this into a process that serves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steering.calibration.doctor.ours import Dosed, States
from steering.calibration.doctor.probe import Prompt
from steering.edit import Edit, Project, Scale, Set, Shift
from steering.errors import UnsupportedModel
from steering.model.loading import LanguageModel
from steering.site import Component

EXTRA = 'pip install "unsway[calibrate]"'
_PROJECTIONS: dict[Component, str] = {"attn_z": "self_attn.o_proj", "mlp_act": "mlp.down_proj"}
"""Component -> the linear of a block whose input it is. Written down here a second time on purpose."""


class MissingExtra(UnsupportedModel):
    """The packages that the doctor compares with are not installed."""


def import_references() -> tuple[Any, Any]:
    """(nnsight, tuned_lens), nnsight told not to mount `.save` on every object. Raises `MissingExtra`."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nnsight.yaml"
        config.write_text("APP: {PYMOUNT: false}\n")
        before = os.environ.get("NNSIGHT_CONFIG")
        os.environ["NNSIGHT_CONFIG"] = str(config)
        try:
            import nnsight
            import tuned_lens.model_surgery
            import tuned_lens.nn.lenses
            import tuned_lens.nn.unembed
        except ImportError as error:
            raise MissingExtra(f"the doctor compares with nnsight and tuned-lens ({error}): {EXTRA}") from error
        finally:
            if before is None:
                del os.environ["NNSIGHT_CONFIG"]
            else:
                os.environ["NNSIGHT_CONFIG"] = before
    return nnsight, tuned_lens


class Reference:
    """One stock model under eager attention, one prompt at a time.

    Modules are found by their names in the model, not by our layout, which is one of the things examined.
    """

    def __init__(self, model: LanguageModel) -> None:
        nnsight, self._tuned_lens = import_references()
        self._hf, self._device = model.hf, model.device
        self._save, self._traced = nnsight.save, nnsight.NNsight(model.hf)
        self._base = _base_name(model.hf)
        self._blocks = [self._envoy(f"{self._base}.layers.{i}") for i in range(model.hf.config.num_hidden_layers)]
        norm = model.hf.get_submodule(f"{self._base}.norm")
        self._unembed = _lens_unembed(self._tuned_lens, model.hf, norm)

    def _envoy(self, path: str) -> Any:
        """nnsight's handle of a module; None if there is none of that name."""
        try:
            self._hf.get_submodule(path)
        except AttributeError:
            return None
        envoy = self._traced
        for part in path.split("."):
            envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
        return envoy

    def _projections(self, component: Component) -> dict[int, Any]:
        """Block -> the linear that reads the site; mixtures of experts have none at mlp_act."""
        paths = {i: f"{self._base}.layers.{i}.{_PROJECTIONS[component]}" for i in range(len(self._blocks))}
        return {i: envoy for i, path in paths.items() if (envoy := self._envoy(path)) is not None}

    # nnsight runs the body of a `with trace` block while the model runs: modules must be named in their order, and
    # only what is saved comes out of it.

    @torch.no_grad()
    def states(self, prompt: Prompt) -> tuple[States, Tensor]:
        """What the sites hold, and the logits [T, V]."""
        save, traced, blocks, ids = self._save, self._traced, self._blocks, self._ids(prompt)
        o_projs, down_projs = self._projections("attn_z"), self._projections("mlp_act")
        with _plain(self._hf), traced.trace(input_ids=ids, use_cache=False):
            hidden, z, act = save([]), save({}), save({})
            hidden.append(blocks[0].input)
            for layer, block in enumerate(blocks):
                z[layer] = o_projs[layer].input[0].clone()
                if layer in down_projs:
                    act[layer] = down_projs[layer].input[0].clone()
                hidden.append(block.output)
            logits = save(traced.output.logits[0])
        states = tuple(h[0] for h in hidden)
        return States(states, {"resid_post": dict(enumerate(states[1:])), "attn_z": z, "mlp_act": act}), logits

    @torch.no_grad()
    def edited_logits(self, prompt: Prompt, dosed: Dosed) -> Tensor:
        """[V] at the last position, with the edit at every position."""
        save, traced, ids = self._save, self._traced, self._ids(prompt)
        site, edit, c = dosed.site, dosed.edit, dosed.c
        block = self._blocks[site.layer]
        linear = None if site.component == "resid_post" else self._projections(site.component)[site.layer]
        with _plain(self._hf), traced.trace(input_ids=ids, use_cache=False):
            if linear is None:
                block.output = block.output + c * _delta(edit, block.output)
            else:
                linear.input = linear.input + c * _delta(edit, linear.input)
            logits: Tensor = save(traced.output.logits[0, -1])
        return logits

    @torch.no_grad()
    def greedy(self, prompt: Prompt, max_tokens: int) -> tuple[list[int], Tensor]:
        """(`max_tokens` tokens, logits [max_tokens, V] they were drawn from); nothing stops it."""
        ids = self._ids(prompt)
        with _plain(self._hf):
            output = self._hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return output.sequences[0, ids.shape[1] :].tolist(), torch.cat(output.logits)

    @torch.no_grad()
    def logit_lens(self, h: Tensor, layer: int) -> Tensor:
        """[T, D] at hidden_states[layer] -> [T, V]."""
        logits: Tensor = self._tuned_lens.nn.lenses.LogitLens(self._unembed)(h, layer)
        return logits

    @torch.no_grad()
    def tuned_lenses(self, states: Sequence[Tensor], translators: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """hidden_states[0..L-1] [T, D] -> [T, V] each, through the package's own class with these translators."""
        lenses, D = self._tuned_lens.nn.lenses, states[0].shape[-1]
        config = lenses.TunedLensConfig(base_model_name_or_path="", d_model=D, num_hidden_layers=len(states))
        lens = lenses.TunedLens(self._unembed, config).to(self._device)
        for linear, (weight, bias) in zip(lens.layer_translators, translators, strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return [lens(h, layer) for layer, h in enumerate(states)]

    def _ids(self, prompt: Prompt) -> Tensor:
        return torch.tensor([prompt.ids], device=self._device)


def _lens_unembed(tuned_lens: Any, hf: Any, norm: nn.Module) -> nn.Module:
    """tuned-lens' own unembedding, told where the final norm is, with the final soft-cap that it does not know."""
    tuned_lens.model_surgery.get_final_norm = lambda model: norm
    softcap: float | None = getattr(hf.config, "final_logit_softcapping", None)

    class Unembed(tuned_lens.nn.unembed.Unembed):  # type: ignore[misc]
        def forward(self, h: Tensor) -> Tensor:
            logits: Tensor = super().forward(h)
            return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return Unembed(hf)


def _base_name(hf: nn.Module) -> str:
    """Path of the module that holds the blocks (`layers`) and the final norm."""
    name: str
    for name, module in hf.named_modules():
        if isinstance(getattr(module, "layers", None), nn.ModuleList) and hasattr(module, "norm"):
            return name
    raise UnsupportedModel(
        f"{type(hf).__name__} has no list of blocks beside a final norm: the doctor does not know it."
    )


def _delta(edit: Edit, h: Tensor) -> Tensor:
    """METHODS' four deltas, written a second time: this side shares no arithmetic with ours."""
    match edit:
        case Set(target, mask):
            return (target - h) * mask
        case Scale(factor):
            return factor * h - h
        case Shift(vector):
            return torch.zeros_like(h) + vector
        case Project(basis):
            return -torch.einsum("btw,kw,kv->btv", h, basis, basis)


@contextmanager
def _plain(hf: Any) -> Iterator[None]:
    """Eager attention (other kernels drop a soft-cap or depend on shapes), and none of the model's own generation
    settings, which may hold penalties and stop tokens."""
    attention, generation = hf.config._attn_implementation, hf.generation_config
    hf.set_attn_implementation("eager")
    hf.generation_config = type(generation)(pad_token_id=0)
    try:
        yield
    finally:
        hf.set_attn_implementation(attention)
        hf.generation_config = generation
