"""Words in ComfyUI's page: help, other languages, the template browser."""

from __future__ import annotations

import json
import re

from scripts.workflows.titles import TITLES

from .help_pictures import ALONE
from .page_desk import LOCALE, ROOT, Desk, Wrong, workflow

LANGUAGES = ("en", "zh", "zh-TW")
PICTURES = """() => [...document.querySelectorAll('img')]
    .filter(e => e.src.includes('/docs/pictures/')).map(e => e.naturalWidth)"""
CARDS = """() => [...document.querySelectorAll('[data-testid^=template-workflow-]')].map(e => {
    const img = e.querySelector('img');
    return [e.dataset.testid.slice('template-workflow-'.length), img ? img.naturalWidth : 0]; })"""


def language(desk: Desk, code: str) -> str:
    """The page in a language: the help with its picture, names on the nodes of a graph."""
    desk.fresh((LOCALE, code))
    try:
        line = f"help with a picture {_help(desk, code)} px wide"
        if code == "en":
            return line
        data = json.loads((ROOT / "locales" / code / "nodeDefs.json").read_text("utf-8"))
        desk.show(workflow("text_to_image_embedded"), 1500)
        desk.shoot(f"graph-{code}")
        titles = desk.page.evaluate(
            "() => app.graph._nodes.filter(n => n.type.startsWith('Inkstone'))"
            ".map(n => [n.type, n.getTitle()])"
        )
        wrong = [(k, t) for k, t in titles if t != data[k]["display_name"]]
        if wrong:
            raise Wrong(f"titles that are not translated: {wrong}")
        return f"{line}; {len(titles)} nodes named in it"
    finally:
        desk.fresh((LOCALE, "en"))


def _help(desk: Desk, code: str) -> int:
    """Opens a node's help as the ? in its toolbox does; the width of its picture."""
    desk.page.evaluate(ALONE, "InkstoneDenoise")
    desk.page.evaluate("() => { const n = app.graph._nodes[0]; app.canvas.select(n); }")
    desk.page.wait_for_timeout(800)
    desk.page.get_by_test_id("info-button").first.click()
    desk.page.wait_for_timeout(2500)
    desk.shoot(f"help-{code}")
    if (sentence := help_sentence("InkstoneDenoise", code)) not in desk.text():
        raise Wrong(f"the help in {code} does not say {sentence!r}")
    widths = desk.page.evaluate(PICTURES)
    if not widths or not widths[0]:
        raise Wrong(f"the help in {code} shows no picture")
    return widths[0]


def help_sentence(node: str, code: str) -> str:
    """A sentence of a node's help page that the page shows letter by letter."""
    text = (ROOT / "web" / "docs" / node / f"{code}.md").read_text("utf-8")
    words = text.partition("\n![")[2].partition("\n\n")[2].partition("\n\n")[0]
    sentences = re.split(r"(?<=[.。])\s*", words)
    return max((s for s in sentences if not re.search(r"[*`\[_]", s)), key=len)


def templates(desk: Desk) -> str:
    """The template browser lists every graph with its thumbnail; a click opens one."""
    page = desk.page
    page.get_by_text("Templates", exact=True).first.click()
    page.wait_for_timeout(2000)
    page.get_by_role("dialog").get_by_text("inkstone", exact=True).first.click()
    page.wait_for_timeout(2500)
    desk.shoot("templates")
    graphs = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    cards: dict[str, int] = {}
    for part in range(12):  # the list fills as it is scrolled
        for name, width in page.evaluate(CARDS):
            cards[name] = max(width, cards.get(name, 0))
        if set(cards) >= graphs and all(cards[name] for name in graphs):
            break
        page.get_by_test_id("template-workflows-content").hover()
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(900)
        desk.shoot(f"templates-{part + 1}")
    bare = sorted(name for name in graphs if not cards.get(name))
    if bare:
        raise Wrong(f"not listed, or without a thumbnail: {bare}")
    page.get_by_test_id(f"template-workflow-{TITLES['text_to_image_qwen_image']}").first.click()
    page.wait_for_timeout(2500)
    desk.shoot("template-opened")
    kinds = page.evaluate("() => app.graph._nodes.map(n => n.type)")
    if "InkstoneLoadDiffusionModel" not in kinds:
        raise Wrong(f"a click on a template opened {kinds}")
    return f"{len(graphs)} graphs, each with a thumbnail; one opened by a click"
