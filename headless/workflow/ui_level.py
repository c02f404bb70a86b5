"""One level of a UI graph as editable JSON: new ids, added, moved and removed links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..node_types import Json

SUBGRAPH_INPUTS = -10  # the node id of a subgraph's own inputs
_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass
class UILevel:
    """The root (links are lists) or a subgraph (links are objects); edits change `data`."""

    data: dict[str, Json]
    root: bool

    @property
    def id(self) -> str:
        """The id of the subgraph: the class of the nodes that are its instances."""
        return str(self.data.get("id"))

    @property
    def nodes(self) -> list[dict[str, Json]]:
        """The nodes of this level."""
        nodes: list[dict[str, Json]] = self.data["nodes"]
        return nodes

    def links(self) -> Iterator[dict[str, Json]]:
        """All links as objects; those of the root are copies."""
        for link in self.data.get("links") or []:
            yield link if isinstance(link, dict) else dict(zip(_LINK_FIELDS, link))

    def new_node_id(self) -> int:
        """A free node id, recorded as the last one."""
        return self._new_id("Node", [node["id"] for node in self.nodes])

    def add_link(self, origin: int, target: int, kind: str) -> int:
        """Add a link from slot 0 to slot 0; return its id."""
        number = self._new_id("Link", [link["id"] for link in self.links()])
        link = {
            "id": number,
            "origin_id": origin,
            "origin_slot": 0,
            "target_id": target,
            "target_slot": 0,
            "type": kind,
        }
        self.data.setdefault("links", []).append(list(link.values()) if self.root else link)
        return number

    def _new_id(self, kind: str, used: list[Json]) -> int:
        if self.root:
            key, holder = f"last_{kind.lower()}_id", self.data
        else:
            key, holder = f"last{kind}Id", self.data.setdefault("state", {})
        number = 1 + max([holder.get(key) or 0, *(i for i in used if isinstance(i, int))])
        holder[key] = number
        return number

    def retarget(self, number: int, node: int, slot: int) -> None:
        """End a link at another node."""
        for link in self.data["links"]:
            if isinstance(link, dict) and link["id"] == number:
                link["target_id"], link["target_slot"] = node, slot
            elif isinstance(link, list) and link[0] == number:
                link[3], link[4] = node, slot

    def remove_link(self, number: int, instances: Sequence[dict[str, Json]]) -> None:
        """Remove a link. An input of the subgraph that fed nothing else is removed too, here and
        on the subgraph's instances.
        """
        link = next((x for x in self.links() if x["id"] == number), None)
        self.data["links"] = [
            x for x in self.data["links"] if (x["id"] if isinstance(x, dict) else x[0]) != number
        ]
        if self.root or link is None or link["origin_id"] != SUBGRAPH_INPUTS:
            return
        entry = self.data["inputs"][link["origin_slot"]]
        entry["linkIds"] = [i for i in entry.get("linkIds") or [] if i != number]
        if not entry["linkIds"]:
            self._remove_input(link["origin_slot"], instances)

    def _remove_input(self, slot: int, instances: Sequence[dict[str, Json]]) -> None:
        place = sum(map(self._is_widget, range(slot)))  # among the values of an instance
        entry = self.data["inputs"].pop(slot)
        for link in self.data["links"]:
            if link["origin_id"] == SUBGRAPH_INPUTS and link["origin_slot"] > slot:
                link["origin_slot"] -= 1
        for node in instances:
            inputs = node.get("inputs") or []
            node["inputs"] = [x for x in inputs if x.get("name") != entry["name"]]
            values = node.get("widgets_values")
            if isinstance(values, list) and place < len(values):
                del values[place]

    def _is_widget(self, slot: int) -> bool:
        """True for an input of this subgraph that shows a widget of a node inside."""
        nodes = {node["id"]: node for node in self.nodes}
        for link in self.links():
            if link["origin_id"] == SUBGRAPH_INPUTS and link["origin_slot"] == slot:
                inputs = (nodes.get(link["target_id"]) or {}).get("inputs") or []
                return any(x.get("link") == link["id"] and x.get("widget") for x in inputs)
        return False
