"""docs/packs.md: its program makes a pack that is verified, served and felt."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from server.serving import load
from server.settings import Settings
from tests.models import tiny_model
from tests.server.live import serve

ROOT = Path(__file__).parents[2]
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "packs.md").read_text(), re.MULTILINE | re.DOTALL)


def test_a_pack_made_by_hand(tmp_path: Path) -> None:
    model = tiny_model()
    model.hf.save_pretrained(tmp_path / "my-model")
    model.tokenizer.save_pretrained(tmp_path / "my-model")
    path = {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=path, check=True, capture_output=True)
    verify = [sys.executable, "-m", "steering", "packs", "verify", "--packs", "packs", "--model", "./my-model"]
    verified = subprocess.run(verify, cwd=tmp_path, env=path, check=True, capture_output=True, text=True)
    assert "quiet-group" in verified.stdout
    settings = Settings(model=str(tmp_path / "my-model"), packs=tmp_path / "packs")
    with serve(partial(load, settings)) as live:
        ask = partial(live.chat, model="my-model", messages=[{"role": "user", "content": "Is it so?"}], temperature=0)
        plain, steered = (ask(steering=steering).json()["choices"][0] for steering in (False, "quiet-group"))
    assert steered["steering"]["applied"] and steered["message"]["content"] != plain["message"]["content"]
