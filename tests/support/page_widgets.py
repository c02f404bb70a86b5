"""The widgets that the page shows of our nodes: only those that apply.

Every check runs in both looks of the page's nodes.
"""

from __future__ import annotations

from typing import Any

from .browser_check import WIDGET
from .help_pictures import ALONE
from .page_desk import Desk, Wrong, workflow

SIZE, CUSTOM, SQUARE = "InkstoneEmptyLatent", "custom (width and height below)", "1:1 (1328x1328)"
LORAS = ("placeholder_one.safetensors", "placeholder_two.safetensors")  # see page_proof.place_files
NO_MODEL, NONE = "none: the method without weights", "none"

# node -> [(widget, value to choose, widgets in sight afterwards)]; the first row chooses nothing
CHOICES: dict[str, list[tuple[str, Any, str]]] = {
    SIZE: [
        ("", None, "size batch_size"),
        ("size", CUSTOM, "size width height batch_size"),
        ("width", 512, "size width height batch_size"),
        ("size", SQUARE, "size batch_size"),
    ],
    "InkstoneControlPicture": [
        ("", None, "type resolution low_threshold high_threshold"),
        ("low_threshold", 30, "type resolution low_threshold high_threshold"),
        ("type", "depth", "type resolution model"),
        ("type", "soft_edge", "type resolution safe model"),
        ("type", "lineart", "type resolution coarse model"),
        ("type", "pose", "type model keypoints"),
        ("keypoints", "[]", "type model keypoints"),
        ("type", "canny", "type resolution low_threshold high_threshold"),
    ],
    "InkstoneLoraLoader": [
        ("", None, "lora_1 blocks"),
        ("lora_1", LORAS[0], "on_1 lora_1 strength_1 lora_2 blocks"),
        ("lora_2", LORAS[1], "on_1 lora_1 strength_1 on_2 lora_2 strength_2 lora_3 blocks"),
        ("strength_2", 0.5, "on_1 lora_1 strength_1 on_2 lora_2 strength_2 lora_3 blocks"),
        ("lora_1", NONE, "lora_1 on_2 lora_2 strength_2 lora_3 blocks"),
        ("lora_2", NONE, "lora_1 blocks"),
    ],
}
# As either look of the page does it: the value, then the widget's callback.
CHOOSE = """async ([kind, name, value]) => {
    const n = app.graph._nodes.find(n => n.type == kind), w = n.widgets.find(w => w.name == name);
    w.value = value; w.callback?.(value, app.canvas, n);
    await new Promise(r => setTimeout(r, 250)); app.canvas.draw(true, true); }"""
# The names in sight, the node's height and the height that its widgets need.
SEEN = """kind => { const n = app.graph._nodes.find(n => n.type == kind),
    element = document.querySelector(`[data-node-id="${n.id}"]`);
    const drawn = element && [...element.querySelectorAll('[data-widget-name]')]
        .map(e => e.dataset.widgetName);
    const all = n.widgets.filter(w => w.name != 'control_after_generate' && n.isWidgetVisible(w));
    return {names: all.map(w => w.name), drawn: drawn && drawn.filter(d => n.widgets.some(
        w => w.name == d && w.name != 'control_after_generate')),
        height: n.size[1], needed: n.computeSize()[1],
        values: Object.fromEntries(n.widgets.map(w => [w.name, w.value]))}; }"""
API = "async () => (await app.graphToPrompt()).output"
REOPEN = """async () => { const kept = JSON.parse(JSON.stringify(app.graph.serialize()));
    app.graph.clear(); await app.loadGraphData(kept);
    await new Promise(r => setTimeout(r, 500)); }"""
CONNECT = """async on => { const s = app.graph._nodes.find(n => n.type == 'InkstoneSchedule'),
    d = app.graph._nodes.find(n => n.type == 'InkstoneDenoise'),
    k = d.inputs.findIndex(i => i.name == 'sigmas');
    if (on) s.connect(0, d, k); else d.disconnectInput(k);
    await new Promise(r => setTimeout(r, 250)); }"""
OWN = {"steps": 0, "schedule": "the model's own", "strength": 1}


def _check(desk: Desk, kind: str, names: str, when: str) -> dict[str, Any]:
    """The node's state; Wrong if other widgets are in sight, or the node has another height."""
    seen = desk.page.evaluate(SEEN, kind)
    for what in ("names", "drawn"):
        if seen[what] is not None and seen[what] != names.split():
            raise Wrong(f"{kind} {when}: {what} {seen[what]}, expected {names.split()}")
    if abs(seen["height"] - seen["needed"]) > 1:
        raise Wrong(f"{kind} {when}: {seen['height']} high, needs {seen['needed']}")
    return seen["values"]


def hides(desk: Desk) -> str:
    """Each choice shows what belongs to it; what is hidden has its default and is still sent."""
    count = 0
    for kind, choices in CHOICES.items():
        desk.page.evaluate(ALONE, kind)
        for name, value, names in choices:
            if name:
                desk.page.evaluate(CHOOSE, [kind, name, value])
            values, count = _check(desk, kind, names, f"after {name} {value}"), count + 1
        fresh = desk.get(f"/object_info/{kind}")[kind]["input"]
        specs = {**fresh["required"], **fresh.get("optional", {})}
        for name, value in values.items():
            if name not in names.split() and value != specs[name][1]["default"]:
                raise Wrong(f"{kind}: {name} is hidden and has {value!r}, not its default")
        sent = next(iter(desk.page.evaluate(API).values()))["inputs"]
        if missing := set(values) - set(sent):
            raise Wrong(f"{kind}: {sorted(missing)} is not sent")
    return f"{count} choices on {len(CHOICES)} nodes, each with its own widgets and height"


def reopens(desk: Desk) -> str:
    """A saved graph opens as it was; a value that its choice does not use stays in sight."""
    for kind, choices in CHOICES.items():
        desk.page.evaluate(ALONE, kind)
        for name, value, _ in choices[1:3]:
            desk.page.evaluate(CHOOSE, [kind, name, value])
        names = choices[2][2]
        before, sent = _check(desk, kind, names, "before"), desk.page.evaluate(API)
        desk.page.evaluate(REOPEN)
        if (after := _check(desk, kind, names, "opened again")) != before:
            raise Wrong(f"{kind}: {before} opened as {after}")
        if (again := desk.page.evaluate(API)) != sent:
            raise Wrong(f"{kind}: {sent} opened as {again}")
    desk.page.evaluate(ALONE, SIZE)
    desk.page.evaluate("() => app.graph._nodes[0].widgets.find(w => w.name == 'width').value = 512")
    desk.page.evaluate(REOPEN)
    values = _check(desk, SIZE, "size width batch_size", "with a width that its size does not use")
    if values["width"] != 512:
        raise Wrong(f"a graph that was only opened now has width {values['width']}")
    return f"{len(CHOICES)} nodes as they were; an unused width stays in sight"


def undoes(desk: Desk) -> str:
    """A size chosen with the mouse hides width and height; one undo brings both back."""
    desk.page.evaluate(ALONE, SIZE)
    desk.page.evaluate(CHOOSE, [SIZE, "size", CUSTOM])
    desk.page.evaluate(CHOOSE, [SIZE, "height", 640])
    _capture(desk)
    _pick(desk, "size", SQUARE)
    _check(desk, SIZE, "size batch_size", "after a click")
    desk.page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    desk.page.wait_for_timeout(1000)
    values = _check(desk, SIZE, "size width height batch_size", "after undo")
    if (values["size"], values["height"]) != (CUSTOM, 640):
        raise Wrong(f"one undo gave {values}")
    return "one undo brings size, width and height back"


def _capture(desk: Desk) -> None:
    """Lets the page take note of what a script did, as it does after each click and key."""
    desk.page.evaluate("""() => {
        const t = app.extensionManager.workflow.activeWorkflow.changeTracker;
        (t.captureCanvasState ?? t.checkState).call(t); }""")


def _pick(desk: Desk, name: str, value: str) -> None:
    """Chooses a value of a list on the only node with the mouse."""
    page = desk.page
    if page.locator("[data-node-id]").count():
        page.locator(f"[data-widget-name={name}]").get_by_role("combobox").click()
        page.wait_for_timeout(500)
        page.get_by_role("option", name=value).click()
    else:
        place = page.evaluate(
            WIDGET, [page.evaluate("() => String(app.graph._nodes[0].id)"), [name]]
        )
        page.mouse.click(place["x"] + 60, place["y"])
        page.wait_for_timeout(500)
        page.locator(".litecontextmenu .litemenu-entry").get_by_text(value, exact=True).click()
    page.wait_for_timeout(700)


def sigmas(desk: Desk) -> str:
    """The sampler hides steps, schedule and strength while sigmas are connected, set back."""
    graph = workflow("text_to_image_embedded")
    graph["nodes"], graph["links"] = [], []
    desk.show(graph)
    desk.page.evaluate("""() => { for (const kind of ['InkstoneSchedule', 'InkstoneDenoise']) {
        const n = LiteGraph.createNode(kind); app.graph.add(n);
        n.pos = kind == 'InkstoneDenoise' ? [700, 200] : [200, 200]; } }""")
    own, kind = "seed cfg", "InkstoneDenoise"
    every = f"{own} steps schedule strength"
    desk.page.evaluate(CHOOSE, [kind, "steps", 8])
    _check(desk, kind, every, "with steps 8")
    desk.page.evaluate(CONNECT, True)
    values = _check(desk, kind, own, "with sigmas")
    if {name: values[name] for name in OWN} != OWN:
        raise Wrong(f"hidden and not set back: {values}")
    desk.page.evaluate(REOPEN)
    _check(desk, kind, own, "with sigmas, opened again")
    desk.page.evaluate(CONNECT, False)
    _check(desk, kind, every, "with sigmas disconnected")
    return "three widgets hidden and set back while sigmas are connected"
