"""Words on nodes while they work and when they fail: where they stand, and that they go away.

Every check runs in both looks of the page's nodes.
"""

from __future__ import annotations

import time
from typing import Any

from .browser_check import MINUTE
from .page_desk import Desk, Wrong, set_widget, workflow
from .page_widgets import API

LISTEN = """() => { window.ends = []; window.steps = 0;
    if (window.hears) return; window.hears = true;
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, () => window.ends.push(kind));
    app.api.addEventListener('progress', () => window.steps++); }"""
RUN = "async () => { await app.queuePrompt(0, 1); }"
ENDED = "() => window.ends.length > 0"
STEPS = "() => window.steps > 2"
STOP = "async () => { await app.api.fetchApi('/interrupt', {method: 'POST'}); }"
# The message of the server that puts a line of text on the node which works.
TEXT = """kind => app.api.dispatchCustomEvent('progress_text',
    {nodeId: String(app.graph._nodes.find(n => n.type == kind).id), text: 'step 1 of 3'})"""
STATUS = """kind => { const n = app.graph._nodes.find(n => n.type == kind);
    return {height: n.size[1], texts: n.widgets.filter(w => w.name == '$$node-text-preview')
        .map(w => w.value), words: document.body.innerText.includes('step 1 of 3')}; }"""
# The sentence on the node, whether it lies within it, and how much of it has to be scrolled to.
FAULT = """kind => { const n = app.graph._nodes.find(n => n.type == kind), d = app.canvas.ds,
    e = document.querySelector('.inkstone-fault'), box = e && e.getBoundingClientRect(),
    canvas = app.canvas.canvas.getBoundingClientRect();
    const left = canvas.left + (n.pos[0] + d.offset[0]) * d.scale,
        top = canvas.top + (n.pos[1] + d.offset[1]) * d.scale;
    return {height: n.size[1], text: e ? e.innerText : '',
        within: !!e && box.left >= left - 1 && box.top >= top - 1
            && box.right <= left + n.size[0] * d.scale + 1 && box.height > 10,
        cut: e ? e.scrollHeight - e.clientHeight : 0, faults: n.widgets.map(w => w.name)
            .filter(name => name == 'inkstone_fault').length}; }"""
# What the page itself says: toasts, dialogs.
SAID = """() => [...document.querySelectorAll('[role=alert], [role=dialog], [data-sonner-toast], '
    + '.p-toast-message')].map(e => e.innerText).join(' ').split(/\\s+/).join(' ')"""
SAMPLER, CANVAS = "InkstoneDenoise", "InkstoneEmptyLatent"


def fault(desk: Desk) -> str:
    """A refused width: the sentence is on the node and in the page's message, gone with a run."""
    width = 16 * (20 + int(time.monotonic()) % 60)  # no sentence of an earlier check
    desk.show(workflow("text_to_image_embedded"))
    height = desk.page.evaluate(FAULT, CANVAS)["height"]
    graph = set_widget(workflow("text_to_image_embedded"), CANVAS, 1, width)
    desk.show(graph)
    before = desk.page.evaluate(API)
    if (end := _run(desk)) != "execution_error":
        raise Wrong(f"the run ended with {end}")
    desk.page.wait_for_timeout(1500)
    desk.shoot("fault")
    seen, said = desk.page.evaluate(FAULT, CANVAS), desk.page.evaluate(SAID)
    if f"width {width} " not in seen["text"] or not seen["within"] or seen["cut"] > 1:
        raise Wrong(f"on the node: {seen}")
    if " ".join(seen["text"].split()) not in said:
        raise Wrong(f"the page's message does not have the sentence: {said!r}")
    if desk.page.evaluate(API) != before:
        raise Wrong("the words on the node became a part of the graph")
    desk.page.keyboard.press("Escape")
    desk.page.evaluate(
        f"() => {{ {desk.node(CANVAS)}.widgets.find(w => w.name == 'width').value = 1328; }}"
    )
    if (end := _run(desk)) != "execution_success":
        raise Wrong(f"the run with the right width ended with {end}")
    after = desk.page.evaluate(FAULT, CANVAS)
    if after["faults"] or after["text"] or after["height"] > height + 50:
        raise Wrong(f"after the next run: {after}, {height} high at first")
    return f"{len(seen['text'])} letters on the node and in the message, gone with the next run"


def status(desk: Desk) -> str:
    """The line of text on a node ends with the run: after its end, a stop and an error."""
    ways = (
        ("execution_success", 120, 1328),
        ("execution_interrupted", 900, 1328),
        ("execution_error", 30, 512),
    )
    for end, steps, width in ways:
        graph = set_widget(workflow("text_to_image_embedded"), SAMPLER, 3, steps)
        desk.show(set_widget(graph, CANVAS, 1, width))
        height = desk.page.evaluate(STATUS, SAMPLER)["height"]
        if end == "execution_error":  # this run is too short to put a text on it
            _put(desk)
            _start(desk)
        else:
            _start(desk)
            desk.page.wait_for_function(STEPS, timeout=2 * MINUTE)
            _put(desk)
        if end == "execution_interrupted":
            desk.page.evaluate(STOP)
        desk.page.wait_for_function(ENDED, timeout=4 * MINUTE)
        desk.page.wait_for_timeout(800)
        desk.shoot(f"status-{end}")
        left = desk.page.evaluate(STATUS, SAMPLER)
        if (last := desk.page.evaluate("() => window.ends[0]")) != end:
            raise Wrong(f"the run ended with {last}, expected {end}")
        if left["texts"] or left["words"]:
            raise Wrong(f"after {end} the sampler says {left}, {height} high at first")
    return "gone after the end, a stop and an error"


def _start(desk: Desk) -> None:
    desk.page.evaluate(LISTEN)
    desk.page.evaluate(RUN)


def _run(desk: Desk) -> Any:
    """Runs the graph; the message that it ended with."""
    _start(desk)
    desk.page.wait_for_function(ENDED, timeout=4 * MINUTE)
    return desk.page.evaluate("() => window.ends[0]")


def _put(desk: Desk) -> None:
    """Puts a line of text on the sampler."""
    desk.page.evaluate(TEXT, SAMPLER)
    if not desk.page.evaluate(STATUS, SAMPLER)["texts"]:
        raise Wrong("the page shows no status text")


MADE = """kind => { const n = app.graph._nodes.find(n => n.type == kind);
    app.api.dispatchCustomEvent('executed', {node: String(n.id), display_node: String(n.id),
        output: {text: ['one\\ntwo'], enhanced: [{prompt: 'a', text: 'b'}]}}); }"""
SHOWN = """kind => { const n = app.graph._nodes.find(n => n.type == kind);
    const e = document.querySelector('.inkstone-text');
    return {text: e ? e.innerText : '', cut: e ? e.scrollHeight - e.clientHeight : -1,
        kept: n.properties.inkstone_enhanced, texts: n.widgets.map(w => w.name)
            .filter(name => name == 'inkstone_text').length,
        saved: JSON.stringify(app.graph.serialize()).includes('inkstone_text')}; }"""


def text(desk: Desk) -> str:
    """A text that a node made stands on it, once, and is no part of the graph."""
    desk.show(workflow("text_to_image_embedded"))
    for _ in range(2):
        desk.page.evaluate(MADE, SAMPLER)
        desk.page.wait_for_timeout(800)
    desk.shoot("text")
    seen = desk.page.evaluate(SHOWN, SAMPLER)
    want = {"text": "one\ntwo", "texts": 1, "kept": {"prompt": "a", "text": "b"}, "saved": False}
    if {name: seen[name] for name in want} != want or not 0 <= seen["cut"] <= 1:
        raise Wrong(f"the node shows {seen}")
    return "the text of a node stands on it"
