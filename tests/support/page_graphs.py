"""Shipped graphs opened in ComfyUI's page, as a user sees them, in both looks of its nodes."""

from __future__ import annotations

import json
from itertools import combinations

from .browser_check import NODES, WIDGET, _hover, _shots_at_full_size, differences
from .help_pictures import ALONE
from .page_desk import ROOT, Desk, Wrong, set_widget, workflow

NAMES = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))
NEWER = (
    "text_to_image_embedded",
    "text_to_image_gguf_lightning_lora",
    "edit_2511_three_pictures",
    "controlnet_fun_union_inpaint",
    "controlnet_embedded",
    "outpaint_qwen_image",
    "layered",
)
# [title, left, top, right, bottom] of every node in the graph's units: as drawn, title included.
BOXES = """() => app.graph._nodes.map(n => {
    const element = document.querySelector(`[data-node-id="${n.id}"]`), d = app.canvas.ds;
    if (!element) return [n.getTitle(), n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0],
                       n.pos[1] + n.size[1]];
    const box = element.getBoundingClientRect();
    return [n.getTitle(), box.left / d.scale, box.top / d.scale, box.right / d.scale,
            box.bottom / d.scale]; })"""
# Texts of notes that have to be scrolled, and texts of chosen values that end in "...".
CUT = """() => {
    const all = [...document.querySelectorAll('.comfy-markdown, [data-testid="node-widgets"] *')];
    return all.filter(e => e.children.length == 0 || e.classList.contains('comfy-markdown'))
        .filter(e => e.clientWidth > 0 && (e.scrollWidth > e.clientWidth + 1
            && getComputedStyle(e).textOverflow == 'ellipsis'
            || e.classList.contains('comfy-markdown') && e.scrollHeight > e.clientHeight + 2))
        .map(e => (e.innerText || e.value || '').slice(0, 60)); }"""


def opens(desk: Desk, name: str) -> str:
    """Known nodes, none red, the page's conversion as stored, no node on another."""
    desk.show(workflow(name))
    desk.shoot(f"graph-{name}")
    return f"{_sound(desk, name)}, {_apart(desk)}"


def opens_newer(desk: Desk, name: str) -> str:
    """The same with the page's newer nodes, photographed at full size too."""
    desk.show(workflow(name), 1500)
    desk.shoot(f"newer-{name}")
    drawn = desk.page.locator("[data-node-id]").count()
    if not drawn:
        raise Wrong("the page does not draw its newer nodes")
    line = f"{_sound(desk, name)}, {drawn} drawn, {_apart(desk)}"
    _shots_at_full_size(desk.page, desk.shots / f"newer-{name}.png")
    cut = sorted(set(desk.page.evaluate(CUT)) - {""})
    return line + (f"; cut: {cut}" if cut else "")


def _sound(desk: Desk, name: str) -> str:
    nodes = desk.page.evaluate(NODES)
    bad = [f"{n['id']} {n['type']}" for n in nodes if n["red"] or not n["known"]]
    if bad or not nodes:
        raise Wrong(f"red or unknown nodes: {bad or 'no node at all'}")
    stored = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    converted = desk.page.evaluate("async () => (await app.graphToPrompt()).output")
    if lines := differences(converted, stored):
        raise Wrong(f"the page's conversion differs: {'; '.join(lines)}")
    if desk.page.get_by_test_id("error-overlay").count():
        words = desk.page.get_by_test_id("error-overlay").inner_text()
        raise Wrong(f"the page complains: {' '.join(words.split())}")
    return f"{len(nodes)} nodes, conversion as stored"


def _apart(desk: Desk) -> str:
    """No box lies on another; a note is read without scrolling."""
    boxes = desk.page.evaluate(BOXES)
    over = [
        f"{a[0]} on {b[0]}"
        for a, b in combinations(boxes, 2)
        if a[1] < b[3] - 1 and b[1] < a[3] - 1 and a[2] < b[4] - 1 and b[2] < a[4] - 1
    ]
    if over:
        raise Wrong(f"nodes on nodes: {over}")
    return "none on another"


def tooltips(desk: Desk) -> str:
    """Every input of every node has one, and hovering shows it."""
    wrong, hovered, silent, inputs = [], 0, [], 0
    for kind, interface in sorted(desk.get("/object_info").items()):
        if not kind.startswith("Inkstone"):
            continue
        tips = {
            name: spec[1].get("tooltip") if len(spec) > 1 else None
            for group in ("required", "optional")  # hidden inputs have none
            for name, spec in interface["input"].get(group, {}).items()
        }
        inputs += len(tips)
        silent += [f"{kind}.{name}" for name, tip in tips.items() if not tip]
        desk.page.evaluate(ALONE, kind)
        node = desk.page.evaluate("() => String(app.graph._nodes[0].id)")
        place = desk.page.evaluate(WIDGET, [node, list(tips)])
        if place is None:  # sockets only
            continue
        hovered += 1
        shown = " ".join(_hover(desk.page, place, desk.shots / f"{kind}.png").split())
        if shown != " ".join((tips[place["name"]] or "").split()):
            wrong.append(f"{kind}.{place['name']}: {shown!r}")
    if silent or wrong:
        raise Wrong(f"no tooltip: {silent}; shown otherwise: {wrong}")
    return f"on all {inputs} inputs; hovering shows it on {hovered} of {hovered} nodes with widgets"


def tooltip_newer(desk: Desk) -> str:
    """Hovering a widget of the newer nodes shows its tooltip."""
    desk.show(workflow("text_to_image_embedded"), 1500)
    label = desk.page.get_by_test_id("node-widget").filter(has_text="cfg").first
    label.hover()
    desk.page.wait_for_timeout(1500)
    desk.shoot("newer-tooltip")
    tip = desk.get("/object_info/InkstoneDenoise")["InkstoneDenoise"]
    text = tip["input"]["required"]["cfg"][1]["tooltip"]
    if text not in desk.text():
        raise Wrong(f"hovering cfg does not show {text!r}")
    return f"shown: {text!r}"


def grows(desk: Desk) -> str:
    """A picture connected to the last socket of the edit node makes another socket."""
    desk.show(workflow("edit_2511"), 1500)
    count = f"() => {desk.node('InkstoneEncodeEdit')}.inputs.filter(i => i.type == 'IMAGE').length"
    before = desk.page.evaluate(count)
    desk.page.evaluate(f"""() => {{
        const edit = {desk.node("InkstoneEncodeEdit")}, load = {desk.node("LoadImage")};
        const free = edit.inputs.findIndex(i => i.type == 'IMAGE' && i.link == null);
        load.connect(0, edit, free); }}""")
    desk.page.wait_for_timeout(1000)
    desk.shoot("newer-grown")
    after = desk.page.evaluate(count)
    graph = desk.page.evaluate("async () => (await app.graphToPrompt()).output")
    sent = sorted(
        key
        for node in graph.values()
        if node["class_type"] == "InkstoneEncodeEdit"
        for key in node["inputs"]
        if key.startswith("images.")
    )
    interface = desk.get("/object_info/InkstoneEncodeEdit")["InkstoneEncodeEdit"]["input"][
        "required"
    ]
    grown = before + ("images" in interface)  # hosts before Autogrow show a fixed number
    if after != grown or sent != ["images.picture_1", "images.picture_2"]:
        raise Wrong(f"{before} picture sockets became {after}; sent: {sent}")
    return f"{before} picture sockets became {after}; both pictures are sent"


def missing_file(desk: Desk) -> str:
    """A missing file is reported by name, with a download, before anything runs."""
    absent = "qwen_image_absent.safetensors"
    graph = workflow("text_to_image_qwen_image")
    set_widget(graph, "InkstoneLoadDiffusionModel", 0, absent)
    for node in graph["nodes"]:
        for entry in node["properties"].get("models", ()):
            if "diffusion_models" in entry["directory"]:
                entry["name"] = absent
    desk.show(graph, 2500)
    desk.shoot("missing-file")
    button = desk.page.get_by_test_id("error-overlay-see-errors")
    if button.count():
        button.first.click()
        desk.page.wait_for_timeout(1500)
        desk.shoot("missing-file-details")
    text = desk.text()
    desk.fresh()  # closes the panel
    if "Missing Models" not in text or absent not in text or "Download" not in text:
        raise Wrong(f"the page does not say that {absent} is missing, or offers no download")
    return "reported by name, a download is offered"
