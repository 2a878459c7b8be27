"""Doctor: what this engine sees and does in a model, beside what nnsight and tuned-lens see and do there."""

from __future__ import annotations

import sys


def run_doctor(  # noqa: PLR0913 - one for each setting of a server
    model: str,
    *,
    json: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    quantize: str | None = None,
    device_map: str | None = None,
) -> int:
    """Examines a model and prints what was found; in float32 a fault stands out from rounding best.

    Returns the exit code: 0 the sides agree, 1 a check failed (named), 2 the model or the extra `calibrate` cannot be
    used (one line on stderr). Only in a process of its own: the packages compared with change the interpreter.
    """
    from rich.console import Console

    from steering.calibration.doctor.examine import examine
    from steering.calibration.doctor.report import print_report, to_json
    from steering.errors import UnsupportedModel
    from steering.model.loading import load_model

    try:
        loaded = load_model(
            model, device=device, dtype=dtype, revision=revision, quantize=quantize, device_map=device_map
        )
        report = examine(loaded)
    except UnsupportedModel as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"unsway: {error}", markup=False)
        return 2
    if json:
        sys.stdout.write(to_json(report) + "\n")
    else:
        print_report(report, Console(highlight=False))
    return 0 if report.agrees else 1
