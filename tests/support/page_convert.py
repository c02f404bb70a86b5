"""Converts UI graphs with ComfyUI's own page in headless Chromium: the oracle of `convert`.

    python tests/support/page_convert.py --server URL GRAPHS.json OUT.json

GRAPHS.json is {name: UI graph}; OUT.json becomes {name: API graph or {"error": text}}. Runs next to
the tests in any Python that has Playwright; the server needs the classes of the graphs
(tests/support/newer_nodes has the interfaces of newer ones). Math.random is 0 in the page: of
`{a|b}` in a prompt it takes the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

try:
    from .browser_check import CHROMIUM_FLAGS, MINUTE, READY, find_chromium
except ImportError:  # started as a script
    from browser_check import CHROMIUM_FLAGS, MINUTE, READY, find_chromium

CONVERT = """async graph => {
    try {
        await app.loadGraphData(graph)
        return (await app.graphToPrompt()).output
    } catch (error) { return {error: String(error)} }
}"""


def convert_all(server: str, graphs: dict[str, dict], chromium: str) -> dict[str, dict]:
    """The page's API graph of every UI graph."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page()
        page.add_init_script("Math.random = () => 0")
        try:
            page.goto(server, wait_until="domcontentloaded")
            page.wait_for_function(READY, timeout=MINUTE)
            return {name: page.evaluate(CONVERT, graph) for name, graph in graphs.items()}
        finally:
            browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--chromium")
    parser.add_argument("graphs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    chromium = find_chromium(arguments.chromium)
    if chromium is None:
        print("no Chromium: install one or set CHROMIUM", file=sys.stderr)
        return 2
    graphs = json.loads(arguments.graphs.read_text("utf-8"))
    converted = convert_all(arguments.server, graphs, chromium)
    arguments.out.write_text(json.dumps(converted, ensure_ascii=False), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
