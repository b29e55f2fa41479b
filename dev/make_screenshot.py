"""Take the picture of the playground that the README shows: docs/playground.png.

    python dev/make_screenshot.py

This needs kamon[web], playwright and Chromium. The variable CHROMIUM can name the program.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.server import serving  # noqa: E402

VIEW = "?view=generate&prefix=ka&top_k=8"


def main() -> int:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        print("no Chromium found: set CHROMIUM to its path", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--budget=2") as server:
        while server.json("GET", "/jobs")["jobs"][0]["state"] != "done":
            time.sleep(0.1)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1000, "height": 1120})
            page.goto(server.url + VIEW)
            page.get_by_role("button", name="Generate").click()
            time.sleep(2)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=str(ROOT / "docs" / "playground.png"))
            browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
