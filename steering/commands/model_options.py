"""How a command loads its model: options that mean what they mean for `serve`."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option("--device", help="As of serve.")]
Dtype = Annotated[str, typer.Option("--dtype", help="As of serve.")]
Revision = Annotated[str | None, typer.Option("--revision", help="As of serve.")]
Quantize = Annotated[str | None, typer.Option("--quantize", help="As of serve.")]
DeviceMap = Annotated[str | None, typer.Option("--device-map", help="As of serve.")]
