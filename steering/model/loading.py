"""Load a causal language model and its tokenizer, or say in one line why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from steering.errors import UnsupportedModel
from steering.model.families import check_supported
from steering.model.fingerprint import fingerprint
from steering.model.layout import Layout, layout_of
from steering.model.vocabulary import vocabulary_of

BUNDLED = "unsway-organism"
"""Name of the model that ships with the package."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_BUNDLED_FOLDER = Path(__file__).parent.parent / "organism" / "weights"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


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

    @property
    def device(self) -> torch.device:
        device: torch.device = self.hf.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.hf.dtype
        return dtype


def load_model(
    path_or_id: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    name: str | None = None,
) -> LanguageModel:
    """Load a folder, a Hugging Face id (`org/name`) or `BUNDLED`. Raises `UnsupportedModel`.

    device: `auto` is cuda where there is one, else cpu; otherwise what torch calls it.
    dtype: `auto` is float32 on the CPU and the checkpoint's own elsewhere; or a key of `DTYPES`.
    No code of the checkpoint is ever run, and weights are read from safetensors alone.
    """
    target, torch_dtype = _device(device), _dtype(dtype)
    if torch_dtype is None and target.type == "cpu":
        torch_dtype = torch.float32
    with _one_line_errors(path_or_id), _quiet_transformers():
        folder = _folder(path_or_id, revision)
        _check_folder(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        hf, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch_dtype or "auto",
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            output_loading_info=True,
        )
        _check_report(report)
        return wrap(hf.to(target), tokenizer, name or _default_name(path_or_id))


def wrap(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> LanguageModel:
    """A model and a tokenizer that are already in memory.

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
    return LanguageModel(name, hf, tokenizer, layout, fingerprint(hf, tokenizer), _stop_ids(hf, tokenizer))


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


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them here
        raise UnsupportedModel(f"device {device!r} cannot be used: {_first_line(error)}") from error


def _dtype(dtype: str) -> torch.dtype | None:
    if dtype != "auto" and dtype not in DTYPES:
        raise UnsupportedModel(f"dtype must be auto, {', '.join(DTYPES)}; got {dtype!r}.")
    return DTYPES.get(dtype)


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


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UnsupportedModel("no config.json in this folder.")
    _check_config(folder / "config.json")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise UnsupportedModel(f"no weights in this folder (looked for {' and '.join(_WEIGHTS)}).")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UnsupportedModel("no tokenizer in this folder (looked for tokenizer.json and tokenizer.model).")


def _check_config(path: Path) -> None:
    """Refuses before any weight is read what could never be served."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"config.json is not JSON: {_first_line(error)}") from error
    if not isinstance(config, dict):
        raise UnsupportedModel("config.json does not hold an object.")
    check_supported(config)
    if "quantization_config" in config:
        raise UnsupportedModel("quantized checkpoints are not supported; use the original weights.")


@contextmanager
def _one_line_errors(path_or_id: str) -> Iterator[None]:
    """Whatever a checkpoint makes torch, safetensors or transformers raise is a fault of that checkpoint."""
    try:
        yield
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path_or_id}: {error}") from error
    except Exception as error:  # the set of classes differs by library version
        reason = f"{type(error).__name__}: {_first_line(error)}"
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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
