"""The page in a real browser. Needs playwright and a Chromium: `tests/e2e/install-browser` brings both."""
