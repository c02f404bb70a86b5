"""One level of a UI graph as editable JSON: new ids, added, moved and removed links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..node_types import Json
from .parse_ui import as_list, as_object

SUBGRAPH_INPUTS = -10  # the node id of a subgraph's own inputs
_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass
class UILevel:
    """The root (links are lists) or a subgraph (links are objects); edits change `data`."""

    data: dict[str, Json]
    root: bool

    def __post_init__(self) -> None:
        """Bring what differs between files into one form; parse_ui.py has checked the rest."""
        data = self.data
        data["nodes"] = as_list(data.get("nodes"), "nodes")
        links = [link for link in as_list(data.get("links"), "links") if link is not None]
        if not self.root:
            links = [x if isinstance(x, dict) else dict(zip(_LINK_FIELDS, x)) for x in links]
            data["inputs"] = _objects(data.get("inputs"))
        data["links"] = links
        for link in (x for x in links if isinstance(x, dict)):
            link.update({name: link.get(name) for name in _LINK_FIELDS})
            link["origin_slot"] = int(link["origin_slot"])
        for node in data["nodes"]:
            if node.get("inputs") is not None:
                node["inputs"] = _objects(node["inputs"])

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
        for link in self.data["links"]:
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
            key, holder = f"last{kind}Id", as_object(self.data.get("state"), "state")
            self.data["state"] = holder
        number = 1 + max([0, *(i for i in (holder.get(key), *used) if isinstance(i, int))])
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
        if not 0 <= link["origin_slot"] < len(self.data["inputs"]):
            return
        entry = self.data["inputs"][link["origin_slot"]]
        entry["linkIds"] = [i for i in list_of(entry.get("linkIds")) if i != number]
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
            node["inputs"] = [x for x in inputs if x.get("name") != entry.get("name")]
            values = node.get("widgets_values")
            if isinstance(values, list) and place < len(values):
                del values[place]

    def _is_widget(self, slot: int) -> bool:
        """True for an input of this subgraph that shows a widget of a node inside."""
        nodes = {str(node["id"]): node for node in self.nodes}
        for link in self.links():
            if link["origin_id"] == SUBGRAPH_INPUTS and link["origin_slot"] == slot:
                inputs = (nodes.get(str(link["target_id"])) or {}).get("inputs") or []
                return any(x.get("link") == link["id"] and x.get("widget") for x in inputs)
        return False


def list_of(value: Json) -> list[Json]:
    """A list of the file; [] for anything else."""
    return value if isinstance(value, list) else []


def _objects(value: Json) -> list[dict[str, Json]]:
    return [as_object(item, "a socket") for item in as_list(value, "sockets")]
