"""FAULTS L13: whatever keeps a server from starting is one line on stderr and exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from server.settings import BadSettings, Settings

ANY = "0.0.0.0"  # noqa: S104  never bound: it is refused
COMMAND = (sys.executable, "-c", "from server.cli import main; main()")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNSWAY_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean | {"HF_HUB_OFFLINE": "1", "TERM": "dumb"} | environment,
    )


def refuses(process: subprocess.CompletedProcess[str], *words: str) -> None:
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1 and process.stderr.startswith("unsway: "), process.stderr
    assert all(word in process.stderr for word in words), process.stderr


def test_version_and_help_load_nothing_heavy() -> None:
    assert run("--version").stdout.strip() == version("unsway")
    told = run("serve", "--help").stdout
    assert all(f"--{name.replace('_', '-')}" in told for name in Settings.__dataclass_fields__)
    program = """
import sys
from server.cli import main
sys.argv[0] = "unsway"
try:
    main()
finally:
    heavy = {"torch", "transformers", "fastapi", "uvicorn", "rich.progress"} & sys.modules.keys()
    print("heavy:", sorted(heavy), file=sys.stderr)
"""
    for command in ((), ("chat",), ("packs", "verify"), ("organism", "train"), ("calibrate",), ("doctor",)):
        helped = subprocess.run([sys.executable, "-c", program, *command, "--help"], capture_output=True, text=True)
        assert helped.returncode == 0 and "Usage: unsway" in helped.stdout and helped.stderr == "heavy: []\n"


def test_the_shell_completes_commands_and_options() -> None:
    program = "import sys; sys.argv[0] = 'unsway'; from server.cli import main; main()"

    def complete(words: str) -> set[str]:
        variables = {"_UNSWAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | variables
        )
        assert process.returncode == 0, process.stderr
        return set(process.stdout.split())

    assert complete("unsway pa") == {"packs"}
    assert complete("unsway packs ") == {"list", "show", "verify", "import", "export"}
    assert complete("unsway serve --max") == {"--max-rows", "--max-upload"}


def test_L13_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refuses(run("serve", "--port", port), "cannot listen", port)


def test_L13_bad_options() -> None:
    refuses(run("serve", "--port", "x"), "--port")
    refuses(run("serve", "--port", "99999"), "--port", "65535")
    refuses(run("serve", "--dtype", "int4"), "--dtype", "bfloat16")
    refuses(run("serve", "--packs", "/nowhere"), "--packs")
    refuses(run("serve", "--kv-memory", "lots"), "--kv-memory", "2GiB", "lots")
    refuses(run("serve", "--frobnicate"), "--frobnicate")
    refuses(run("nonsense"), "nonsense")
    refuses(run("serve", UNSWAY_MAX_ROWS="0"), "--max-rows", "1024")


def test_a_public_address_needs_a_key() -> None:
    refuses(run("serve", "--host", ANY), "UNSWAY_API_KEY", "--no-auth")
    refuses(run("serve", "--host", ANY, UNSWAY_API_KEY=" "), "--api-key")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).api_key is None


@pytest.mark.parametrize("host", [ANY, "::", "10.0.0.1", "example.org", ""])
def test_what_is_not_loopback(host: str) -> None:
    with pytest.raises(BadSettings, match="UNSWAY_API_KEY"):
        Settings(host=host)
    assert Settings(host=host, no_auth=True).no_auth and Settings(host=host, api_key="k").api_key


def test_L13_unknown_model() -> None:
    refuses(run("serve", "--model", "/no/such/folder", "--port", "0"), "/no/such/folder")


def test_names_of_folders_do_not_shadow_the_packages(tmp_path: Path) -> None:
    """`unsway` started where a server.py and a steering.py lie."""
    for name in ("server.py", "steering.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    command = Path(sys.executable).with_name("unsway")
    if not command.exists():
        pytest.skip("the command is not installed here")
    process = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout.strip() == version("unsway")


def test_a_process_serves_and_stops(tiny_folder: Path) -> None:
    """The whole command: bind, answer while loading, serve, stop on SIGTERM with code 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, "serve", "--model", str(tiny_folder), "--port", str(port), "--threads", "1", "--kv-memory", "1MiB"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5) as client:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                try:
                    if client.get("/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            messages = [{"role": "user", "content": "the prompt is private"}]
            reply = client.post(
                "/v1/chat/completions", json={"model": tiny_folder.name, "messages": messages, "max_tokens": 4}
            )
            assert reply.status_code == 200, reply.text
        process.terminate()
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert f"http://127.0.0.1:{port}/v1" in out and "unsway calibrate" in out and tiny_folder.name in out
    assert "1 MiB, 512 B/token; up to 16 rows and 512 tokens a row" in out
    assert "POST /v1/chat/completions" in err and "private" not in out + err and "Traceback" not in err
