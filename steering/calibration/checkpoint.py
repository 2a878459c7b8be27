"""Checkpoint: the state of a training, from which an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from steering.errors import CalibrationError


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the last one as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    torch.save(dict(state), new)
    new.replace(path)


@contextmanager
def checkpoint_read(path: Path, error: type[CalibrationError] = CalibrationError) -> Iterator[Any]:
    """Its state, to be put back into place. Raises `error` if the file is broken, or the state does not fit."""
    try:
        yield torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, UnpicklingError) as broken:
        raise error(f"{path} cannot be read ({type(broken).__name__}); delete it.") from broken
