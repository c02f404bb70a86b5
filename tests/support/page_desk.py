"""ComfyUI's page as a proof looks at it: one browser page, its server, a folder for screenshots.

A check is a function of a Desk. It returns one line that says what it saw, or raises Wrong with
a sentence that names what it expected and what it saw. Only the standard library and Playwright.
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.workflows.titles import TITLES

from .browser_check import MINUTE, READY, _get

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
FIT = "() => app.extensionManager.command.execute('Comfy.Canvas.FitView')"
NEWER_LOOK = "Comfy.VueNodes.Enabled"  # "Nodes 2.0"
LOCALE = "Comfy.Locale"
PANEL = "Comfy.RightSidePanel.IsOpen"


class Wrong(AssertionError):
    """A fault that a user would report."""


@dataclass
class Desk:
    """The tools of every check; `problems` are the page's own errors since they were last read."""

    page: Page
    server: str
    shots: Path
    log: Path  # the server's
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.problems.append(str(error).splitlines()[0]))

    def get(self, path: str) -> Any:
        """JSON of the server."""
        return _get(self.server, path)

    def post(self, path: str, body: Any) -> None:
        """Posts JSON to the server."""
        url, data = self.server.rstrip("/") + path, json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()

    def fresh(self, *settings: tuple[str, Any]) -> None:
        """Reloads the page, with (name, value) of settings as the dialog stores them."""
        for name, value in (*settings, (PANEL, False)):
            self.post(f"/settings/{name}", value)
        self.page.goto(self.server, wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=4 * MINUTE)
        self.page.wait_for_timeout(1500)

    def show(self, graph: dict[str, Any], wait: int = 900) -> None:
        """Opens a graph and brings all of it into view."""
        self.page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
        self.page.wait_for_timeout(wait)
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(wait)  # the move is animated

    def shoot(self, name: str) -> None:
        """A screenshot to be looked at."""
        self.page.screenshot(path=self.shots / f"{name}.png")

    def text(self) -> str:
        """All words that the page shows."""
        return self.page.locator("body").inner_text()

    def node(self, kind: str) -> str:
        """The page's expression for the first node of a class."""
        return f"app.graph._nodes.find(n => n.type == '{kind}')"


def workflow(name: str) -> dict[str, Any]:
    """A shipped UI graph, by the name of its API form."""
    return json.loads((ROOT / "workflows" / f"{TITLES[name]}.json").read_text("utf-8"))


def set_widget(graph: dict[str, Any], kind: str, slot: int, value: Any) -> dict[str, Any]:
    """The UI graph with a value of the nodes of a class changed."""
    for node in graph["nodes"]:
        if node["type"] == kind:
            node["widgets_values"][slot] = value
    return graph
