"""The groups of a graph and their columns, before they have a place.

A group is a stage, or what the caller names; its columns are the steps inside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import InkstoneError
from ..graph.api_graph import Graph
from .node_sizes import TITLE, Size
from .stages import ALONE, COLORS, PICTURES, PROMPT, TITLES, Schemas, parents_of, stages

ROW_GAP = 28  # from a node to the title of the one below
HIGHEST, HALF = 1044, 560  # a column; one of the upper of two rows


@dataclass(frozen=True)
class NodeGroup:
    """A coloured frame around nodes (API ids)."""

    title: str
    nodes: tuple[str, ...]
    color: str = COLORS[0]


@dataclass
class Column:
    """Nodes one below the other."""

    nodes: list[str]
    x: int = 0
    top: int = 0  # room for a wire above the first node
    width: int = 0


@dataclass
class Block:
    """A group while it is placed."""

    title: str
    color: str
    columns: list[Column]
    stage: int = -1
    row: int = 0
    spans: bool = False  # both rows

    @property
    def nodes(self) -> list[str]:
        """All nodes."""
        return [key for column in self.columns for key in column.nodes]


def blocks_of(
    graph: Graph,
    schemas: Schemas,
    groups: Sequence[NodeGroup],
    depths: Mapping[str, int],
    sizes: Mapping[str, Size],
    highest: int = HIGHEST,
) -> list[Block]:
    """The groups with their columns."""
    named = [(NodeGroup(g.title, g.nodes, g.color), -1) for g in groups]
    grouped = {key for group in groups for key in group.nodes}
    if unknown := sorted(grouped - set(graph)):
        raise InkstoneError(f"The layout's groups name nodes that are not in the graph: {unknown}.")
    if not groups:
        stage = stages(graph, schemas, depths)
        used = sorted(set(stage.values()))
        for number, n in enumerate(used, 1):
            keys = tuple(key for key in graph if stage[key] == n)
            title = ALONE if n == PROMPT and PICTURES in used else TITLES[n]
            named.append((NodeGroup(f"{number} {title}", keys, COLORS[n]), n))
    elif rest := tuple(key for key in graph if key not in grouped):
        named.append((NodeGroup("", rest), -1))
    parents = parents_of(graph)
    return [
        Block(g.title, g.color, _columns(g.nodes, parents, depths, sizes, n, highest), n)
        for g, n in named
    ]


def _columns(
    keys: Sequence[str],
    parents: Mapping[str, set[str]],
    depths: Mapping[str, int],
    sizes: Mapping[str, Size],
    stage: int,
    highest: int,
) -> list[Column]:
    """A column for each step inside a group, and more where one is higher than a screen."""
    steps: dict[str, int] = {}
    for key in sorted(keys, key=lambda key: depths[key]):
        above = parents[key] & steps.keys()
        steps[key] = max((steps[parent] + 1 for parent in above), default=0)
    count = max(steps.values(), default=0) + 1
    if count == 1 and stage == PICTURES:  # side by side
        return [Column([key]) for key in keys]
    columns = []
    limit = HALF if stage == PICTURES else highest
    for n in range(count):
        column = [key for key in keys if steps[key] == n]
        heights = [sizes[key].room + ROW_GAP + TITLE for key in column]
        each = math.ceil(len(column) / max(1, math.ceil((sum(heights) - ROW_GAP) / limit)))
        columns += [Column(column[k : k + each]) for k in range(0, len(column), each)]
    if stage == PICTURES:
        _spread(columns, sizes, {parent for key in keys for parent in parents[key]})
    return columns


def _spread(columns: list[Column], sizes: Mapping[str, Size], used: set[str]) -> None:
    """Moves nodes that no other one of the group waits for to the lowest column on their right."""
    for n, column in enumerate(columns):
        for key in [key for key in column.nodes if key not in used]:
            heights = [
                (sum(sizes[k].room + ROW_GAP + TITLE for k in c.nodes if k != key), at)
                for at, c in enumerate(columns)
                if at >= n
            ]
            column.nodes.remove(key)
            columns[min(heights)[1]].nodes.append(key)
