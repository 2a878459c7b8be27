"""Free memory: what a process could still take of a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes, of the CPU within the limits of this process's control groups; None where the system does not tell."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type != "cpu":
        return None
    return min(_free_on_host(), default=None)


def _free_on_host() -> Iterator[int]:
    """Memory that can be had without swapping: caches give way. Elsewhere than on Linux, what nobody uses."""
    try:
        yield _numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        with suppress(AttributeError, ValueError, OSError):
            yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        (own,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        for group in (Path(own.strip("/")), *Path(own.strip("/")).parents):
            yield from _free_in(_CGROUPS / group)


def _free_in(group: Path) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):  # no limit, or none that this process may see
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        yield limit - used + _numbers(group / "memory.stat")["inactive_file"]


def _numbers(path: Path) -> dict[str, int]:
    """Of a file of lines that begin with a name and a number."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text().splitlines())}
