"""The whole proof in ComfyUI's own page: python -m tests.support.page_proof --shots FOLDER

Starts a real ComfyUI (INKSTONE_COMFYUI_SOURCE, see comfy_install.py) with placeholders for the
files that the shipped graphs name, opens its page in headless Chromium and looks at what a user
sees: one line per check, screenshots to be looked at in FOLDER. INKSTONE_BROWSER_PYTHON is an
interpreter with Playwright, where this one has none. Exit status 0, or 1 when something is wrong.

Unusual: this module runs twice, once with the server and once (--server) in the browser's Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from scripts.workflows import models

from . import (
    page_by_hand,
    page_colours,
    page_graphs,
    page_layout,
    page_menu,
    page_messages,
    page_runs,
    page_search,
    page_titles,
    page_widgets,
    page_words,
)
from .browser_check import CHROMIUM_FLAGS, VIEW, find_chromium
from .page_desk import LOCALE, NEWER_LOOK, ROOT, Desk, Wrong

BROWSER_VARIABLE = "INKSTONE_BROWSER_PYTHON"
Check = Callable[[Desk], str]
IN_BOTH_LOOKS: dict[str, Check] = {
    "widgets hide": page_widgets.hides,
    "widgets reopen": page_widgets.reopens,
    "widgets undo": page_widgets.undoes,
    "widgets sigmas": page_widgets.sigmas,
    "colours": page_colours.sockets,
    "words of a failure": page_messages.fault,
    "words of a status": page_messages.status,
    "text of a node": page_messages.text,
    "menu check": page_menu.checks,
    "titles": page_titles.titles,
    "by hand": page_by_hand.by_hand,
}


def checks() -> Iterator[tuple[str, Check]]:
    """(name, check) in order; those of the newer look stand together at the end."""
    yield "tooltips", page_graphs.tooltips
    for name in page_graphs.NAMES:
        yield f"graph {name}", partial(page_graphs.opens, name=name)
    for name in page_graphs.NAMES:
        yield f"layout {name}", partial(page_layout.reads, name=name)
    yield "missing file", page_graphs.missing_file
    for name in page_runs.EMBEDDED:
        yield f"run {name}", partial(page_runs.runs, name=name)
    yield "drop", page_runs.drop
    yield "failure", page_runs.fails
    yield "stop", page_runs.stops
    for code in page_words.LANGUAGES:
        yield f"language {code}", partial(page_words.language, code=code)
    yield "templates", page_words.templates
    yield "search", page_search.search
    yield from ((name, check) for name, check in IN_BOTH_LOOKS.items())
    yield "menu loaders", page_menu.exchanges
    yield "settings", page_menu.settings
    yield "menu in Chinese", page_menu.chinese
    for name in page_graphs.NEWER:
        yield f"newer look {name}", partial(page_graphs.opens_newer, name=name)
    for name in page_graphs.NAMES:
        yield f"newer look layout {name}", partial(page_layout.reads, name=name)
    yield "newer look tooltip", page_graphs.tooltip_newer
    yield "newer look grows", page_graphs.grows
    yield from ((f"newer look {name}", check) for name, check in IN_BOTH_LOOKS.items())
    for name in ("edit_embedded", "controlnet_embedded"):
        yield f"newer look run {name}", partial(page_runs.runs_newer, name=name)


def place_files(base: Path, example: Path) -> None:
    """An empty file for every model that a shipped graph names, and ComfyUI's example picture."""
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        for name, folder in models.files(json.loads(path.read_text("utf-8"))).items():
            place = base / "models" / folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    for name in page_widgets.LORAS:
        place = base / "models" / "loras" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (base / "input").mkdir(parents=True, exist_ok=True)
    shutil.copy(example, base / "input" / "example.png")


def look(desk: Desk, only: str) -> int:
    """Runs the checks whose name matches the pattern `only`; returns the number of failed ones."""
    wrong = count = 0
    desk.fresh((NEWER_LOOK, False), (LOCALE, "en"))
    newer = False
    for name, check in checks():
        if not re.search(only, name):
            continue
        if name.startswith("newer look") and not newer:
            newer = True
            desk.fresh((NEWER_LOOK, True))
        began, count = time.monotonic(), count + 1
        good, line = _one(desk, check)
        wrong += not good
        took = time.monotonic() - began
        print(f"{'ok   ' if good else 'WRONG'} {name} ({took:.0f} s): {line}", flush=True)
    print(f"{count - wrong} of {count} checks passed", flush=True)
    return wrong


def _one(desk: Desk, check: Check) -> tuple[bool, str]:
    """Runs one check; the page is opened again after a failed one."""
    from playwright.sync_api import Error

    desk.problems.clear()
    try:
        line = check(desk)
        if desk.problems:
            raise Wrong(f"{line}; the page's own errors: {desk.problems}")
    except (Wrong, Error) as error:
        desk.page.screenshot(path=desk.shots / "wrong.png")
        desk.fresh()
        return False, " ".join(str(error).split())[:1500]
    return True, line


def browse(arguments: argparse.Namespace) -> int:
    """The second half: a page of a running server."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        page = browser.new_page(viewport=VIEW)
        page.add_init_script(page_layout.RECORD)
        try:
            desk = Desk(page, arguments.server, arguments.shots, arguments.log)
            return 1 if look(desk, arguments.only) else 0
        finally:
            browser.close()


def serve(arguments: argparse.Namespace) -> int:
    """The first half: the server, and this module again in the browser's Python."""
    from .comfy_install import default_cache, given_source, prepare_tree
    from .comfy_server import ComfyServer

    base = arguments.shots / "base"
    shutil.rmtree(base, ignore_errors=True)
    page = ("--front-end-root", str(arguments.page)) if arguments.page else ()
    with ComfyServer(given_source(), base=base, port=arguments.port, flags=page) as server:
        place_files(base, prepare_tree(given_source(), default_cache()) / "input" / "example.png")
        command = [
            os.environ.get(BROWSER_VARIABLE, sys.executable),
            "-m",
            "tests.support.page_proof",
            "--server",
            server.url,
            "--log",
            server.base / "server.log",
            "--shots",
            arguments.shots,
            "--only",
            arguments.only,
        ]
        return subprocess.run(command, check=False, cwd=ROOT).returncode


def main() -> int:
    """Looks at the pack in ComfyUI's page; see the module's first lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--shots", type=Path, required=True, help="where to put the screenshots")
    add("--only", default="", help="only the checks with this pattern in their name")
    add("--port", type=int, default=0)
    add("--page", type=Path, help="another page: static/ of an unpacked comfyui-frontend-package")
    add("--server", help="a server that runs already, with the files in place")
    add("--log", type=Path, help="that server's log")
    arguments = parser.parse_args()
    arguments.shots = arguments.shots.resolve()
    arguments.shots.mkdir(parents=True, exist_ok=True)
    return browse(arguments) if arguments.server else serve(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
