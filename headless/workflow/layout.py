"""Places the nodes of a graph for ComfyUI's page: groups by stage, from left to right.

A graph is one row of groups, with a column of nodes for each step inside a group. Two kinds need a
second row: one that is wider than a screen has its loaders in a row above, and one that draws its
own source picture has that above the rest. So a graph of the usual size is read without zooming at
1920x1080. The note goes where it makes the graph no larger: as a rule below the loaders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..graph.api_graph import Graph, Link
from ..graph.input_values import schema_of
from ..node_types import NodeClasses
from .blocks import HIGHEST, ROW_GAP, Block, Column, NodeGroup, blocks_of
from .node_sizes import ROW, TITLE, Size, size_of
from .stages import DRAW, MODELS, PICTURES

GAP, MARGIN, BETWEEN = 42, 12, 18  # between columns, inside a frame, between frames
SPAN = 20  # more space beside a group that spans both rows
FRAME_TITLE, BUS = 42, 58  # a frame's title; room for a wire above a column
CORRIDOR, LANE = 10, 14  # between two rows of groups, and for each output that is used across
SCREEN = (1896, HIGHEST)  # what the page's own fit shows at a zoom of 0.75 on 1920x1080
LOW = 400  # the highest column where two rows are higher than the screen
NOTE_WIDTHS, NOTE_LETTER, NOTE_LINE = (226, 480), 5.8, 16  # of a note: widths, a letter, a line
NOTE_COLORS = ("#432", "#000")
WIDE_LETTERS = re.compile(r"[\u2e80-\u9fff\uff00-\uffef]")  # as wide as two


@dataclass(frozen=True)
class Note:
    """A box of Markdown."""

    text: str
    title: str = "Note"

    def height(self, width: int) -> int:
        """What it takes to read it without scrolling; the letters' size is the page's."""
        lines = [line for line in self.text.split("\n") if line]
        rows = 0
        for line in lines:
            shown = re.sub(r"\]\(.*?\)|[*`\[]", "", line)
            letters = len(shown) + len(WIDE_LETTERS.findall(shown))
            rows += math.ceil(letters * NOTE_LETTER / (width - 36))
        return 10 * math.ceil((34 + NOTE_LINE * rows + 9 * len(lines)) / 10)


@dataclass(frozen=True)
class Layout:
    """What the API graph lacks: frames (without: one for each stage), notes, the pack's registry
    id, and a name for the graph.
    """

    groups: tuple[NodeGroup, ...] = ()
    notes: tuple[Note, ...] = ()
    pack: str = ""
    name: str = ""


@dataclass
class Placement:
    """The result: boxes (x, y, width, height) of nodes and notes; frames; free space."""

    boxes: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    notes: list[tuple[int, int, int, int]] = field(default_factory=list)
    hosts: list[Block | None] = field(default_factory=list)  # the group that each note is in
    blocks: list[Block] = field(default_factory=list)
    frames: list[tuple[Block, tuple[int, int, int, int]]] = field(default_factory=list)
    rooms: dict[str, int] = field(default_factory=dict)  # heights with the other look's

    def bottom(self, keys: Sequence[str]) -> int:
        """Below the lowest of these nodes."""
        return max((self.boxes[key][1] + self.rooms[key] for key in keys), default=-TITLE)

    @property
    def height(self) -> int:
        """Of all nodes with their titles."""
        return self.bottom(list(self.boxes)) - min(box[1] for box in self.boxes.values()) + TITLE

    @property
    def right(self) -> int:
        """The right edge."""
        edges = [c.x + c.width for block in self.blocks for c in block.columns]
        return max([*edges, *(x + width for x, _, width, _ in self.notes)], default=0)


def place(graph: Graph, nodes: NodeClasses, layout: Layout, depths: Mapping[str, int]) -> Placement:
    """Boxes of all nodes and notes, and frames."""
    schemas = {kind: schema_of(nodes[kind]) for kind in {n.class_type for n in graph.values()}}
    sizes = {key: size_of(node, nodes[node.class_type]) for key, node in graph.items()}
    blocks = blocks_of(graph, schemas, layout.groups, depths, sizes)
    placement = _placed(graph, sizes, blocks, stacked=False)
    wide = placement.right > SCREEN[0] and not any(block.row for block in blocks)
    if wide and blocks[0].stage == MODELS and len(blocks) > 1:
        blocks = blocks_of(graph, schemas, layout.groups, depths, sizes)
        placement = _placed(graph, sizes, blocks, stacked=True)
    elif placement.height > SCREEN[1] and any(block.row for block in blocks):
        blocks = blocks_of(graph, schemas, layout.groups, depths, sizes, LOW)
        lower = _placed(graph, sizes, blocks, stacked=False)
        placement = lower if lower.right <= SCREEN[0] else placement
    for text in layout.notes:
        _place_note(placement, text)
    _frame(placement)
    return placement


def _placed(
    graph: Graph, sizes: Mapping[str, Size], blocks: list[Block], stacked: bool
) -> Placement:
    """Places the groups in their rows. stacked: the loaders stand in a row above the others."""
    placement = Placement(blocks=blocks, rooms={key: size.room for key, size in sizes.items()})
    source = any(block.stage == PICTURES for block in blocks)
    for block in blocks:
        block.row = int(stacked and block is not blocks[0] or source and block.stage > PICTURES)
        block.spans = source and not stacked and block.stage == MODELS
    if stacked:
        blocks[0].columns = [Column([key]) for key in _by_use(graph, blocks)]
    y, left = 0, 0
    for row in sorted({block.row for block in blocks}):
        blocks_here = [block for block in blocks if block.row == row]
        _leave_room(graph, blocks_here, blocks)
        x = left
        for block in blocks_here:
            x = _place_block(graph, sizes, block, placement, (x, y)) + BETWEEN
            if block.spans:  # its wires to the other row fall beside it
                x += SPAN
                left = x
        keys = [key for block in blocks_here if not block.spans for key in block.nodes]
        y = placement.bottom(keys) + MARGIN + _corridor(graph, blocks) + FRAME_TITLE + TITLE
    return placement


def _corridor(graph: Graph, blocks: Sequence[Block]) -> int:
    """The space between two rows of groups: a lane for each output that is used across."""
    row = {key: block.row for block in blocks for key in block.nodes}
    crossing = {
        (link.node, link.slot)
        for key, node in graph.items()
        for link in node.links().values()
        if row[link.node] != row[key]
    }
    return CORRIDOR + LANE * len(crossing)


def _by_use(graph: Graph, blocks: Sequence[Block]) -> list[str]:
    """Loaders in the order of the columns that use them first."""
    column = {
        key: n
        for n, column in enumerate(c for block in blocks[1:] for c in block.columns)
        for key in column.nodes
    }
    use: dict[str, int] = {}
    for key in sorted(column, key=lambda key: column[key]):
        for origin in _origins(graph, key):
            use.setdefault(origin, column[key])
    own = blocks[0].nodes  # by steps: what is used by a loader stands right before it
    for key in reversed(own):
        for origin in _origins(graph, key):
            use.setdefault(origin, use.get(key, 0))
    return sorted(own, key=lambda key: use.get(key, 0))


def _origins(graph: Graph, key: str) -> set[str]:
    return {link.node for link in graph[key].links().values()}


def _leave_room(graph: Graph, here: Sequence[Block], blocks: Sequence[Block]) -> None:
    """Leaves room above the columns over which a model runs to its sampler."""
    models = {key for block in blocks if block.stage == MODELS for key in block.nodes}
    columns = [column for block in here for column in block.columns]
    at = {key: n for n, column in enumerate(columns) for key in column.nodes}
    for key, n in at.items():
        links = [link for link in graph[key].links().values() if link.node in models]
        samples = any(block.stage in (DRAW, PICTURES) and key in block.nodes for block in here)
        for link in links:
            begin = at.get(link.node, -1)
            if samples and begin >= 0 and link.slot == 0 and _is_first(graph, key, link):
                for column in columns[begin + 1 : n]:
                    column.top = BUS


def _is_first(graph: Graph, key: str, link: Link) -> bool:
    """True for the link of a node's first linked input: a sampler's model."""
    return next(iter(graph[key].links().values())) == link


def _place_block(
    graph: Graph,
    sizes: Mapping[str, Size],
    block: Block,
    placement: Placement,
    corner: tuple[int, int],
) -> int:
    """Places the nodes of a group; returns its right edge."""
    x, top = corner[0] + MARGIN, corner[1]
    for column in block.columns:
        column.x, y = x, top + column.top
        column.width = max(sizes[key].width for key in column.nodes)
        column.nodes.sort(key=lambda key: _height_of_origins(graph, key, placement))
        for key in column.nodes:
            placement.boxes[key] = (x, y, column.width, sizes[key].height)
            y += sizes[key].room + ROW_GAP + TITLE
        x += column.width + GAP
    return x - GAP + MARGIN


def _height_of_origins(graph: Graph, key: str, placement: Placement) -> float:
    """The mean height of the outputs that a node is linked to; those without any come last."""
    heights = [
        placement.boxes[link.node][1] + link.slot * ROW
        for link in graph[key].links().values()
        if link.node in placement.boxes
    ]
    return sum(heights) / len(heights) if heights else math.inf


def _place_note(placement: Placement, note: Note) -> None:
    """Below the columns of a group where the graph grows least."""
    right, keys = placement.right, list(placement.boxes)
    bottom = max([placement.bottom(keys), *(y + h for _, y, _, h in placement.notes)])
    options: list[tuple[int, int, Block | None, tuple[int, int, int, int]]] = []
    for rank, (block, x, width, y) in enumerate(_holes(placement)):
        fitted = min(width, NOTE_WIDTHS[1])
        height = note.height(fitted)
        growth = max(0, y + height - bottom) + max(0, x + fitted - right)
        options.append((growth, rank, block, (x, y, fitted, height)))
    width = NOTE_WIDTHS[1]
    below = (MARGIN, bottom + 2 * MARGIN + ROW_GAP + TITLE, width, note.height(width))
    _, _, host, box = min(options, default=(0, 0, None, below), key=lambda option: option[:2])
    placement.notes.append(box)
    placement.hosts.append(host)


def _holes(placement: Placement) -> Iterator[tuple[Block, int, int, int]]:
    """(group, x, width, top) below runs of columns of one group that reaches the bottom."""
    lowest = max((block.row for block in placement.blocks), default=0)
    for block in placement.blocks:
        if block.row != lowest and not block.spans:
            continue
        for first in range(len(block.columns)):
            for last in range(first, len(block.columns)):
                run = block.columns[first : last + 1]
                x, width = run[0].x, run[-1].x + run[-1].width - run[0].x
                low = [placement.bottom([key for column in run for key in column.nodes])]
                for left, y, across, height in placement.notes:
                    if left < x + width and x < left + across:
                        low.append(y + height)
                if width >= NOTE_WIDTHS[0]:
                    yield block, x, width, max(low) + ROW_GAP + TITLE


def _frame(placement: Placement) -> None:
    """Frames of one height in each row; one that has its row for itself is as wide as all."""
    lowest = max((block.row for block in placement.blocks), default=0)
    right = max(b.columns[-1].x + b.columns[-1].width for b in placement.blocks) + MARGIN
    for block in placement.blocks:
        rows = {block.row, lowest} if block.spans else {block.row}
        beside = [b for b in placement.blocks if b.row in rows and (block.spans or not b.spans)]
        keys = [key for b in beside for key in b.nodes]
        lows = [placement.bottom(keys)]
        for host, (_, y, _, height) in zip(placement.hosts, placement.notes):
            if host is not None and (lowest if host.spans else host.row) in rows:
                lows.append(y + height)
        top = min(placement.boxes[key][1] for key in keys) - TITLE - FRAME_TITLE
        left = block.columns[0].x - MARGIN
        edge = block.columns[-1].x + block.columns[-1].width + MARGIN
        if lowest and [b for b in placement.blocks if b.row == block.row and not b.spans] == [
            block
        ]:
            edge = right
        placement.frames.append((block, (left, top, edge - left, max(lows) + MARGIN - top)))
