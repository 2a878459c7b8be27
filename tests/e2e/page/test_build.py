"""What is served is what the source builds to, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SOURCE, BUILT = ROOT / "clients" / "page", ROOT / "server" / "page"


def test_the_page_is_built_from_its_source(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    if not (SOURCE / "node_modules" / "vite").exists():
        pytest.skip("the page's tools are not installed: npm ci in clients/page")
    for command in (["run", "check"], ["exec", "--", "vite", "build", "--outDir", str(tmp_path), "--emptyOutDir"]):
        ran = subprocess.run([npm, *command], cwd=SOURCE, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(BUILT): path.read_bytes() for path in BUILT.rglob("*") if path.is_file()}
    assert fresh.keys() == kept.keys(), "run npm run build in clients/page"
    assert all(fresh[name] == kept[name] for name in fresh)


def test_no_registry_is_named() -> None:
    """`omit-lockfile-registry-resolved` keeps hosts out of the lock file."""
    assert (
        "resolved" not in (SOURCE / "package-lock.json").read_text()
        and "registry=" not in (SOURCE / ".npmrc").read_text()
    )
