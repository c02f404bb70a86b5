"""The page's own search for nodes: what people type finds ours among the first of our pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .page_desk import Desk, Wrong
from .searches import BY_NAME, FIRST, PACK, typed

if TYPE_CHECKING:
    from playwright.sync_api import Locator

RESULT = "[data-testid=result-item], .p-autocomplete-option"  # newer pages, that of 0.3.64
SETTLED = 350  # milliseconds from the last letter to the list
# The first lines of all results, in order. Older pages keep only those in sight in the document.
LIST = """async result => {
    const rows = new Map(), list = document.querySelector('.p-virtualscroller');
    for (let top = 0; ; top += 300) {
        if (list) { list.scrollTop = top; await new Promise(r => setTimeout(r, 60)); }
        for (const e of document.querySelectorAll(result)) {
            const text = e.innerText.split('\\n')[0].replace(/\\u00a0/g, ' ').trim();
            if (text && !rows.has(text)) rows.set(text, rows.size); }
        if (!list || top + list.clientHeight >= list.scrollHeight) return [...rows.keys()]; } }"""


def search(desk: Desk) -> str:
    """Every search of the list, and every alias of every node."""
    ours = {k: d for k, d in desk.get("/object_info").items() if k.startswith("Inkstone")}
    has_aliases = any(data.get("search_aliases") for data in ours.values())
    titles = {data["display_name"]: kind for kind, data in ours.items()}
    desk.page.evaluate("() => app.graph.clear()")
    box = _opened(desk)
    wrong, places = [], []
    for words, kind in typed() if has_aliases else typed(BY_NAME):
        found = _ours(desk, box, words, titles)
        if kind in found[:FIRST]:
            places.append(found.index(kind) + 1)
        else:
            wrong.append(f"{words!r}: {found[:6]} and not {kind} first")
    desk.shoot("search")
    aliases = [(a, k) for k, d in sorted(ours.items()) for a in d.get("search_aliases") or ()]
    aliases = [(a, k) for a, k in aliases if not a.startswith(PACK)]
    lost = [f"{a!r} -> {k}" for a, k in aliases if k not in _ours(desk, box, a, titles)]
    desk.page.keyboard.press("Escape")
    if wrong or lost:
        raise Wrong(f"wrong: {wrong}; aliases that find nothing: {lost}")
    first = places.count(1)
    return f"{len(places)} searches, {first} with ours as the first; {len(aliases)} aliases"


def _opened(desk: Desk) -> Locator:
    """The box of the search, opened as a double click on the canvas does."""
    desk.page.mouse.dblclick(900, 800)
    desk.page.wait_for_timeout(1200)
    newer = desk.page.get_by_role("dialog").locator("input")
    return newer.first if newer.count() else desk.page.locator("input[role=combobox]").last


def _ours(desk: Desk, box: Locator, words: str, titles: dict[str, Any]) -> list[str]:
    """Our classes among the results, in order."""
    box.fill(words)
    desk.page.wait_for_timeout(SETTLED)
    rows = desk.page.evaluate(LIST, RESULT)
    return [titles[row] for row in rows if row in titles]
