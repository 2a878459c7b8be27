"""Load a causal language model and its tokenizer, or say in one line why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from steering.errors import UnsupportedModel, first_line
from steering.model.checkpoint import INDEX, WEIGHTS, named, stored_tensors
from steering.model.families import check_supported
from steering.model.fingerprint import fingerprint
from steering.model.layout import Layout, layout_of
from steering.model.placement import check_offload, place
from steering.model.quantize import check_quantized, stored_scheme
from steering.model.vocabulary import vocabulary_of

BUNDLED = "unsway-organism"
"""Name of the model that ships with the package."""

_BUNDLED_FOLDER = Path(__file__).parent.parent / "organism" / "weights"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A loaded model with everything the engine and the packs ask of it."""

    name: str
    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    layout: Layout
    fingerprint: str
    """`sha256:<hex>` of architecture, weights and tokenizer."""
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    quantized: str | None = None
    """Scheme of its linears (`steering.model.quantize`), None where they are as they were trained."""

    @cached_property  # transformers walks through all modules for either
    def device(self) -> torch.device:
        """Of the embedding. Ids go in here, and all tensors of plans are here; blocks may be elsewhere."""
        device: torch.device = self.hf.device
        return device

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of activations."""
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def nbytes(self) -> int:
        """Of the weights."""
        return sum(weight.nbytes for weight in self.hf.parameters())


def load_model(  # noqa: PLR0913 - one for each setting of a server
    path_or_id: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    name: str | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
) -> LanguageModel:
    """Load a folder, a Hugging Face id (`org/name`) or `BUNDLED`. Raises `UnsupportedModel`.

    device: `auto` is cuda where there is one, else cpu; otherwise what torch calls it.
    dtype: `auto` is float32 on the CPU and the checkpoint's own elsewhere; or float32, bfloat16, float16.
    quantize: in which scheme (`steering.model.quantize`) to hold linears that are stored unquantised.
    device_map: spreads the blocks over several GPUs, instead of one device (`steering.model.placement`).
    No code of the checkpoint is ever run, and weights are read from safetensors alone.
    """
    placement = place(device, dtype, quantize, device_map)
    with _one_line_errors(path_or_id), _quiet_transformers():
        folder = _folder(path_or_id, revision)
        config = _check_folder(folder)
        options = placement.options(config)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        hf, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=placement.dtype or "auto",
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            output_loading_info=True,
            **options,
        )
        _check_report(report)
        check_offload(hf)
        stored = stored_scheme(config)
        weights = _named_weights(folder, hf, stored) if quantize or stored else None
        hf = hf if options else hf.to(placement.device)
        model = wrap(hf, tokenizer, name or _default_name(path_or_id), weights)
        return replace(model, quantized=quantize or stored)


def _named_weights(folder: Path, hf: PreTrainedModel, stored: str | None) -> dict[str, Tensor]:
    """What the fingerprint of a quantised model names: all that the checkpoint stores where it is stored quantised,
    else the weights as they were before."""
    check_quantized(hf)
    tensors = stored_tensors(folder)
    return tensors if stored else named(tensors, [name for name, _ in hf.named_parameters()])


def wrap(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    weights: Mapping[str, Tensor] | None = None,
) -> LanguageModel:
    """A model and a tokenizer that are already in memory. weights: what its fingerprint names (`fingerprint`).

    Puts `hf` in eval mode without gradients, and rids the tokenizer of a truncation or padding it was saved with.
    """
    layout = layout_of(hf)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(f"tokenizer {type(tokenizer).__name__} is not backed by the tokenizers library.")
    vocabulary_of(tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    rows, highest = hf.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UnsupportedModel(f"tokenizer has ids up to {highest}, but the model embeds only {rows} tokens.")
    hf.eval().requires_grad_(False)
    return LanguageModel(name, hf, tokenizer, layout, fingerprint(hf, tokenizer, weights), _stop_ids(hf, tokenizer))


def _check_report(report: Mapping[str, Any]) -> None:
    """Transformers fills what it did not find with random values, and drops what it does not know; we refuse."""
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModel(f"weights lack {len(missing)} tensors the config asks for, as {missing[0]}.")
    if unexpected := sorted(report["unexpected_keys"]):
        raise UnsupportedModel(f"weights hold {len(unexpected)} tensors the config has no use for, as {unexpected[0]}.")
    if mismatched := sorted(report["mismatched_keys"]):
        key, found, expected = mismatched[0]
        raise UnsupportedModel(f"{key} is {list(found)} in the weights, {list(expected)} by the config.")


def _stop_ids(hf: Any, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    configured = getattr(hf.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def _default_name(path_or_id: str) -> str:
    folder = Path(path_or_id).expanduser()
    return folder.resolve().name if folder.is_dir() else path_or_id


def _folder(path_or_id: str, revision: str | None) -> Path:
    """The local folder of a model; from the hub, its config first: no weights of what we cannot serve."""
    path = _BUNDLED_FOLDER if path_or_id == BUNDLED else Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path_or_id == BUNDLED:
        raise UnsupportedModel("the bundled weights are not part of this installation.")
    if path.exists():
        raise UnsupportedModel("a file; expected the folder that holds config.json.")
    if not _HUB_ID.fullmatch(path_or_id):
        raise UnsupportedModel("no such folder, and not a Hugging Face id (these read org/name).")
    try:
        _check_config(Path(hf_hub_download(path_or_id, "config.json", revision=revision)))
        here_only = ["*/*"]  # nothing from subfolders: other formats of the same weights
        return Path(
            snapshot_download(path_or_id, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=here_only)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = f"no such folder, and the Hugging Face hub did not give it ({type(error).__name__})"
        raise UnsupportedModel(f"{reason}: offline, misspelt, gated or private?") from error


def _check_folder(folder: Path) -> dict[str, Any]:
    """Returns config.json."""
    if not (folder / "config.json").is_file():
        raise UnsupportedModel("no config.json in this folder.")
    config = _check_config(folder / "config.json")
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise UnsupportedModel(f"no weights in this folder (looked for {WEIGHTS} and {INDEX}).")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UnsupportedModel("no tokenizer in this folder (looked for tokenizer.json and tokenizer.model).")
    return config


def _check_config(path: Path) -> dict[str, Any]:
    """Refuses before any weight is read what could never be served; returns what the file holds."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"config.json is not JSON: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise UnsupportedModel("config.json does not hold an object.")
    check_supported(config)
    stored_scheme(config)
    return config


@contextmanager
def _one_line_errors(path_or_id: str) -> Iterator[None]:
    """Whatever a checkpoint makes torch, safetensors or transformers raise is a fault of that checkpoint."""
    try:
        yield
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path_or_id}: {error}") from error
    except Exception as error:  # the set of classes differs by library version
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnsupportedModel(f"{path_or_id}: cannot be loaded ({reason})") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No load reports or bars on the console; what they tell we check and raise."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
