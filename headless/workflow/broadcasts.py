"""Wires without lines: nodes of cg-use-everywhere send a value to every input that fits.

Which inputs these are depends on rules that a script of the page applies. It stores what it found
in the file (`extra.ue_links` of a sheet, from its version 7): those wires become links, where they
fit the nodes of the file. All others are named with the inputs that they could have fed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ..node_types import Json
from .link_tracing import fits
from .parse_ui import INPUT_NODE, OUTPUT_NODE, RUN, Sheet, UILink, UINode, Workflow

log = logging.getLogger(__name__)

# nodes that compute nothing; "Seed Everywhere" has an output of its own
SENDERS = {
    "Anything Everywhere",
    "Anything Everywhere3",
    "Anything Everywhere?",
    "Prompts Everywhere",
}
_MOST_NAMES, _MOST_LINES = 8, 20


def connect(workflow: Workflow) -> None:
    """Makes links of the stored wires; logs a line for each sender whose wires are not known."""
    lines: list[str] = []
    for sheet in workflow.sheets():
        stored = sheet.wires
        if stored is not None:
            lines += _connect(sheet, stored)
            sheet.changed()
        else:
            senders = [node for node in sheet.nodes.values() if _sends(node)]
            lines += [_unknown(sheet, sender) for sender in senders]
    for line in lines[:_MOST_LINES]:
        log.warning("%s", line)
    if len(lines) > _MOST_LINES:
        log.warning("%d more nodes or wires of this kind", len(lines) - _MOST_LINES)


def _connect(sheet: Sheet, stored: list[Json]) -> Iterator[str]:
    """Adds the stored wires of a sheet; a sentence for each that does not fit."""
    wires = [_wire(entry) for entry in stored]
    ends = Counter((wire[0].target, wire[0].target_slot) for wire in wires if wire)
    for number, (entry, wire) in enumerate(zip(stored, wires)):
        fault = "it is no wire" if wire is None else None
        if wire is not None:
            link, sender = wire
            twice = ends[link.target, link.target_slot] > 1
            fault = "another goes there too" if twice else _fault(sheet, link, sender)
        if wire is None or fault:
            yield (
                f"a wire without a line in {sheet.name} is not in the API graph, because {fault}: "
                f"{str(entry)[:160]}. Open the graph in ComfyUI and save it again."
            )
            continue
        key = f"wire {number}"
        sheet.links[key] = link
        if link.target != OUTPUT_NODE:
            inputs = sheet.nodes[link.target].inputs
            inputs[link.target_slot] = replace(inputs[link.target_slot], link=key)


def _wire(entry: Json) -> tuple[UILink, str] | None:
    """A stored wire as a link, and the node that sends it."""
    if not isinstance(entry, dict):
        return None
    out, into = entry.get("upstream_slot"), entry.get("downstream_slot")
    nodes = [entry.get(name) for name in ("upstream", "downstream", "controller")]
    kind = entry.get("type")
    if not isinstance(out, int) or not isinstance(into, int) or min(out, into) < 0:
        return None
    if not isinstance(kind, str):
        return None
    if not all(isinstance(node, (int, str)) for node in nodes):
        return None
    upstream, downstream, sender = map(str, nodes)
    return UILink(upstream, out, downstream, into, kind), sender


def _fault(sheet: Sheet, link: UILink, sender: str) -> str | None:
    """Why a stored wire does not fit the file: it may have been changed since."""
    node = sheet.nodes.get(sender)
    if node is None or not _sends(node):
        return f"node {sender} sends nothing"
    if link.origin not in (sender, *_origins(sheet, node, link.origin_slot)):
        return f"node {sender} is not connected to that output"
    origin, target = sheet.nodes.get(link.origin), sheet.nodes.get(link.target)
    if link.origin == INPUT_NODE:
        kinds = [item.kind for item in sheet.inputs]
    elif origin is not None and origin.mode == RUN:
        kinds = origin.outputs
    else:
        return f"node {link.origin} does not run"
    ends = sheet.outputs if link.target == OUTPUT_NODE else [] if target is None else target.inputs
    if link.origin_slot >= len(kinds) or link.target_slot >= len(ends):
        return "a node has no such socket"
    end = ends[link.target_slot]
    if target is None:
        taken = sheet.output_link(link.target_slot) is not None
    else:
        taken = end.link is not None and end.link in sheet.links
    if taken:
        return "a link goes there"
    words = kinds[link.origin_slot] == "STRING" and end.kind == "COMBO"
    return None if words or fits(kinds[link.origin_slot], end.kind) else "the types differ"


def _origins(sheet: Sheet, sender: UINode, slot: int) -> Iterator[str]:
    """The nodes whose output of this number a sender is connected to."""
    for item in sender.inputs:
        link = sheet.links.get(item.link or "")
        if link is not None and link.origin_slot == slot:
            yield link.origin


def _sends(node: UINode) -> bool:
    known = node.kind in SENDERS or node.kind == "Seed Everywhere"
    return node.mode == RUN and (known or bool(node.properties.get("ue_convert")))


def _unknown(sheet: Sheet, sender: UINode) -> str:
    """The sentence for a sender whose wires the file does not hold."""
    kinds = {
        sheet.links[item.link].kind if item.kind == "*" else item.kind
        for item in sender.inputs
        if item.link in sheet.links
    }
    if sender.kind not in SENDERS:
        kinds = set(sender.outputs)
    open_inputs = [
        f"{node.id}.{item.name}"
        for node in sheet.nodes.values()
        if node.mode == RUN and node is not sender and node.kind not in SENDERS
        for item in node.inputs
        if item.widget is None and item.link not in sheet.links and item.kind in kinds
    ]
    more = len(open_inputs) - _MOST_NAMES
    shown = ", ".join(open_inputs[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return (
        f"node {sender.id}: {sender.kind} connects inputs without wires by a script of the page, "
        f"and these are not in the API graph. It may feed, in {sheet.name}: {shown or 'nothing'}. "
        "Export the graph in ComfyUI with File > Export (API), or convert them to real links there."
    )
