"""Takes docs/page-compare.webp and docs/page-layers.webp of a server that runs on the bundled model.

`unsway serve --port 8123`, then `python -m docs.draw_page http://127.0.0.1:8123`. Needs what `tests/e2e/install-browser`
brings, and Pillow; with the fonts Inter and Charis SIL installed it looks as it does on most machines.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SIZE = {"width": 1280, "height": 800}
MAX_BYTES = 200_000


def take(browser: Any, url: str, name: str, colours: str) -> Path:
    from PIL import Image

    page = browser.new_page(viewport=SIZE, color_scheme=colours, device_scale_factor=1.5)
    if name == "compare":
        page.goto(f"{url}/#scenario=sure")
        page.locator(".turn").nth(1).locator(".answer.steered .receipt").wait_for()
        page.locator(".turn").nth(1).locator(".answer.steered .token.fired").click()
        page.locator(".curve svg").nth(1).wait_for()
    else:
        page.goto(f"{url}/#view=layers")
        page.locator(".cell-detail").wait_for()
    page.wait_for_timeout(500)  # the last frame
    file = DOCS / f"page-{name}.webp"
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(file, quality=82, method=6)
    page.close()
    return file


def main(url: str) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, colours in (("compare", "light"), ("layers", "dark")):
            file = take(browser, url.rstrip("/"), name, colours)
            if file.stat().st_size > MAX_BYTES:
                sys.exit(f"{file} is too large: {file.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
