"""`python -m steering.calibration.doctor MODEL`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from steering.calibration.doctor import run_doctor
from steering.model.quiet import quiet_optional_packages


def doctor(  # noqa: PLR0913 - options of a command
    model: str,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
) -> None:
    """Compare what this engine sees and does in MODEL with what nnsight and tuned-lens see and do."""
    quiet_optional_packages()
    code = run_doctor(
        model,
        json=json,
        device=device,
        dtype=dtype,
        revision=revision,
        quantize=quantize,
        device_map=device_map,
    )
    sys.exit(code)


if __name__ == "__main__":
    typer.run(doctor)
