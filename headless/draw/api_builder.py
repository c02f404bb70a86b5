"""An API graph under construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from pathlib import Path

Value: TypeAlias = object  # a number, a text, a list, or a Ref


class ApiNode(TypedDict, total=False):
    """A node as ComfyUI's API form writes it."""

    class_type: str
    inputs: dict[str, Value]
    _meta: dict[str, str]


ApiGraph: TypeAlias = dict[str, ApiNode]


class Names(Protocol):
    """The names of files in a graph."""

    def of(self, kind: str, path: Path) -> str:
        """The name of a file of a kind: "loras", "vae", "input" ..."""

    def away(self) -> list[str]:
        """Files that a reader of the graph must put into a folder, one line per folder."""


class Ref(NamedTuple):
    """An output of a node, as a link in an API graph: [id, slot]."""

    node: str
    slot: int


class ApiBuilder:
    """The nodes so far. Ids are numbers in the order of `add`."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.nodes: ApiGraph = {}

    def add(self, kind: str, inputs: Mapping[str, Value], title: str = "") -> Ref:
        """Adds a node of a class; returns its first output."""
        key = str(len(self.nodes) + 1)
        plain = {k: list(v) if isinstance(v, Ref) else v for k, v in inputs.items()}
        self.nodes[key] = {"class_type": kind, "inputs": plain}
        if title:
            self.nodes[key]["_meta"] = {"title": title}
        return Ref(key, 0)
