"""The process of a job gives way, and never outlives its server (L14)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.jobs.child import CRASHED

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PARENT = """
import subprocess, sys, time
command = [sys.executable, "-P", "-m", "server.jobs.child", "7", "drift", "--max-tokens", "1"]
job = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={**__import__("os").environ, **%r})
print(job.pid, flush=True)
time.sleep(600)
"""
HANGS = """
import time
import steering.commands.drift as drift
drift.find_spec = lambda name: time.sleep(600)
"""
"""Loaded before anything else: the command does not end by itself."""


def gone(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def hanging(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[3]}"}


@LINUX
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_L14_it_ends_with_its_server(hanging: dict[str, str], how: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT % hanging], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    assert not gone(pid, 0.2)
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    assert gone(pid, 5)


def test_L14_it_ends_when_its_pipe_closes(hanging: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "server.jobs.child", "0", "drift"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, **hanging})
    assert job.stdin is not None
    time.sleep(1)
    assert job.poll() is None
    job.stdin.close()
    assert job.wait(timeout=30) == -signal.SIGKILL


@LINUX
def test_it_gives_way(hanging: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "server.jobs.child", "8", "drift"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, **hanging})
    try:
        until, before = time.monotonic() + 60, os.getpriority(os.PRIO_PROCESS, 0)
        while os.getpriority(os.PRIO_PROCESS, job.pid) != min(19, before + 4):
            assert time.monotonic() < until and job.poll() is None
            time.sleep(0.05)
        group = Path(f"/proc/{job.pid}/autogroup")
        if group.exists():
            while "nice 8" not in group.read_text():
                assert time.monotonic() < until
                time.sleep(0.05)
            assert group.read_text() != Path("/proc/self/autogroup").read_text()
        assert os.getsid(job.pid) == job.pid != os.getsid(0)
    finally:
        job.kill()
        job.communicate()


def test_an_error_that_is_ours_is_no_failed_check(tmp_path: Path) -> None:
    """Python would end with 1, which is what a check that failed ends with."""
    code = "import sys, steering.cli, server.jobs.child as child\n"
    code += "steering.cli.main = lambda: 1 / 0\nsys.argv = ['child', '0', 'x']\nchild.main()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as job:
        assert job.wait(timeout=60) == CRASHED, job.stderr and job.stderr.read()


def test_it_kills_nobody_elses_group(hanging: dict[str, str]) -> None:
    """Started without a session of its own it ends alone."""
    command = [sys.executable, "-P", "-m", "server.jobs.child", "0", "drift"]
    starter = f"import subprocess; exit(subprocess.run({command!r}, stdin=subprocess.DEVNULL).returncode)"
    ended = subprocess.run(
        [sys.executable, "-c", starter], env={**os.environ, **hanging}, start_new_session=True, check=False
    )
    assert ended.returncode == 1
