"""A text-to-image graph made by hand in the page: 5 nodes, 6 wires, Run, nothing else touched."""

from __future__ import annotations

import time

from .page_desk import FIT, Desk, Wrong
from .page_runs import SHOWN, finish, start

NODES = (
    "InkstoneLoadAll",
    "InkstoneEncodePrompt",
    "InkstoneDenoise",
    "InkstoneDecode",
    "SaveImage",
)
# (from, output, to, input), as a hand draws them
WIRES = (
    ("InkstoneLoadAll", "text_encoder", "InkstoneEncodePrompt", "text_encoder"),
    ("InkstoneLoadAll", "model", "InkstoneDenoise", "model"),
    ("InkstoneEncodePrompt", "positive", "InkstoneDenoise", "positive"),
    ("InkstoneDenoise", "latent", "InkstoneDecode", "latent"),
    ("InkstoneLoadAll", "vae", "InkstoneDecode", "vae"),
    ("InkstoneDecode", "image", "SaveImage", "images"),
)
SECONDS = 10  # from Run to the picture
BUILD = """async ([kinds, wires]) => {
    app.graph.clear();
    const nodes = {}, place = (slots, name) => slots.findIndex(s => (s.label ?? s.name) == name
        || s.localized_name == name || s.name == name);
    let x = 100;
    for (const kind of kinds) {
        const n = nodes[kind] = LiteGraph.createNode(kind);
        n.pos = [x, 200]; app.graph.add(n); x += n.size[0] + 60; }
    for (const [from, output, to, input] of wires) nodes[from].connect(
        place(nodes[from].outputs, output), nodes[to], place(nodes[to].inputs, input));
    await new Promise(r => setTimeout(r, 600));
    return [app.graph._nodes.length, [...app.graph.links.values()].filter(Boolean).length]; }"""


def by_hand(desk: Desk) -> str:
    """A picture of the embedded model; the time counts from the button."""
    counts = desk.page.evaluate(BUILD, [NODES, WIRES])
    if counts != [len(NODES), len(WIRES)]:
        raise Wrong(f"{counts[0]} nodes and {counts[1]} wires")
    desk.page.evaluate(FIT)
    desk.page.wait_for_timeout(900)
    desk.post("/free", {"unload_models": True, "free_memory": True})  # as at first start
    began = time.monotonic()
    entry = finish(desk, start(desk), "by-hand")
    status = entry["status"]
    at = {kind: data["timestamp"] for kind, data in status["messages"]}
    desk.shoot("by-hand-done")
    if status["status_str"] != "success":
        raise Wrong(f"the run ended as {status}")
    shown = desk.page.evaluate(SHOWN)
    if not shown or min(shown) < 64:
        raise Wrong(f"widths of the pictures shown: {shown}")
    took = (at["execution_success"] - at["execution_start"]) / 1000
    if took > SECONDS:
        raise Wrong(f"the picture took {took:.1f} s, {time.monotonic() - began:.1f} s in the page")
    return f"{counts[0]} nodes, {counts[1]} wires, a picture {shown[0]} px wide in {took:.1f} s"
