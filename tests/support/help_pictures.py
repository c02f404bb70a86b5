"""Takes the pictures of the help pages from ComfyUI's own page.

    python tests/support/help_pictures.py --server URL

Each node is put alone on the canvas and photographed into web/docs/pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

try:
    from browser_check import CHROMIUM_FLAGS, MINUTE, READY, VIEW, _get, find_chromium
except ImportError:
    from .browser_check import CHROMIUM_FLAGS, MINUTE, READY, VIEW, _get, find_chromium

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "web" / "docs" / "pictures"
ALONE = """async name => {
    app.graph.clear();
    const n = LiteGraph.createNode(name); app.graph.add(n); n.pos = [100, 100];
    const d = app.canvas.ds; d.scale = 1; d.offset[0] = 300; d.offset[1] = 100;
    await new Promise(r => setTimeout(r, 350)); app.canvas.draw(true, true);
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + 400, box.top + 200 - 30, n.size[0], n.size[1] + 30]; }"""


def opened(browser: Any, server: str) -> Page:
    """A page that is ready."""
    page = browser.new_page(viewport=VIEW)
    page.goto(server, wait_until="domcontentloaded")
    page.wait_for_function(READY, timeout=4 * MINUTE)
    page.wait_for_timeout(1500)
    return page


def photograph(page: Page, names: list[str]) -> None:
    """One JPEG for each node."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names:
        x, y, width, height = page.evaluate(ALONE, name)
        clip = {"x": x - 12, "y": y - 32, "width": width + 24, "height": min(height + 44, 850)}
        page.screenshot(clip=clip, path=PICTURES / f"{name}.jpg", type="jpeg", quality=85)


def main() -> int:
    """See the module's first lines."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--server", required=True)
    arguments = parser.parse_args()
    offered = _get(arguments.server, "/object_info")
    names = sorted(name for name in offered if name.startswith("Inkstone"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        photograph(opened(browser, arguments.server), names)
        browser.close()
    print(f"ok    {len(names)} pictures")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
