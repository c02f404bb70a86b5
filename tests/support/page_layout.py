"""How graphs read when ComfyUI's page opens them: zoom, wires under foreign nodes, titles, frames.

    python -m tests.support.page_layout --server URL [--newer] GRAPH.json ...

measures any graph files on a running server (official templates, for comparison), and page_proof
holds the shipped ones to the limits. Wires are sampled on the paths that the page itself draws;
RECORD has to be in the page before its own scripts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .page_desk import NEWER_LOOK, Desk, Wrong, workflow

ZOOM, UNDER = 0.75, 0.03  # at the least; at the most, as a share of all wires' length
RECORD = """(() => { const Plain = window.Path2D;
    window.Path2D = class extends Plain {
        drawn = [];
        moveTo(...p) { super.moveTo(...p); this.drawn.push(['M', ...p]); }
        lineTo(...p) { super.lineTo(...p); this.drawn.push(['L', ...p]); }
        bezierCurveTo(...p) { super.bezierCurveTo(...p); this.drawn.push(['C', ...p]); } }; })()"""
OPEN = """async ([graph, source]) => {
    await app.loadGraphData(graph, true, true, null, source ? {openSource: source} : {}) }"""
MEASURE = """() => {
    app.canvas.draw(true, true);
    const d = app.canvas.ds, view = app.canvas.canvas.getBoundingClientRect();
    const nodes = app.graph._nodes, boxes = new Map(), all = x => [...(x?.values?.() ?? x ?? [])];
    for (const n of nodes) {
        const e = document.querySelector(`[data-node-id="${n.id}"]`);
        const b = e?.getBoundingClientRect();
        const at = (p, i) => (p - [view.left, view.top][i]) / d.scale - d.offset[i];
        boxes.set(n.id, b ? [at(b.left, 0), at(b.top, 1), at(b.right, 0), at(b.bottom, 1)]
          : [n.pos[0], n.pos[1] - LiteGraph.NODE_TITLE_HEIGHT, n.pos[0] + n.size[0],
             n.pos[1] + n.size[1]]); }
    const points = path => { const out = []; let x, y;
        for (const [kind, ...p] of path) {
            if (kind == 'M') out.push(p);
            for (let k = 1; k <= 50 && kind != 'M'; k++) { const t = k / 50, u = 1 - t;
                out.push(kind == 'L' ? [u * x + t * p[0], u * y + t * p[1]] : [0, 1].map(i =>
                    u ** 3 * [x, y][i] + 3 * u * u * t * p[i] + 3 * u * t * t * p[i + 2]
                    + t ** 3 * p[i + 4])); }
            [x, y] = p.slice(-2); }
        return out; };
    const title = id => app.graph.getNodeById(id)?.getTitle() ?? id;
    let length = 0, under = 0, undrawn = 0; const worst = [];
    for (const link of all(app.graph.links)) {
        const parts = [link]; let bend = app.graph.reroutes?.get(link.parentId);
        for (; bend; bend = app.graph.reroutes.get(bend.parentId)) parts.push(bend);
        const paths = parts.map(p => p.path?.drawn).filter(p => p?.length);
        undrawn += !paths.length; let own = 0; const met = new Set();
        for (const path of paths.map(points)) for (let i = 1; i < path.length; i++) {
            const [a, b] = [path[i - 1], path[i]], s = Math.hypot(b[0] - a[0], b[1] - a[1]);
            const [x, y] = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
            const hit = [...boxes].find(([id, r]) => id != link.origin_id && id != link.target_id
                && x > r[0] && x < r[2] && y > r[1] && y < r[3]);
            length += s; if (hit) { own += s; met.add(title(hit[0])); } }
        under += own;
        if (own > 5) worst.push([Math.round(own), `${title(link.origin_id)} to ` +
            `${title(link.target_id)} (${link.type}) under ${[...met].join(', ')}`]); }
    const over = []; const list = [...boxes];
    list.forEach(([i, a], k) => list.slice(0, k).forEach(([j, b]) => {
        if (a[0] < b[2] - 1 && b[0] < a[2] - 1 && a[1] < b[3] - 1 && b[1] < a[3] - 1)
            over.push(`${title(i)} on ${title(j)}`); }));
    const pen = document.createElement('canvas').getContext('2d'), cut = [];
    for (const n of nodes) {
        const e = document.querySelector(`[data-node-id="${n.id}"] [data-testid="node-title"]`);
        pen.font = n.titleFontStyle ?? '14px Arial';
        const clipped = e ? [e, ...e.querySelectorAll('*')].some(
                p => p.clientWidth > 0 && p.scrollWidth > p.clientWidth)
            : pen.measureText(n.getTitle()).width > n.size[0] - 2 * LiteGraph.NODE_TITLE_HEIGHT;
        if (clipped) cut.push(n.getTitle()); }
    const frames = all(app.graph._groups).map(g => { const f = g._bounding;
        const part = list.filter(([, b]) => { const x = (b[0] + b[2]) / 2, y = (b[1] + b[3]) / 2;
            return x > f[0] && x < f[0] + f[2] && y > f[1] && y < f[1] + f[3]; });
        return {title: g.title, count: part.length, out: part.filter(([, b]) => b[0] < f[0]
            || b[1] < f[1] || b[2] > f[0] + f[2] || b[3] > f[1] + f[3]).map(([i]) => title(i))}; });
    worst.sort((a, b) => b[0] - a[0]);
    return {zoom: d.scale, share: length ? under / length : 0, undrawn, worst, over, cut, frames,
            nodes: nodes.length, links: all(app.graph.links).length}; }"""


def measure(desk: Desk, graph: dict[str, Any], source: str = "") -> dict[str, Any]:
    """The figures of a graph as the page opens it: from its list of templates, or from a file."""
    desk.page.evaluate(OPEN, [graph, source])
    desk.page.wait_for_timeout(1200)
    return desk.page.evaluate(MEASURE)


def reads(desk: Desk, name: str) -> str:
    """A shipped graph at first open, as a template and as a file."""
    graph = workflow(name)
    zooms = {how: measure(desk, graph, how)["zoom"] for how in ("", "template")}
    newer = desk.page.locator("[data-node-id]").count() > 0
    desk.shoot(f"{'newer-' if newer else ''}layout-{name}")
    facts = desk.page.evaluate(MEASURE)
    faults = [f"zoom {zoom:.2f} as a {how or 'file'}" for how, zoom in zooms.items() if zoom < ZOOM]
    if facts["share"] > UNDER or facts["undrawn"]:
        faults.append(f"{facts['share']:.1%} of the wires lie under nodes: {facts['worst'][:3]}")
    faults += [f"{over}" for over in facts["over"]]
    faults += [f"the title {title!r} is cut" for title in facts["cut"]]
    faults += [f"{f['out']} leave the frame {f['title']!r}" for f in facts["frames"] if f["out"]]
    framed = sum(frame["count"] for frame in facts["frames"])
    if framed < facts["nodes"] - 1:  # the note may stand alone
        faults.append(f"{framed} of {facts['nodes']} nodes are in frames")
    if faults:
        raise Wrong("; ".join(faults))
    return (
        f"zoom {min(zooms.values()):.2f}, {facts['share']:.1%} of {facts['links']} wires' length "
        f"under foreign nodes, {len(facts['frames'])} frames around {framed} nodes"
    )


def main() -> None:
    """Prints the figures of graph files, one line each."""
    from playwright.sync_api import sync_playwright

    from .browser_check import CHROMIUM_FLAGS, VIEW, find_chromium

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--newer", action="store_true", help='with "Nodes 2.0"')
    parser.add_argument("--shots", type=Path, default=Path(), help="where to put screenshots")
    parser.add_argument("graphs", type=Path, nargs="+")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        page = browser.new_page(viewport=VIEW)
        page.add_init_script(RECORD)
        desk = Desk(page, arguments.server, arguments.shots, Path())
        desk.fresh((NEWER_LOOK, arguments.newer))
        for path in arguments.graphs:
            facts = measure(desk, json.loads(path.read_text("utf-8")), "template")
            desk.shoot(path.stem)
            print(
                f"{path.stem}: zoom {facts['zoom']:.2f}, {facts['share']:.1%} of the wires under "
                f"foreign nodes, {len(facts['over'])} overlaps, titles cut: {facts['cut']}",
                flush=True,
            )
        browser.close()


if __name__ == "__main__":
    main()
