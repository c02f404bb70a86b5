"""Reports of a graph's run: events while it runs, a result, or the error of a node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from ...errors import InkstoneError
from ..node_types import Json, Value
from .api_graph import Node


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened in a run. `kind` and its `data`:

    start {nodes: [ids that an output needs]}, cached {}, executing {class_type, title, unread:
    [output slots that are not connected, of a class that skips them]},
    progress {value, max, preview: PIL image or None}, executed {ui, seconds}, done {seconds}.
    `node` is the node's id, "" for start and done.
    """

    kind: str
    node: str = ""
    data: Mapping[str, Value] = dataclasses.field(default_factory=dict)


OnEvent = Callable[[Event], None]


@dataclasses.dataclass
class RunResult:
    """Results of a run. outputs: node id -> ui dict; executed, cached, blocked: node ids."""

    outputs: dict[str, dict[str, Json]] = dataclasses.field(default_factory=dict)
    executed: list[str] = dataclasses.field(default_factory=list)
    cached: list[str] = dataclasses.field(default_factory=list)
    blocked: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


class NodeError(InkstoneError):
    """A node failed: `node`, `class_type` and `title` identify it, `__cause__` is its exception."""

    def __init__(self, node: Node, error: BaseException) -> None:
        self.node, self.class_type, self.title = node.id, node.class_type, node.title
        reason = (
            str(error) if isinstance(error, InkstoneError) else f"{type(error).__name__}: {error}"
        )
        super().__init__(f"Node {node.id} ({node.title}, {node.class_type}) failed. {reason}")
