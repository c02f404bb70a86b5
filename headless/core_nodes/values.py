"""Stand-ins for ComfyUI's nodes of numbers and texts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

from ...host.api import io
from ..node_types import NodeClass, SchemaInput, SchemaOutput, Value
from .factory import by_name, node


def join_texts(string_a: str, string_b: str, delimiter: str) -> str:
    """Join two texts."""
    return delimiter.join((string_a, string_b))


def show(source: Value) -> io.NodeOutput:
    """Show any value as text, and pass the text on."""
    if isinstance(source, str):
        text = source
    elif source is None or isinstance(source, (int, float, bool)):
        text = str(source)
    else:
        try:
            text = json.dumps(source)
        except (TypeError, ValueError):
            text = str(source)
    return io.NodeOutput(text, ui={"text": (text,)})


class ComfySwitchNode(io.ComfyNode):
    """One of two values. Like core's it asks for the chosen one only."""

    ID = "ComfySwitchNode"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.ID,
            display_name="If/Else Switch",
            category="utilities/logic",
            inputs=[
                io.Boolean.Input("switch"),
                *(io.AnyType.Input(n, lazy=True) for n in ("on_false", "on_true")),
            ],
            outputs=[io.AnyType.Output(display_name="output")],
        )

    @classmethod
    def check_lazy_status(cls, switch: bool, **values: Value) -> list[str]:
        return ["on_true" if switch else "on_false"]

    @classmethod
    def execute(cls, switch: bool, on_false: Value = None, on_true: Value = None) -> io.NodeOutput:
        return io.NodeOutput(on_true if switch else on_false)


RATIOS = {
    "1:1 (Square)": (1, 1),
    "2:3 (Portrait Photo)": (2, 3),
    "3:2 (Photo)": (3, 2),
    "3:4 (Portrait Standard)": (3, 4),
    "4:3 (Standard)": (4, 3),
    "9:16 (Portrait Widescreen)": (9, 16),
    "16:9 (Widescreen)": (16, 9),
    "21:9 (Ultrawide)": (21, 9),
}


def resolution(aspect_ratio: str, megapixels: float, multiple: int = 8) -> io.NodeOutput:
    """Width and height of this ratio and area; a megapixel is 1024 x 1024."""
    across, down = RATIOS[aspect_ratio]
    scale = math.sqrt(megapixels * 1024 * 1024 / (across * down)) / multiple
    return io.NodeOutput(*(round(side * scale) * multiple for side in (across, down)))


def _primitive(
    name: str, title: str, value: Callable[[], SchemaInput], output: Callable[[], SchemaOutput]
) -> NodeClass:
    """A node that passes its one widget on."""

    def run(value: Value) -> Value:
        return value

    run.__doc__ = f"Give its value: {title}."
    return node(
        name,
        run,
        lambda: [value()],
        lambda: [output()],
        display_name=title,
        category="utils/primitive",
    )


_RANGE = {"min": -sys.maxsize, "max": sys.maxsize}

VALUE_NODES = by_name(
    _primitive(
        "PrimitiveInt",
        "Int",
        lambda: io.Int.Input("value", control_after_generate=True, **_RANGE),
        io.Int.Output,
    ),
    _primitive(
        "PrimitiveFloat", "Float", lambda: io.Float.Input("value", **_RANGE), io.Float.Output
    ),
    _primitive("PrimitiveString", "String", lambda: io.String.Input("value"), io.String.Output),
    _primitive(
        "PrimitiveStringMultiline",
        "String (Multiline)",
        lambda: io.String.Input("value", multiline=True),
        io.String.Output,
    ),
    _primitive("PrimitiveBoolean", "Boolean", lambda: io.Boolean.Input("value"), io.Boolean.Output),
    node(
        "StringConcatenate",
        join_texts,
        lambda: [
            io.String.Input("string_a", multiline=True),
            io.String.Input("string_b", multiline=True),
            io.String.Input("delimiter", default=""),
        ],
        lambda: [io.String.Output()],
        display_name="Concatenate",
        category="utils/string",
    ),
    node(
        "PreviewAny",
        show,
        lambda: [io.AnyType.Input("source")],
        lambda: [io.String.Output()],  # of newer cores
        display_name="Preview Any",
        category="utils",
        is_output_node=True,
    ),
    ComfySwitchNode,
    node(
        "ResolutionSelector",
        resolution,
        lambda: [
            io.Combo.Input("aspect_ratio", options=list(RATIOS), default="1:1 (Square)"),
            io.Float.Input("megapixels", default=1.0, min=0.1, max=16.0, step=0.1),
            io.Int.Input("multiple", default=8, min=4, max=128, step=4, optional=True),
        ],
        lambda: [io.Int.Output(display_name=name) for name in ("width", "height")],
        display_name="Resolution Selector",
        category="utilities",
    ),
)
