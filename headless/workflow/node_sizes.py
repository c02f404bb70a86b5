"""How large ComfyUI's page draws a node, and where its sockets are, without a page.

The figures are those of the page's two looks, measured in 1.58: the canvas, and "Nodes 2.0" whose
rows are higher. A node's place has room for the taller one. tests/support/page_layout.py measures
both again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...nodes.shown import KEY, is_shown
from ...nodes.sockets import FIXED
from ..graph.api_graph import Node
from ..graph.input_values import SEED_NAMES, is_widget, schema_of, socket_type
from ..node_types import NodeClass, SchemaInput

TITLE, ROW, WIDGET, EDGE = 30, 20, 24, 14  # heights on the canvas, in the page's units
NEWER_WIDGET, NEWER_SWITCH, NEWER_FIELD, NEWER_EDGE = 28, 44, 36, 38  # in "Nodes 2.0"
PICTURE, PREVIEW = 236, 120
TEXT_LINE, TEXT_EDGE, TEXT_BOX = 15, 26, (68, 100)  # a line of text, its box: least and most
SLOT = 14  # the middle of the first socket, below the title
LETTER, TITLE_LETTER = 6.5, 7.2  # widths of a letter in a row and in a title, on average
ROW_EDGE, TITLE_EDGE = 58, 66  # what a row and a title need besides their letters
NARROWEST, WIDEST = 226, 372  # "Nodes 2.0" draws none narrower
FILES, CHOICE = (".safetensors", ".gguf"), 20
TEXT_WIDTH, TEXT_LETTERS, PICTURE_WIDTH, NUMBER = 252, 36, 228, 60


@dataclass(frozen=True)
class Size:
    """Width and height of a node's body on the canvas, and what its place needs in either look."""

    width: int
    height: int
    room: int


@dataclass(frozen=True)
class Rows:
    """What a node shows: sockets and widgets in the page's order, and the number of outputs."""

    sockets: list[SchemaInput]
    widgets: list[SchemaInput]
    outputs: list[str]
    grows: bool  # it has a growing input

    @property
    def lines(self) -> int:
        """Lines of sockets: an input and an output share one. A growing input has at least as many
        as a host that cannot grow it.
        """
        grown = sum("." in item.id for item in self.sockets)
        spare = max(FIXED - grown, 1) if self.grows else 0
        return max(len(self.sockets) + spare, len(self.outputs))


def rows_of(node: Node, node_class: NodeClass) -> Rows:
    """The rows of a node. Of a growing input ("images.picture_1", ...) only the sockets in use: the
    page adds a free one, and would show others as unknown inputs.
    """
    schema = schema_of(node_class)
    items = sorted(schema.inputs or [], key=lambda item: bool(item.optional))
    sockets = [i for i in items if not is_widget(i) and ("." not in i.id or i.id in node.inputs)]
    outputs = [item.display_name or socket_type(item) for item in schema.outputs or []]
    grows = any("." in item.id for item in items)
    return Rows(sockets, [i for i in items if is_widget(i)], outputs, grows)


def has_control(item: SchemaInput) -> bool:
    """True when the page adds a "control after generate" widget behind this one."""
    if getattr(item, "control_after_generate", None):
        return True
    return socket_type(item) == "INT" and item.id in SEED_NAMES


def size_of(node: Node, node_class: NodeClass) -> Size:
    """The size of a node with these values."""
    rows = rows_of(node, node_class)
    shown = _shown(node, rows.widgets)
    texts = [item for item in shown if _is_text(item)]
    preview = bool(rows.sockets and rows.outputs)  # a step of the way that shows what it made
    picture = (PREVIEW if preview else PICTURE) if shows_picture(node_class) else 0
    plain = len(shown) - len(texts)
    boxes = len(texts) * _box(node, texts)  # the page makes them equal
    controls = sum(has_control(item) for item in shown)
    uploads = sum(_is_upload(item) for item in shown)
    canvas = EDGE + ROW * rows.lines + WIDGET * (plain + controls + uploads)
    switches = sum(socket_type(item) == "BOOLEAN" for item in shown)
    newer = NEWER_EDGE + ROW * rows.lines + NEWER_WIDGET * (plain + uploads)
    newer += (NEWER_SWITCH - NEWER_WIDGET) * switches
    if not picture:  # which is lower by what the fields need
        newer += (NEWER_FIELD - NEWER_WIDGET) * sum(_is_field(item) for item in shown)
    canvas, newer = (edge + boxes + picture for edge in (canvas, newer))
    height = newer if texts or picture else canvas  # boxes and pictures fill what is there
    return Size(_width(node, node_class, rows, shown), height, max(canvas, newer))


def _box(node: Node, texts: list[SchemaInput]) -> int:
    """The height of a text box: of the longest text, within limits."""
    longest = max((len(str(node.inputs.get(item.id, ""))) for item in texts), default=0)
    least, most = TEXT_BOX
    return min(most, max(least, TEXT_EDGE + TEXT_LINE * math.ceil(longest / TEXT_LETTERS)))


def shows_picture(node_class: NodeClass) -> bool:
    """True for a node that shows a picture: it loads, saves or previews one."""
    schema = schema_of(node_class)
    return schema.is_output_node or any(_is_upload(item) for item in schema.inputs or [])


def _shown(node: Node, widgets: list[SchemaInput]) -> list[SchemaInput]:
    """The widgets that the page shows: not those that another input makes meaningless."""
    linked = node.links()
    return [
        item
        for item in widgets
        if (ways := (getattr(item, "extra_dict", None) or {}).get(KEY)) is None
        or is_shown(ways, node.inputs, linked)
        or item.id in linked
        or node.inputs.get(item.id, item.default) != item.default
    ]


def _is_text(item: SchemaInput) -> bool:
    return bool(getattr(item, "multiline", False))


def _is_field(item: SchemaInput) -> bool:
    """True for a text of one line."""
    return socket_type(item) == "STRING" and not _is_text(item)


def _is_upload(item: SchemaInput) -> bool:
    return getattr(item, "upload", None) is not None


def _width(node: Node, node_class: NodeClass, rows: Rows, shown: list[SchemaInput]) -> int:
    """Wide enough for the title, for the names of two sockets in a line, and for file names."""
    title = node.title if node.title != node.class_type else schema_of(node_class).display_name
    needs = [NARROWEST, TITLE_EDGE + TITLE_LETTER * len(title or node.class_type)]
    lefts = [item.display_name or item.id for item in rows.sockets]
    for left, right in zip(lefts, rows.outputs):
        needs.append(ROW_EDGE + LETTER * (len(left) + len(right)))
    for item in shown:
        chosen = NUMBER if socket_type(item) != "COMBO" else LETTER * _letters(node, item)
        needs.append(TEXT_WIDTH if _is_text(item) else ROW_EDGE + LETTER * len(item.id) + chosen)
    if shows_picture(node_class):
        needs.append(PICTURE_WIDTH)
    return min(WIDEST, round(max(needs)))


def _letters(node: Node, item: SchemaInput) -> int:
    """The letters of a choice that are worth a wider node: all of a file name's."""
    value = str(node.inputs.get(item.id) or "")
    return len(value) if value.endswith(FILES) else min(len(value), CHOICE)
