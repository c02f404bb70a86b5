"""Widgets of subgraphs on the nodes that are their instances, by the page that wrote the file.

An instance stores the values of its widgets: those of the subgraph's inputs, and those that
`proxyWidgets` lists as [node inside, widget]. Pages read them differently (measured with 1.27 to
1.58):

- before 1.28 `proxyWidgets` is unknown, values are those of the inputs in order;
- from 1.28 a listed widget is a window: the value inside is sent; ["-1", input] orders the inputs;
- from 1.41.5 all are windows: the values inside are sent, whatever the instance stores;
- from 1.46, and in files that name no version, each instance has values of its own, and a listed
  widget becomes an input of the subgraph.

Afterwards every instance has its values by the name of the subgraph's input.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..node_types import Json
from .node_info import Interface
from .parse_ui import INPUT_NODE, PRIMITIVES, InputSlot, Sheet, UILink, UINode, Workflow
from .widget_values import widget_values

log = logging.getLogger(__name__)

_LISTED, _INSIDE, _OWN = (1, 28), (1, 41, 5), (1, 46)  # the first versions of these pages
_PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)", re.DOTALL)  # "11: width" in some files
_NONE = object()  # no value
_MOST_NAMES = 8

Entry = tuple[str, str, str]  # node inside, widget, node further inside or ""
Feed = list[list[tuple[str, int]]]  # by input of a subgraph: (node, slot) that it is linked to


def settle(workflow: Workflow, classes: Mapping[str, Interface]) -> None:
    """Gives every instance its values by name, and the subgraphs inputs for listed widgets."""
    if workflow.subgraphs:
        _Settling(workflow, classes).run()


@dataclass
class _Settling:
    workflow: Workflow
    classes: Mapping[str, Interface]
    feeds: dict[str, Feed] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)  # of a subgraph's inputs
    widgets: dict[str, list[str]] = field(default_factory=dict)  # inputs with a widget, as stored
    # input of a subgraph by (its name or the widget's, node inside or ""); slot of a node by name
    _shown: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)
    _slots: dict[int, dict[str, int]] = field(default_factory=dict)
    _leaving: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # links by their origin

    def run(self) -> None:
        subgraphs = self.workflow.subgraphs
        for key in self.workflow.inner_first:
            sheet = subgraphs[key]
            self.feeds[key] = _feed(sheet)
            self.names[key] = {item.name for item in sheet.inputs}
            self.widgets[key] = [
                item.name
                for item, ends in zip(sheet.inputs, self.feeds[key])
                if any(self._is_widget(sheet, *end) for end in ends)
            ]
            self._shown[key] = {}
            for index in range(len(sheet.inputs)):
                self._list_shown(key, index)
        sheets = [*(subgraphs[key] for key in self.workflow.inner_first), self.workflow.root]
        instances = [(s, n) for s in sheets for n in s.nodes.values() if n.kind in subgraphs]
        for _, node in instances:
            self._settle(node)
        for _, node in instances:  # all inputs are there now
            self._fill(node)

    def _is_widget(self, sheet: Sheet, node: str, slot: int) -> bool:
        target = sheet.nodes[node]
        if target.kind in self.workflow.subgraphs:
            return target.inputs[slot].name in self.widgets[target.kind]
        return target.inputs[slot].widget is not None

    # -- one instance --

    def _settle(self, node: UINode) -> None:
        page, stored = self.workflow.frontend, node.values
        entries = _entries(node.properties.pop("proxyWidgets", None))
        values = stored if isinstance(stored, list) else []
        own = dict(zip(self.widgets[node.kind], values))
        if isinstance(stored, dict):
            own = dict(stored)
        elif page and page < _OWN:
            own = self._of_older(node, entries, values)
        else:
            for (inside, name, further), value in _paired(entries, values):
                if inside == "-1":
                    target: str | None = name if name in self.names[node.kind] else None
                else:
                    target = self._input_for(node.kind, inside, name, further)
                if target is not None and value is not None:
                    own[target] = value
        node.values = own

    def _of_older(self, node: UINode, entries: list[Entry], values: list[Json]) -> dict[str, Json]:
        """The values that an older page uses; those that only newer ones use are named."""
        page, listed = (
            self.workflow.frontend,
            {name for inside, name, _ in entries if inside == "-1"},
        )
        order = [("-1", name, "") for name in self.widgets[node.kind] if name not in listed]
        places = list(zip([*order, *entries], values))
        windows = {name for inside, name, _ in entries if inside != "-1"}
        if page < _LISTED:
            own = dict(zip(self.widgets[node.kind], values))
        elif page < _INSIDE:
            own = {n: v for (inside, n, _), v in places if inside == "-1" and n not in windows}
        else:
            own = {}
        unused = [
            f"{name} = {json.dumps(value, ensure_ascii=False)[:60]}"
            for (inside, name, further), value in places
            if value is not None
            and not (inside == "-1" and name in own)
            and self._inside(node.kind, inside, name, further) not in (value, _NONE)
        ]
        if unused:
            log.warning(
                "node %s (%s): values that the subgraph's node stores differ from those inside; "
                "those inside are used, as by the page that wrote the file (%s). Not used: %s. "
                "Pages from 1.46 would use them.",
                node.id,
                self.workflow.subgraphs[node.kind].title[:60],
                ".".join(map(str, page)),
                ", ".join(unused[:_MOST_NAMES]),
            )
        return own

    def _inside(self, kind: str, inside: str, name: str, further: str) -> Json:
        """The value inside that an entry shows; _NONE where there is none or a link gives it."""
        sheet = self.workflow.subgraphs[kind]
        if inside == "-1":
            index = sheet.input_index(name)
            return _NONE if index is None else self._value_of(kind, index)
        found = self._widget(sheet, inside, name, further, add=False)
        if found is None:
            return _NONE
        node, slot = found
        return _NONE if node.inputs[slot].link is not None else self._stored(node, slot)

    def _fill(self, node: UINode) -> None:
        """Without a value of its own, an input has that of the first widget that it feeds."""
        assert isinstance(node.values, dict)
        for index, item in enumerate(self.workflow.subgraphs[node.kind].inputs):
            ends = self.feeds[node.kind][index]
            if item.name not in node.values and ends:
                inner = self.workflow.subgraphs[node.kind].nodes[ends[0][0]]
                if len(ends) > 1 or inner.kind in self.workflow.subgraphs:
                    value = self._value_of(node.kind, index)
                    if value is not _NONE:
                        node.values[item.name] = value

    def _value_of(self, kind: str, index: int) -> Json:
        """The value of the first widget behind an input of a subgraph."""
        ends = self.feeds[kind][index]
        if not ends:
            return _NONE
        return self._stored(self.workflow.subgraphs[kind].nodes[ends[0][0]], ends[0][1])

    def _stored(self, node: UINode, slot: int) -> Json:
        """The value that a node itself has at a slot."""
        item = node.inputs[slot]
        if node.kind in self.workflow.subgraphs:
            if isinstance(node.values, dict) and item.name in node.values:
                return node.values[item.name]
            index = self.workflow.subgraphs[node.kind].input_index(item.name)
            return _NONE if index is None else self._value_of(node.kind, index)
        if item.widget is None or node.kind not in self.classes:
            return _NONE
        values = {w.name: v for w, v in widget_values(self.classes[node.kind], node) if w.sent}
        return values.get(item.widget, _NONE)

    # -- the input that a listed widget becomes --

    def _input_for(self, kind: str, inside: str, name: str, further: str) -> str | None:
        """The name of the subgraph's input for a widget inside: the one that feeds it, or a new
        one, which replaces a link from elsewhere. None: there is no such widget.
        """
        sheet = self.workflow.subgraphs[kind]
        primitive = sheet.nodes.get(inside)
        if primitive is not None and primitive.kind in PRIMITIVES:
            keys = self._links_from(kind, inside)
            ends = [(key, sheet.links[key]) for key in keys if key in sheet.links]
            return self._new_input(kind, name, ends) if ends else None
        found = self._widget(sheet, inside, name, further, add=True)
        if found is None:
            return None
        node, slot = found
        link = sheet.links.get(node.inputs[slot].link or "")
        if link is not None and link.origin == INPUT_NODE:
            inputs = sheet.inputs  # a link of a broken file may name none of them
            return inputs[link.origin_slot].name if 0 <= link.origin_slot < len(inputs) else None
        new = UILink(INPUT_NODE, 0, node.id, slot, node.inputs[slot].kind)
        return self._new_input(kind, name, [(node.inputs[slot].link or "", new)])

    def _new_input(self, kind: str, name: str, ends: list[tuple[str, UILink]]) -> str:
        """A new input of a subgraph instead of these links (their keys, "" for none)."""
        sheet, names = self.workflow.subgraphs[kind], self.names[kind]
        number, free = len(sheet.inputs), name
        if free in names:
            free = f"{name}_{number}"
        while free in names:
            free += "_"
        names.add(free)
        self.feeds[kind].append([])
        for key, link in ends:
            target = sheet.nodes.get(link.target)
            slot = None if target is None else target.input_at(link.target_slot)
            sheet.links.pop(key, None)
            if target is None or slot is None:
                continue
            new = f"proxy {number} {link.target} {link.target_slot}"
            sheet.links[new] = replace(link, origin=INPUT_NODE, origin_slot=number)
            target.inputs[link.target_slot] = replace(slot, link=new)
            self.feeds[kind][number].append((target.id, link.target_slot))
        sheet.inputs.append(InputSlot(free, ends[0][1].kind, None, None))
        self._list_shown(kind, number)
        sheet.changed()
        return free

    def _links_from(self, kind: str, node: str) -> list[str]:
        """Keys of the links that left a node of a subgraph in the file."""
        if kind not in self._leaving:
            self._leaving[kind] = {}
            for key, link in self.workflow.subgraphs[kind].links.items():
                self._leaving[kind].setdefault(link.origin, []).append(key)
        return self._leaving[kind].get(node, [])

    def _widget(
        self, sheet: Sheet, inside: str, name: str, further: str, add: bool
    ) -> tuple[UINode, int] | None:
        """(node, slot) of a widget inside a subgraph. add: a slot that the file leaves out."""
        node = sheet.nodes.get(inside)
        if node is None:
            return None
        while True:
            if node.kind in self.workflow.subgraphs:
                index = self._shown[node.kind].get((name, further))
                found = None if index is None else self._input_name(node.kind, index)
            else:
                found = self._own(node, name)
            prefix = _PREFIX.fullmatch(name)
            if found is not None or prefix is None:
                break
            further, name = prefix[1], prefix[2]
        if found is None:
            return None
        slot = self._slot(node, found)
        if slot is None and add:
            slot = self._slots[id(node)][found] = len(node.inputs)
            node.inputs.append(InputSlot(found, "*", None, found))
        return None if slot is None else (node, slot)

    def _input_name(self, kind: str, index: int) -> str:
        return self.workflow.subgraphs[kind].inputs[index].name

    def _own(self, node: UINode, name: str) -> str | None:
        """A widget of an ordinary node."""
        if self._slot(node, name) is not None:
            return name
        interface = self.classes.get(node.kind)
        known = [] if interface is None else widget_values(interface, node)
        return name if any(w.name == name and w.sent for w, _ in known) else None

    def _slot(self, node: UINode, name: str) -> int | None:
        """The first slot of a widget of a node, or of an input of an instance."""
        if id(node) not in self._slots:
            instance = node.kind in self.workflow.subgraphs
            names = [item.name if instance else item.widget for item in node.inputs]
            places = {n: index for index, n in reversed(list(enumerate(names))) if n is not None}
            self._slots[id(node)] = places
        return self._slots[id(node)].get(name)

    def _list_shown(self, kind: str, index: int) -> None:
        """Record the names under which an input of a subgraph shows a widget."""
        sheet = self.workflow.subgraphs[kind]
        for end, slot in self.feeds[kind][index][:1]:
            target = sheet.nodes[end]
            widget = target.inputs[slot].widget
            if widget is not None or target.kind in self.workflow.subgraphs:
                inner = widget or target.inputs[slot].name
                for key in ((sheet.inputs[index].name, ""), (inner, ""), (inner, end)):
                    self._shown[kind].setdefault(key, index)


def _feed(sheet: Sheet) -> Feed:
    feed: Feed = [[] for _ in sheet.inputs]
    for link in sheet.links.values():
        node = sheet.nodes.get(link.target)
        if link.origin == INPUT_NODE and 0 <= link.origin_slot < len(feed):
            if node is not None and node.input_at(link.target_slot) is not None:
                feed[link.origin_slot].append((node.id, link.target_slot))
    return feed


def _entries(stored: Json) -> list[Entry]:
    """What `proxyWidgets` lists; nothing where one entry is not of texts, as on the page."""
    if isinstance(stored, str):
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError):
            return []
    if not isinstance(stored, list):
        return []
    entries: list[Entry] = []
    for item in stored:
        texts = isinstance(item, list) and all(isinstance(part, str) for part in item)
        if not texts or len(item) not in (2, 3):
            return []
        entries.append((item[0], item[1], item[2] if len(item) == 3 else ""))
    return entries


def _paired(entries: list[Entry], values: list[Json]) -> list[tuple[Entry, Json]]:
    """Each entry with its value, None where the list is shorter; those of "-1" come last."""
    padded = [*values, *[None] * (len(entries) - len(values))]
    pairs = list(zip(entries, padded))
    return sorted(pairs, key=lambda pair: pair[0][0] == "-1")
