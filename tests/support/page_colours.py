"""The colours of our sockets and wires as the page paints them, beside the core's."""

from __future__ import annotations

from .page_desk import Desk, Wrong

PALETTE = "Comfy.ColorPalette"
THEMES = ("dark", "light")
# (our socket type, the core's that it looks like, or "")
TYPES = (
    ("INKSTONE_MODEL", "MODEL"),
    ("INKSTONE_TEXT_ENCODER", "CLIP"),
    ("INKSTONE_VAE", "VAE"),
    ("INKSTONE_CONTROL", "CONTROL_NET"),
    ("INKSTONE_LORA", ""),
    ("INKSTONE_STITCH", ""),
)
# Node classes that put out these types, one below the other.
PLACE = """async kinds => { app.graph.clear(); let y = 60;
    for (const kind of kinds) { const n = LiteGraph.createNode(kind); app.graph.add(n);
        n.pos = [300, y]; y += n.size[1] + 60; }
    const d = app.canvas.ds; d.scale = 1; d.offset[0] = 200; d.offset[1] = 60;
    await new Promise(r => setTimeout(r, 900)); app.canvas.draw(true, true); }"""
# {type: colour}: a pixel in the middle of the dot, or what the browser paints the element with.
PAINTED = """() => { app.canvas.draw(true, true); const all = {};
    const context = app.canvas.canvas.getContext('2d'), d = app.canvas.ds;
    const box = app.canvas.canvas.getBoundingClientRect();
    const ratio = app.canvas.canvas.width / box.width;
    for (const n of app.graph._nodes) n.outputs.forEach((slot, k) => {
        const dot = document.querySelector(`[data-slot-key="${n.id}-out-${k}"]`);
        if (dot) { all[slot.type] = getComputedStyle(dot).backgroundColor; return; }
        const [x, y] = n.getOutputPos ? n.getOutputPos(k) : n.getConnectionPos(false, k);
        const at = [(x + d.offset[0]) * d.scale * ratio, (y + d.offset[1]) * d.scale * ratio];
        const pixel = context.getImageData(Math.round(at[0]), Math.round(at[1]), 1, 1).data;
        all[slot.type] = `rgb(${[...pixel].slice(0, 3).join(', ')})`; });
    return all; }"""
WIRES = "() => Object.fromEntries(Object.entries(app.canvas.constructor.link_type_colors))"
CHOOSE = "async name => { await app.extensionManager.setting.set('Comfy.ColorPalette', name); }"
NODES = (
    "CheckpointLoaderSimple",
    "ControlNetLoader",
    "InkstoneLoadAll",
    "InkstoneLoadControlNet",
    "InkstoneInpaint",
    "InkstoneLoadLora",
)


def sockets(desk: Desk) -> str:
    """Models have the colours of the core's models, the others colours of their own."""
    painted = []
    desk.page.evaluate(PLACE, list(NODES))
    for theme in (*THEMES, THEMES[0]):  # and back: a palette blanks what it does not know
        desk.page.evaluate(CHOOSE, theme)
        desk.page.wait_for_timeout(1200)
        desk.shoot(f"colours-{theme}")
        painted.append(_check(desk, theme))
    if painted[0] != painted[2]:
        raise Wrong(f"{THEMES[0]} had {painted[0]} and has {painted[2]} when it is chosen again")
    for ours, _ in TYPES:
        if painted[0][ours] == painted[1][ours]:
            raise Wrong(f"{ours} has one colour for both themes: {painted[0][ours]}")
    lines = (", ".join(f"{ours[9:]} {all[ours][3:]}" for ours, _ in TYPES) for all in painted)
    return "; ".join(f"{theme}: {line}" for theme, line in zip(THEMES, lines))


def _check(desk: Desk, theme: str) -> dict[str, str]:
    painted, wires = desk.page.evaluate(PAINTED), desk.page.evaluate(WIRES)
    for ours, core in TYPES:
        if core and painted[ours] != painted[core]:
            raise Wrong(f"{theme}: {ours} is {painted[ours]}, {core} is {painted[core]}")
        if not wires.get(ours) or core and wires[ours].lower() != wires[core].lower():
            raise Wrong(
                f"{theme}: wires of {ours} are {wires.get(ours)!r}, {core} {wires.get(core)!r}"
            )
    different = {painted[ours] for ours, _ in TYPES} | {painted["IMAGE"], painted["LATENT"]}
    if len(different) != len(TYPES) + 2:
        raise Wrong(f"{theme}: two of our socket types look alike: {painted}")
    return painted
