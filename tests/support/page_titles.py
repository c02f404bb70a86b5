"""Titles of our nodes on the page: all of a new node's title is drawn, in each language."""

from __future__ import annotations

from typing import Any

from .page_desk import LOCALE, Desk, Wrong
from .page_words import LANGUAGES

# [class, title, the title as it is drawn] of a new node of each class: letters drawn into the
# canvas, or an element of the newer nodes with the letters that it cuts.
DRAWN = """async kinds => {
    const wait = ms => new Promise(r => setTimeout(r, ms)), d = app.canvas.ds, all = [];
    for (const kind of kinds) {
        app.graph.clear();
        const n = LiteGraph.createNode(kind); app.graph.add(n); n.pos = [100, 100];
        d.scale = 1; d.offset[0] = 300; d.offset[1] = 100;
        await wait(150);
        const drawn = [], proto = CanvasRenderingContext2D.prototype, plain = proto.fillText;
        proto.fillText = function (text, ...rest) {
            drawn.push(String(text)); return plain.call(this, text, ...rest); };
        try { app.canvas.draw(true, true); } finally { proto.fillText = plain; }
        const title = n.getTitle(), place = document.querySelector(
            `[data-node-id="${n.id}"] [data-testid="node-title"]`);
        if (!place) { all.push([kind, title, drawn.includes(title)
            ? title : drawn.find(t => title.startsWith(t.slice(0, 6))) ?? '']); continue; }
        const cut = [place, ...place.querySelectorAll('*')].some(
            e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth);
        const text = place.innerText.trim();
        all.push([kind, title, cut ? text.slice(0, -1) + '…' : text]); }
    return all; }"""


def titles(desk: Desk) -> str:
    """The title of every node when it is new, in English and Chinese."""
    kinds = sorted(kind for kind in desk.get("/object_info") if kind.startswith("Inkstone"))
    cut: list[Any] = []
    try:
        for code in LANGUAGES:
            desk.fresh((LOCALE, code))
            rows = desk.page.evaluate(DRAWN, kinds)
            cut += [(code, *row) for row in rows if row[1] != row[2]]
    finally:
        desk.fresh((LOCALE, "en"))
    if cut:
        raise Wrong(f"titles that are cut: {cut}")
    return f"{len(kinds)} titles in {len(LANGUAGES)} languages, each drawn whole"
