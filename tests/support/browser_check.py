"""Opens a workflow in ComfyUI's own page in headless Chromium and checks what a user would see.

    python tests/support/browser_check.py --server URL --workflow workflows/X.json \
        --api workflows/api/X.json --shot shot.png

Checks: every node is known and none is red; the page's own conversion equals the stored API file;
every input of our nodes has a tooltip and hovering one shows it; the queued graph ends with a
picture; the page reports no error. Prints one line per check; exit status 0 or 1, and 2 when
Playwright (pip install playwright) or a Chromium is missing. Writes screenshots to be looked at:
the whole graph after the run, the same at full size in as many parts as it needs (shot-1.png from
left to right), and one tooltip (shot-tooltip.png).

Unusual: the page may speak to loopback only, so that it neither calls its cloud nor waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
VIEW = {"width": 1920, "height": 1080}
MINUTE = 60_000  # milliseconds
READY = """window.app && app.graph && window.LiteGraph
    && Object.keys(LiteGraph.registered_node_types).length > 100"""
NODES = """() => app.graph._nodes.map(n => ({
    id: String(n.id), type: n.type, title: n.getTitle ? n.getTitle() : n.title,
    red: !!n.has_errors, note: !!n.isVirtualNode,
    known: n.type in LiteGraph.registered_node_types || !!n.subgraph}))"""
EXTENT = """() => app.graph._nodes.reduce(([l, t, r], n) => [
    Math.min(l, n.pos[0]), Math.min(t, n.pos[1] - 40),
    Math.max(r, n.pos[0] + n.size[0])], [1e9, 1e9, -1e9])"""
LOOK = """([x, y, scale]) => { const d = app.canvas.ds;
    d.scale = scale; d.offset[0] = x; d.offset[1] = y; app.canvas.setDirty(true, true); }"""
MARGIN = (90, 80)  # pixels at the left and at the top that the page's own bars cover
# Where the first plain widget of these names is, in pixels of the window; w.y counts from the node.
WIDGET = """([id, names]) => {
    const n = app.graph._nodes.find(n => String(n.id) === id), d = app.canvas.ds,
        w = (n.widgets || []).find(w => names.includes(w.name) && !w.element && !w.hidden);
    if (!w) return null;
    const box = app.canvas.canvas.getBoundingClientRect();
    return {name: w.name,
        x: box.left + (n.pos[0] + n.size[0] / 4 + d.offset[0]) * d.scale,
        y: box.top + (n.pos[1] + w.y + 10 + d.offset[1]) * d.scale}; }"""


class CheckError(RuntimeError):
    """The page could not be brought to the point where it can be checked."""


@dataclass
class Report:
    """The results; `failed` holds one sentence per failed check."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def note(self, good: bool, name: str, detail: str) -> None:
        """Files one check."""
        (self.passed if good else self.failed).append(f"{name}: {detail}")


def find_chromium(name: str | None = None) -> str | None:
    """The browser: `name`, the variable CHROMIUM, or the first usual name on the PATH."""
    names = [n for n in (name, os.environ.get("CHROMIUM"), *CHROMIUM_NAMES) if n]
    return next((path for n in names if (path := shutil.which(n))), None)


def check(arguments: argparse.Namespace, chromium: str) -> Report:
    """Runs all checks in one page. CheckError if the page does not come up."""
    from playwright.sync_api import sync_playwright

    server, shot, api = arguments.server, arguments.shot, arguments.api
    report, problems = Report(), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport=VIEW)
        page.on("pageerror", lambda error: problems.append(str(error).splitlines()[0]))
        try:
            _open(page, server, json.loads(arguments.workflow.read_text("utf-8")))
            _check_nodes(page, report)
            if api is not None:
                _check_conversion(page, json.loads(api.read_text("utf-8")), report)
            shot.parent.mkdir(parents=True, exist_ok=True)
            _check_tooltips(page, server, report, shot)
            if not arguments.no_run:
                _check_run(page, server, report)
            page.screenshot(path=shot)
            _shots_at_full_size(page, shot)
        finally:
            browser.close()
    report.note(not problems, "page errors", "; ".join(problems) or "none")
    return report


def _open(page: Page, server: str, graph: dict[str, Any]) -> None:
    from playwright.sync_api import Error

    try:
        page.goto(server, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=MINUTE)
        page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
        page.wait_for_timeout(1000)  # node sizes settle
        page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(1500)  # the move is animated
    except Error as error:
        raise CheckError(f"the page at {server} did not open the graph: {error}") from error


def _check_nodes(page: Page, report: Report) -> None:
    nodes = page.evaluate(NODES)
    bad = [f"{node['id']} {node['type']}" for node in nodes if node["red"] or not node["known"]]
    titles = ", ".join(node["title"] or node["type"] for node in nodes)
    report.note(bool(nodes) and not bad, "nodes", f"red or unknown: {bad}" if bad else titles)


def _check_conversion(page: Page, stored: dict[str, Any], report: Report) -> None:
    converted = page.evaluate("async () => (await app.graphToPrompt()).output")
    lines = differences(converted, stored)
    report.note(not lines, "conversion", "; ".join(lines) or f"{len(converted)} nodes as stored")


def differences(page: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """Differences of two API graphs in classes and inputs; _meta (titles) does not count."""
    lines = [
        f"node {node} only in {'the page' if node in page else 'the file'}"
        for node in sorted(set(page) ^ set(stored))
    ]
    for node in sorted(set(page) & set(stored)):
        if page[node]["class_type"] != stored[node]["class_type"]:
            lines.append(
                f"node {node}: page {page[node]['class_type']}, file {stored[node]['class_type']}"
            )
            continue
        left, right = page[node]["inputs"], stored[node]["inputs"]
        lines += [
            f"node {node}.{name}: page {left.get(name)!r}, file {right.get(name)!r}"
            for name in sorted(set(left) | set(right))
            if left.get(name) != right.get(name)
        ]
    return lines


def _shots_at_full_size(page: Page, shot: Path) -> None:
    """The graph at 100 %, from left to right: what the whole is too small to read in."""
    left, top, right = page.evaluate(EXTENT)
    step, part = VIEW["width"] - 2 * MARGIN[0], 0
    while left < right:
        part += 1
        page.evaluate(LOOK, [MARGIN[0] - left, MARGIN[1] - top, 1])
        page.wait_for_timeout(500)
        page.screenshot(path=shot.with_stem(f"{shot.stem}-{part}"))
        left += step


def _check_tooltips(page: Page, server: str, report: Report, shot: Path) -> None:
    """Every input of our nodes has a tooltip; hovering a widget of each node shows it."""
    offered, silent, hovered, wrong = _get(server, "/object_info"), [], [], []
    for node in page.evaluate(NODES):
        if not node["type"].startswith("Inkstone") or node["type"] not in offered:
            continue
        tips = {
            name: (spec[1].get("tooltip") if len(spec) > 1 else None)
            for group in ("required", "optional")
            for name, spec in offered[node["type"]]["input"].get(group, {}).items()
        }
        silent += [f"{node['type']}.{name}" for name, tip in tips.items() if not tip]
        place = page.evaluate(WIDGET, [node["id"], [name for name, tip in tips.items() if tip]])
        if place is None:
            continue
        hovered.append(f"{node['type']}.{place['name']}")
        shown, text = _hover(page, place, shot), tips[place["name"]].strip()
        if " ".join(shown.split()) != " ".join(text.split()):
            wrong.append(f"{hovered[-1]}: shown {shown!r}, expected {text!r}")
    report.note(not silent, "tooltips", f"missing: {silent}" if silent else "on every input")
    report.note(not wrong, "hover", "; ".join(wrong) or f"shown for {', '.join(hovered) or 'none'}")


def _hover(page: Page, place: dict[str, Any], shot: Path) -> str:
    """The text of the tooltip that the page shows when the pointer rests on a widget; a picture."""
    page.mouse.move(place["x"] - 30, place["y"])
    page.mouse.move(place["x"], place["y"], steps=5)
    page.wait_for_timeout(1500)
    tip = page.locator(".node-tooltip")
    shown = tip.first.inner_text().strip() if tip.count() else ""
    page.screenshot(path=shot.with_stem(f"{shot.stem}-tooltip"))
    page.mouse.move(VIEW["width"] / 2, VIEW["height"] - 5)
    return shown


def _check_run(page: Page, server: str, report: Report, seconds: float = 300) -> None:
    """Presses Run, so to say, and waits for the history entry of that prompt."""
    from playwright.sync_api import Error

    try:
        with page.expect_response(_is_prompt, timeout=MINUTE / 2) as queued:
            page.evaluate("() => { app.queuePrompt(0, 1) }")
        answer = queued.value.json()
    except Error as error:
        report.note(False, "run", f"the page did not queue the graph: {str(error).splitlines()[0]}")
        return
    if answer.get("error") or answer.get("node_errors"):
        report.note(False, "run", f"the server refused the graph: {json.dumps(answer)[:1000]}")
        return
    entry = _finished(page, server, answer["prompt_id"], seconds)
    if entry is None:
        report.note(False, "run", f"did not finish within {seconds:.0f} s")
        return
    page.wait_for_timeout(2000)  # the page loads the picture
    pictures = [
        item["filename"]
        for output in entry["outputs"].values()
        for item in output.get("images", ())
    ]
    errors = [message for kind, message in entry["status"]["messages"] if kind == "execution_error"]
    why = errors[0].get("exception_message", "").strip() if errors else ""
    good = entry["status"]["status_str"] == "success" and bool(pictures)
    report.note(good, "run", f"{entry['status']['status_str']} {why} {pictures}")
    red = [node["id"] for node in page.evaluate(NODES) if node["red"]]
    report.note(not red, "after the run", f"red nodes: {red}" if red else "no red node")


def _is_prompt(response: Response) -> bool:
    return response.request.method == "POST" and response.url.endswith("/prompt")


def _finished(page: Page, server: str, prompt_id: str, seconds: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        entries = _get(server, f"/history/{prompt_id}")
        if prompt_id in entries:
            return entries[prompt_id]
        page.wait_for_timeout(500)
    return None


def _get(server: str, path: str) -> Any:
    with urllib.request.urlopen(server.rstrip("/") + path, timeout=30) as answer:
        return json.loads(answer.read())


def main() -> int:
    """Checks a workflow in ComfyUI's page; see the module's first lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--server", required=True, help="address of a running ComfyUI")
    parser.add_argument("--workflow", required=True, type=Path, help="UI graph to open")
    parser.add_argument("--api", type=Path, help="API graph that the page's conversion must equal")
    parser.add_argument("--shot", required=True, type=Path, help="where to put the screenshot")
    parser.add_argument(
        "--no-run", action="store_true", help="open it only: its models are not here"
    )
    parser.add_argument("--chromium", help="browser to use; default: CHROMIUM, then the PATH")
    arguments = parser.parse_args()
    chromium = find_chromium(arguments.chromium)
    if chromium is None:
        print("No Chromium found: install one, or give --chromium.", file=sys.stderr)
        return 2
    try:
        report = check(arguments, chromium)
    except ImportError:
        print("Playwright is missing: pip install playwright.", file=sys.stderr)
        return 2
    except CheckError as error:
        print(error, file=sys.stderr)
        return 1
    for line in report.passed:
        print(f"ok    {line}")
    for line in report.failed:
        print(f"WRONG {line}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
