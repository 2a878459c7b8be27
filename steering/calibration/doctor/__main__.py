"""`python -m steering.calibration.doctor MODEL`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from steering.calibration.doctor import run_doctor


def doctor(
    model: str,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> None:
    """Compare what this engine sees and does in MODEL with what nnsight and tuned-lens see and do."""
    sys.exit(run_doctor(model, as_json=as_json, device=device, dtype=dtype, revision=revision))


if __name__ == "__main__":
    typer.run(doctor)
