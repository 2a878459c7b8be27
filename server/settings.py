"""Everything a server can be told at start; flags, environment variables and keys of the file are made from it."""

from __future__ import annotations

import ast
import inspect
import ipaddress
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_type_hints

from server.size import bytes_of


class BadSettings(ValueError):
    """Settings that no server can start with; the message is one line and says what to change."""

    def __init__(self, rule: str, field: str | None = None) -> None:
        """rule: the whole message or, of a field of `Settings`, what follows its name."""
        super().__init__(rule if field is None else f"{flag(field)} {rule}")
        self.rule, self.field = rule, field


@dataclass(frozen=True)
class Settings:
    """How one server runs. Impossible values raise `BadSettings`."""

    model: str = "unsway-organism"
    """Hugging Face id or folder of a causal LM; the default is the small bundled model."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    device: str = "auto"
    """Torch device, e.g. cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto is float32 on CPU and the model's own on a GPU."""
    quantize: Literal["int8", "fp8", "int4"] | None = None
    """Hold the linear layers in fewer bits (extra `quantize`); a checkpoint that is quantised already needs none."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """Spread the model over several GPUs, as accelerate does under this name; then no --device."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs an API key or --no-auth."""
    port: int = 8000
    """TCP port, 1 to 65535; 0 takes a free one."""
    packs: Path | None = None
    """Folder of packs, one folder each; the bundled model brings its own."""
    jobs: Path | None = None
    """Folder of calibrations and evaluations that are started over HTTP; if not given, none can be."""
    job_niceness: int = 8
    """How far they give way to answers where both want the processors, 0 (not at all) to 19."""
    benchmarks: Path | None = None
    """Folder of the benchmarks' files for such evaluations, as `unsway eval --data` takes it."""
    default_profile: str | None = None
    """What "steering": true means; the bundled model's is candid."""
    default_mode: Literal["off", "observe", "on"] = "off"
    """What happens to a request that says nothing about steering."""
    uploads: Path | None = None
    """Folder that profiles are uploaded to, made if there is none; if none is given nothing can be uploaded."""
    max_upload: str = "64MiB"
    """Largest file of an uploaded profile."""
    uploads_count: int = 256
    """Most uploaded profiles, 1 to 65536."""
    uploads_size: str = "1GiB"
    """What they may take in all, on the disk and about as much beside the model."""
    key_uploads_count: int = 64
    """Most uploaded profiles of one key, or without keys of one address."""
    key_uploads_size: str = "512MiB"
    """What these may take."""
    api_key: str | None = None
    """A key for `Authorization: Bearer KEY`, that may do everything; prefer the environment variable."""
    keys: Path | None = None
    """TOML file of more keys, each with scopes, policy and limits, made by `unsway keys new`; changes count at once."""
    no_auth: bool = False
    """Serve an address that others can reach without any key."""
    allowed_hosts: str | None = None
    """Names, with commas between, that Host may have besides its own; else any, on loopback without a key its own."""
    audit_log: Path | None = None
    """File to which changes and refusals are appended, a line of JSON each; without it they are not kept."""
    log_format: Literal["line", "json"] = "line"
    """How log lines look on stderr, one for each request among them."""
    served_model_name: str | None = None
    """Name of the model on the wire instead of its own."""
    max_rows: int = 16
    """Most answers generated at the same time, 1 to 1024."""
    queue: int = 256
    """Most requests open beside as many as --max-rows, 1 to 65536; one more gets 429."""
    context: int | None = None
    """Most tokens of a prompt and its answer together; if not given the model's own, as far as memory holds them."""
    kv_memory: str | None = None
    """Most memory of keys and values, e.g. 2GiB, taken as needed; if not given what --max-rows of 4096 tokens take."""
    prefix_cache: str | None = None
    """How much of it may keep beginnings computed before, e.g. 500MB; a quarter if not given, 0B for none."""
    prefill_stretch: float = 1.6
    """While answers run, prompts slow their tokens down about so many times at most; 0: no limit, fastest in all."""
    trace_seconds: float = 600.0
    """How long what a reply said about steering can be asked for by its id, in memory only; 0: not at all."""
    deterministic: bool = False
    """Same bits whatever else runs in the batch; slower."""
    fast_linears: bool = True
    """On a CPU, hold weights twice where a short measurement at the start finds that faster and memory allows."""
    rounded_linears: Literal["bfloat16"] | None = None
    """Type of fewer bits in which these copies may be, where that measures faster still: half the bytes to read."""
    compile: bool = False
    """Compile the model at the start (minutes the first time, then seconds); used if it measures faster."""
    threads: int | None = None
    """CPU threads of the engine; a short measurement at the start decides if not given."""

    def __post_init__(self) -> None:
        _check("port", 0 <= self.port <= 65535, f"between 0 and 65535 (got {self.port})")
        _check("max_rows", 1 <= self.max_rows <= 1024, f"between 1 and 1024 (got {self.max_rows})")
        _check("queue", 1 <= self.queue <= 65536, f"between 1 and 65536 (got {self.queue})")
        _check("context", self.context is None or self.context >= 2, f"at least 2 (got {self.context})")
        size = self.kv_memory
        _check("kv_memory", size is None or bytes_of(size) is not None, f"a size such as 2GiB or 500MB (got {size})")
        size = self.prefix_cache
        _check("prefix_cache", size is None or bytes_of(size) is not None, f"a size such as 500MB, or 0B (got {size})")
        stretch = self.prefill_stretch
        _check("prefill_stretch", stretch == 0 or 1 < stretch < float("inf"), f"0 or above 1 (got {stretch:g})")
        kept = self.trace_seconds
        _check("trace_seconds", 0 <= kept < float("inf"), f"0 or more (got {kept:g})")
        _check("threads", self.threads is None or self.threads >= 1, f"at least 1 (got {self.threads})")
        rounds = self.rounded_linears is not None
        _check("rounded_linears", not rounds or self.fast_linears, "without --no-fast-linears")
        spread = self.device_map is not None and self.device != "auto"
        _check("device_map", not spread, f"without --device (got {self.device}): it chooses the devices")
        _check("api_key", self.api_key is None or self.api_key.strip() != "", "not empty")
        _check("packs", self.packs is None or self.packs.is_dir(), f"a folder (got {self.packs})")
        _check("job_niceness", 0 <= self.job_niceness <= 19, f"between 0 and 19 (got {self.job_niceness})")
        _check("benchmarks", self.benchmarks is None or self.benchmarks.is_dir(), f"a folder (got {self.benchmarks})")
        self._check_uploads()
        name = self.served_model_name
        _check("served_model_name", name is None or 0 < len(name) <= 256, "1 to 256 characters")
        if not (self.asks_for_key or self.no_auth or is_loopback(self.host)):
            raise BadSettings(
                f"--host {self.host} can be reached by others: set UNSWAY_API_KEY or --keys, or pass --no-auth to go "
                "without."
            )

    @property
    def asks_for_key(self) -> bool:
        return self.api_key is not None or self.keys is not None

    def _check_uploads(self) -> None:
        _check("uploads", not (self.uploads and self.uploads.is_file()), f"a folder (got {self.uploads})")
        inside = self.uploads and self.packs and self.uploads.resolve().parent == self.packs.resolve()
        _check("uploads", not inside, f"--packs itself or a folder outside of it (got {self.uploads})")
        for field in ("uploads_count", "key_uploads_count"):
            _check(field, 1 <= (count := getattr(self, field)) <= 65536, f"between 1 and 65536 (got {count})")
        for field in ("max_upload", "uploads_size", "key_uploads_size"):
            size = getattr(self, field)
            _check(field, bytes_of(size) is not None, f"a size such as 2GiB or 500MB (got {size})")


def _check(field: str, ok: bool, allowed: str) -> None:
    if not ok:
        raise BadSettings(f"must be {allowed}.", field)


def flag(field: str) -> str:
    """How a field is spelt on the command line."""
    return f"--{field.replace('_', '-')}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cache
def field_help() -> dict[str, str]:
    """The line under each field, for `--help`: Python keeps no docstring of an attribute."""
    (declaration,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(declaration, ast.ClassDef)  # noqa: S101  our own source
    lines: dict[str, str] = {}
    for statement, below in pairwise(declaration.body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                lines[name] = text
    return {field.name: lines[field.name] for field in fields(Settings)}


@cache
def field_types() -> dict[str, Any]:
    """The annotation of each field."""
    return get_type_hints(Settings)
