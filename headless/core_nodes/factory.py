"""Node classes from plain functions, and the inputs that many of them share.

Sockets, defaults and values of all stand-ins are core's (host 0.3.64); the code is ours.
"""

from __future__ import annotations

from collections.abc import Callable

from ...host.api import io
from ..node_types import NodeClass, SchemaInput, SchemaOutput, Value

MAX_SIDE = 16384
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


def number(name: str, default: int, low: int, high: int, step: int | None = None) -> SchemaInput:
    """An INT input."""
    item: SchemaInput = io.Int.Input(name, default=default, min=low, max=high, step=step)
    return item


def side(name: str, default: int = 0, low: int = 0, step: int = 1) -> SchemaInput:
    """An INT input in pixels."""
    return number(name, default, low, MAX_SIDE, step)


def image_output() -> list[SchemaOutput]:
    """One IMAGE."""
    return [io.Image.Output()]


def mask_output() -> list[SchemaOutput]:
    """One MASK."""
    return [io.Mask.Output()]


def latent_output() -> list[SchemaOutput]:
    """One LATENT."""
    return [io.Latent.Output()]


def conditioning_output() -> list[SchemaOutput]:
    """One CONDITIONING."""
    return [io.Conditioning.Output()]


def node(
    name: str,
    run: Callable[..., Value],
    inputs: Callable[[], list[SchemaInput]],
    outputs: Callable[[], list[SchemaOutput]] = image_output,
    **fields: str | bool,
) -> NodeClass:
    """A node class that runs one function and has its docstring; fields: more of its schema.

    inputs and outputs make a new list for each schema. `run` returns the value of the one output,
    or a NodeOutput.
    """

    class FunctionNode(io.ComfyNode):
        __doc__ = run.__doc__

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id=name, inputs=inputs(), outputs=outputs(), **fields)

        @classmethod
        def execute(cls, *values: Value, **more: Value) -> io.NodeOutput:
            result = run(*values, **more)
            return result if isinstance(result, io.NodeOutput) else io.NodeOutput(result)

    FunctionNode.__name__ = FunctionNode.__qualname__ = name
    return FunctionNode


def by_name(*nodes: NodeClass) -> dict[str, NodeClass]:
    """The classes by their ids."""
    return {node_class.__name__: node_class for node_class in nodes}
