"""Other servers, each used where it is found: `tests/bench/install-peers FOLDER` makes the folder `--peers` names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.bench import names

HERE = Path(__file__).parent
ROWS = 32
"""Requests that a peer is to take at once."""
CONTEXT = 512
"""Tokens of each of them, at most."""


@dataclass(frozen=True)
class Peer:
    """How one server is started, and what its requests carry besides what all carry."""

    name: str
    command: tuple[str, ...]
    port: int
    ready: str
    body: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peers:
    """folder: None where nobody made one."""

    folder: Path | None

    @property
    def python(self) -> Path | None:
        """Of the environment the peers are installed in."""
        path = self.folder and self.folder / "venv" / "bin" / "python"
        return path if path and path.exists() else None

    def find(self, model: Path, ports: Mapping[str, int]) -> tuple[list[Peer], list[str]]:
        """Those that are there, and a line for each that is not."""
        made = {
            names.TRANSFORMERS_SERVE: self._transformers(model, ports[names.TRANSFORMERS_SERVE]),
            names.SAKLAS: self._saklas(model, ports[names.SAKLAS]),
            names.LLAMA_CPP: self._llama_cpp(model, ports[names.LLAMA_CPP]),
        }
        found = [peer for peer in made.values() if isinstance(peer, Peer)]
        return found, [f"{name}: not measured, {peer}" for name, peer in made.items() if isinstance(peer, str)]

    def _transformers(self, model: Path, port: int) -> Peer | str:
        python = self._python_with("accelerate")  # which brings psutil along
        if python is None:
            return "it needs accelerate"
        serve = "from transformers.cli.transformers import main; main()"
        command = (python, "-c", serve, "serve", str(model), "--continuous-batching", "--device", "cpu", "--dtype",
                   "float32", "--port", str(port), "--host", "127.0.0.1", "--cb-num-blocks", str(4 * ROWS),
                   "--log-level", "error")  # fmt: skip
        return Peer(names.TRANSFORMERS_SERVE, command, port, "/health", {"model": str(model)})

    def _saklas(self, model: Path, port: int) -> Peer | str:
        saklas = self.folder and self.folder / "venv" / "bin" / "saklas"
        if not saklas or not saklas.exists():
            return "it is not installed"
        command = (str(saklas), "serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port),
                   "--no-web", "--probes", "none")  # fmt: skip
        home = {"SAKLAS_HOME": str(model.parent / "saklas")}
        return Peer(names.SAKLAS, command, port, "/v1/models", {"stream_options": {"include_usage": True}}, home)

    def _llama_cpp(self, model: Path, port: int) -> Peer | str:
        """Its own server with a control vector, or that server out of xllamacpp, which takes none."""
        writer = self._python_with("gguf")
        binary = self._llama_server()
        if writer is None or (binary is None and not self._has("xllamacpp")):
            return "it is not installed"
        weights, vector = model / "model.gguf", model / "vector.gguf"
        if not weights.exists():
            subprocess.run([writer, str(HERE / "write_gguf.py"), str(model), str(weights), str(vector)], check=True)
        if binary:
            command = (binary, "-m", str(weights), "--control-vector", str(vector), "--port", str(port), "--host",
                       "127.0.0.1", "-t", "1", "-tb", "1", "-np", str(ROWS), "-c", str(ROWS * CONTEXT), "-ctk", "f32",
                       "-ctv", "f32", "--no-webui")  # fmt: skip
        else:
            settings = {"model": str(weights), "port": port, "rows": ROWS, "context": ROWS * CONTEXT}
            command = (str(self.python), str(HERE / "serve_llama.py"), json.dumps(settings))
        return Peer(names.LLAMA_CPP, command, port, "/health", {"ignore_eos": True, "cache_prompt": False})

    def _llama_server(self) -> str | None:
        own = self.folder and self.folder / "bin" / "llama-server"
        return str(own) if own and own.exists() else shutil.which("llama-server")

    def _python_with(self, package: str) -> str | None:
        """An interpreter that has this package: this one, or the peers'."""
        if find_spec(package):
            return sys.executable
        return str(self.python) if self._has(package) else None

    def _has(self, package: str) -> bool:
        """Whether the peers' environment has it."""
        return self.python is not None and subprocess.run(
            [self.python, "-c", f"import importlib.util as i, sys; sys.exit(i.find_spec({package!r}) is None)"],
            check=False,
        ).returncode == 0  # fmt: skip
