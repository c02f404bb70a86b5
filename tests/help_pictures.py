"""Takes the pictures of the help pages from ComfyUI's own page, and looks at what users see there.

    python tests/help_pictures.py --server URL [--shots FOLDER]

Each node is put alone on the canvas and photographed into web/docs/pictures. With --shots also:
a help page opened in English and Chinese, the Chinese names, a graph that runs with previews, the
picture that it saved dropped back onto an empty page, and a node that failed with our sentence.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

try:
    from browser_check import CHROMIUM_FLAGS, MINUTE, READY, VIEW, _get, find_chromium
except ImportError:
    from .browser_check import CHROMIUM_FLAGS, MINUTE, READY, VIEW, _get, find_chromium

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "web" / "docs" / "pictures"
ALONE = """async name => {
    app.graph.clear();
    const n = LiteGraph.createNode(name); app.graph.add(n); n.pos = [100, 100];
    const d = app.canvas.ds; d.scale = 1; d.offset[0] = 300; d.offset[1] = 100;
    await new Promise(r => setTimeout(r, 350)); app.canvas.draw(true, true);
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + 400, box.top + 200 - 30, n.size[0], n.size[1] + 30]; }"""
GRAPH = ROOT / "workflows" / "text_to_image_embedded.json"


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


def set_language(server: str, language: str) -> None:
    """As the settings dialog does."""
    body = json.dumps(language).encode()
    url = server.rstrip("/") + "/settings/Comfy.Locale"
    urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=30
    ).close()


def help_page(page: Page, name: str, shot: Path) -> str:
    """Opens a node's help as the ? in its toolbox does; the text that is shown."""
    page.evaluate(ALONE, name)
    page.evaluate("() => { const n = app.graph._nodes[0]; app.canvas.select(n); }")
    page.wait_for_timeout(800)
    button = page.get_by_test_id("info-button")
    if button.count():
        button.first.click()
    else:
        page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.NodeHelp')")
    page.wait_for_timeout(2500)
    page.screenshot(path=shot)
    return page.locator("body").inner_text()


def run_and_look(page: Page, server: str, folder: Path) -> str:
    """Runs the embedded graph, photographs it at work and done; the saved file's name."""
    graph = json.loads(GRAPH.read_text("utf-8"))
    steps = next(n for n in graph["nodes"] if n["type"] == "InkstoneSchedule")
    steps["widgets_values"][0] = 40
    page.evaluate("async g => { await app.loadGraphData(g) }", graph)
    page.wait_for_timeout(1000)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1200)
    page.evaluate("""() => { window.previews = 0;
        app.api?.addEventListener?.('b_preview', () => window.previews++);
        app.api?.addEventListener?.('b_preview_with_metadata', () => window.previews++); }""")
    before = set(_get(server, "/history"))
    page.evaluate("() => { app.queuePrompt(0, 1) }")
    for _ in range(600):
        page.wait_for_timeout(500)
        if page.evaluate("() => window.previews") > 2 and not (folder / "running.png").exists():
            page.screenshot(path=folder / "running.png")
        new = set(_get(server, "/history")) - before
        if new:
            break
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / "done.png")
    print("previews seen", page.evaluate("() => window.previews"))
    entry = _get(server, f"/history/{new.pop()}")
    entry = next(iter(entry.values()))
    found = [i for o in entry["outputs"].values() for i in o.get("images", ())]
    return next(i["filename"] for i in found if i["type"] == "output")


def drop(page: Page, server: str, name: str, folder: Path) -> list[str]:
    """Drops a saved PNG onto an empty canvas; the node types that appear."""
    url = f"{server.rstrip('/')}/view?filename={name}&subfolder=inkstone&type=output"
    with urllib.request.urlopen(url, timeout=30) as answer:
        data = base64.b64encode(answer.read()).decode()
    page.evaluate(
        """async data => { app.graph.clear();
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const file = new File([bytes], 'x.png', {type: 'image/png'});
        const all = new DataTransfer(); all.items.add(file);
        const where = document.querySelector('#graph-canvas') || app.canvas.canvas;
        where.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true,
            dataTransfer: all, clientX: 800, clientY: 500})); }""",
        data,
    )
    page.wait_for_timeout(3000)
    page.screenshot(path=folder / "dropped.png")
    return page.evaluate("() => app.graph._nodes.map(n => n.type)")


def failing(page: Page, folder: Path) -> str:
    """A graph whose CFG has no negative prompt: the text that the page shows."""
    graph = json.loads(GRAPH.read_text("utf-8"))
    page.evaluate("async g => { await app.loadGraphData(g) }", graph)
    page.evaluate("""() => { const n = app.graph._nodes.find(n => n.type == 'InkstoneDenoise');
        n.disconnectInput(n.findInputSlot('negative')); app.queuePrompt(0, 1); }""")
    page.wait_for_timeout(6000)
    details = page.get_by_text("View details")
    if details.count():
        details.first.click()
        page.wait_for_timeout(1500)
    page.screenshot(path=folder / "failed.png")
    return page.locator("body").inner_text()


def look(browser: Any, server: str, folder: Path) -> list[str]:
    """What is wrong, in words; screenshots go into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    wrong, zh = [], json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    page = opened(browser, server)
    text = help_page(page, "InkstoneDenoise", folder / "help-en.png")
    wrong += [] if "Stop answers within a block" in text else ["the English help is not shown"]
    name = run_and_look(page, server, folder)
    kinds = drop(page, server, name, folder)
    wrong += [] if "InkstoneDenoise" in kinds else [f"the dropped picture gave {kinds}"]
    text = failing(page, folder)
    wrong += [] if "no negative prompt" in text else ["our sentence about CFG is not shown"]
    page.close()
    set_language(server, "zh")
    try:
        page = opened(browser, server)
        text = help_page(page, "InkstoneDenoise", folder / "help-zh.png")
        wrong += [] if "停止在一个块之内响应" in text else ["the Chinese help is not shown"]
        title = page.evaluate("() => app.graph._nodes[0].getTitle()")
        wanted = zh["InkstoneDenoise"]["display_name"]
        wrong += [] if title == wanted else [f"Chinese title {title!r}, wanted {wanted!r}"]
        page.evaluate("async g => { await app.loadGraphData(g) }",
                      json.loads(GRAPH.read_text("utf-8")))  # fmt: skip
        page.wait_for_timeout(1500)
        page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(1200)
        page.screenshot(path=folder / "graph-zh.png")
    finally:
        set_language(server, "en")
    return wrong


def main() -> int:
    """See the module's first lines."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--shots", type=Path, help="look at the rest too, screenshots go here")
    parser.add_argument("--no-pictures", action="store_true")
    arguments = parser.parse_args()
    offered = _get(arguments.server, "/object_info")
    names = sorted(name for name in offered if name.startswith("Inkstone"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        if not arguments.no_pictures:
            photograph(opened(browser, arguments.server), names)
            print(f"ok    {len(names)} pictures")
        wrong = look(browser, arguments.server, arguments.shots) if arguments.shots else []
        browser.close()
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
