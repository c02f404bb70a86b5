"""Stand-ins for ComfyUI's nodes of numbers and texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from ...host.api import io
from ..node_types import NodeClass, SchemaInput, SchemaOutput, Value
from .factory import by_name, node


def join_texts(string_a: str, string_b: str, delimiter: str) -> str:
    """Join two texts."""
    return delimiter.join((string_a, string_b))


def show(source: Value) -> io.NodeOutput:
    """Show any value as text."""
    if isinstance(source, str):
        text = source
    elif source is None or isinstance(source, (int, float, bool)):
        text = str(source)
    else:
        try:
            text = json.dumps(source)
        except (TypeError, ValueError):
            text = str(source)
    return io.NodeOutput(ui={"text": (text,)})


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
        lambda: [],
        display_name="Preview Any",
        category="utils",
        is_output_node=True,
    ),
)
