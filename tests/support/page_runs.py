"""Graphs at work in ComfyUI's page: previews, pictures, a dropped picture, a failure, a stop."""

from __future__ import annotations

import base64
import time
import urllib.parse
import urllib.request
from typing import Any

from .browser_check import MINUTE, NODES, _is_prompt
from .page_desk import Desk, Wrong, set_widget, workflow

EMBEDDED = (
    "text_to_image_embedded",
    "edit_embedded",
    "image_to_image_embedded",
    "inpaint_embedded",
    "controlnet_embedded",
)
LISTEN = """() => { window.seen = {previews: 0, stopped: 0, asked: 0, steps: 0};
    if (window.listening) return; window.listening = true;
    for (const kind of ['b_preview', 'b_preview_with_metadata'])
        app.api.addEventListener(kind, () => window.seen.previews++);
    app.api.addEventListener('progress', () => window.seen.steps++);
    app.api.addEventListener('execution_interrupted',
        () => window.seen.stopped = Date.now()); }"""
SEEN = "() => window.seen"
# Widths of the pictures that the graph's output nodes show, in either look.
SHOWN = """() => app.graph._nodes.filter(n => /^(Save|Preview)Image$/.test(n.type)).map(n => {
    const shown = document.querySelector(`[data-node-id="${n.id}"] img`);
    return shown ? shown.naturalWidth : (n.imgs && n.imgs[0] ? n.imgs[0].naturalWidth : 0); })"""
DROP = """async data => { app.graph.clear();
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    const file = new File([bytes], 'x.png', {type: 'image/png'});
    const all = new DataTransfer(); all.items.add(file);
    const where = document.querySelector('#graph-canvas') || app.canvas.canvas;
    where.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true,
        dataTransfer: all, clientX: 800, clientY: 500})); }"""


def start(desk: Desk) -> str:
    """Presses Run; the prompt's id."""
    desk.page.evaluate(LISTEN)
    with desk.page.expect_response(_is_prompt, timeout=MINUTE / 2) as queued:
        desk.page.get_by_test_id("queue-button").click()
    answer = queued.value.json()
    if answer.get("error") or answer.get("node_errors"):
        raise Wrong(f"the server refused the graph: {answer}")
    return answer["prompt_id"]


def finish(desk: Desk, prompt_id: str, name: str = "", seconds: float = 300) -> dict[str, Any]:
    """The prompt's history entry; with a name, a screenshot at the third preview."""
    deadline, taken = time.monotonic() + seconds, not name
    while time.monotonic() < deadline:
        if not taken and desk.page.evaluate(SEEN)["previews"] > 2:
            desk.shoot(f"{name}-at-work")
            taken = True
        entries = desk.get(f"/history/{prompt_id}")
        if prompt_id in entries:
            desk.page.wait_for_timeout(1500)  # the page loads the picture
            return entries[prompt_id]
        desk.page.wait_for_timeout(250)
    raise Wrong(f"not finished after {seconds:.0f} s")


def runs(desk: Desk, name: str, look: str = "run") -> str:
    """Runs a shipped graph unchanged: previews on the way, pictures at the end."""
    desk.show(workflow(name))
    entry = finish(desk, start(desk), f"{look}-{name}")
    desk.shoot(f"{look}-{name}-done")
    if entry["status"]["status_str"] != "success":
        raise Wrong(f"the run ended as {entry['status']}")
    previews, shown = desk.page.evaluate(SEEN)["previews"], desk.page.evaluate(SHOWN)
    saved = [i["filename"] for o in entry["outputs"].values() for i in o.get("images", ())]
    red = [node["id"] for node in desk.page.evaluate(NODES) if node["red"]]
    if not previews or not shown or min(shown) < 64 or not saved or red:
        raise Wrong(f"{previews} previews, widths shown {shown}, files {saved}, red nodes {red}")
    return f"{previews} previews, pictures shown {shown} px wide, files {saved}"


def runs_newer(desk: Desk, name: str) -> str:
    """The same with the page's newer nodes; another seed, so that nothing comes from the cache."""
    return runs(desk, name, "newer-run")


def drop(desk: Desk) -> str:
    """A saved PNG dropped onto the empty page gives back the graph."""
    desk.show(workflow("text_to_image_embedded"))
    original = desk.page.evaluate("async () => (await app.graphToPrompt()).output")
    entry = finish(desk, start(desk))
    images = [i for o in entry["outputs"].values() for i in o.get("images", ())]
    item = next(i for i in images if i["type"] == "output")
    query = urllib.parse.urlencode({key: item[key] for key in ("filename", "subfolder", "type")})
    with urllib.request.urlopen(f"{desk.server}/view?{query}", timeout=30) as answer:
        data = base64.b64encode(answer.read()).decode()
    desk.fresh()
    desk.page.evaluate(DROP, data)
    desk.page.wait_for_timeout(3000)
    desk.shoot("dropped")
    restored = desk.page.evaluate("async () => (await app.graphToPrompt()).output")
    if restored != original:
        raise Wrong(f"the dropped {item['filename']} gave {sorted(restored)}, not the same graph")
    return f"{item['filename']} gives {len(restored)} nodes back, all values as they were"


def fails(desk: Desk) -> str:
    """A width that the chosen size overrides: the node is marked and our sentence can be read."""
    desk.show(set_widget(workflow("text_to_image_embedded"), "InkstoneEmptyLatent", 1, 512))
    finish(desk, start(desk))
    desk.shoot("failed")
    headline = " ".join(desk.page.get_by_test_id("error-overlay").inner_text().split())
    desk.page.get_by_test_id("error-overlay-see-errors").click()
    desk.page.wait_for_timeout(1500)
    desk.shoot("failed-details")
    sentence, name = "width 512", "Inkstone Empty Latent"
    marked = desk.page.evaluate(
        f"() => app.lastExecutionError.node_id == {desk.node('InkstoneEmptyLatent')}.id"
    )
    text = desk.text()
    if name not in headline or sentence not in text:
        raise Wrong(
            f"headline {headline!r}; our sentence is {'' if sentence in text else 'not '}shown"
        )
    if not marked:
        raise Wrong("another node is marked as the one that failed")
    if "custom_nodes" in text.split("Stack Trace")[0]:
        raise Wrong("a path of this machine stands before our sentence")
    desk.fresh()  # closes the panel
    return f"{headline!r}; its details show our sentence; the node is marked"


def stops(desk: Desk) -> str:
    """The stop button during a denoise; then POST /free gives the memory back."""
    graph = set_widget(workflow("text_to_image_embedded"), "InkstoneDenoise", 3, 500)
    desk.show(set_widget(graph, "InkstoneEmptyLatent", 3, 4))
    prompt_id = start(desk)
    desk.page.wait_for_function("() => window.seen.previews > 1", timeout=2 * MINUTE)
    button = desk.page.get_by_role("button", name="Cancel current run")
    button.evaluate("e => { window.seen.asked = Date.now(); e.click(); }")
    desk.page.wait_for_function("() => window.seen.stopped > 0", timeout=MINUTE)
    counts, entry = desk.page.evaluate(SEEN), finish(desk, prompt_id)
    desk.shoot("stopped")
    at = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
    if "execution_interrupted" not in at:
        raise Wrong(f"the run ended with {list(at)}")
    took = at["execution_interrupted"] - counts["asked"]
    if took > 1000:
        raise Wrong(f"the server stopped {took} ms after the button was pressed")
    shown = counts["stopped"] - counts["asked"]
    return f"server stopped after {took} ms, the page heard of it at {shown} ms; {_freed(desk)}"


def _freed(desk: Desk) -> str:
    start, deadline = desk.log.stat().st_size, time.monotonic() + 20
    desk.post("/free", {"unload_models": True, "free_memory": True})
    while time.monotonic() < deadline:
        text = desk.log.read_bytes()[start:].decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if "is unloaded" in line]
        if any("diffusion model" in line for line in lines):
            return f"/free: {len(lines)} lines such as {lines[0].strip()!r}"
        time.sleep(0.2)
    raise Wrong("after POST /free the log does not say that the diffusion model left memory")
