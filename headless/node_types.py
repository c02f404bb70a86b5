"""Types of the parts of a node class that the executor reads: schema, inputs, outputs.

The host's own classes have more fields, and not every kind of input has all of these; read a field
that some kinds lack with getattr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ..host.api import io

Json: TypeAlias = Any  # parsed JSON of any shape: its reader checks it
Value: TypeAlias = Any  # a widget's value or what a wire carries: each node class defines its own
NodeClass: TypeAlias = type[io.ComfyNode]
NodeClasses: TypeAlias = Mapping[str, type[io.ComfyNode]]


class SchemaOutput(Protocol):
    """An output of a node class."""

    display_name: str | None
    is_output_list: bool

    def get_io_type(self) -> str | list[str]: ...


class SchemaInput(Protocol):
    """An input of a node class; numbers have min, max and step, combos have options."""

    id: str
    display_name: str | None
    optional: bool
    lazy: bool | None
    default: Value
    min: float | None
    max: float | None
    step: float | None
    options: list[str] | None
    socketless: bool | None

    def get_io_type(self) -> str | list[str]: ...


class NodeSchema(Protocol):
    """The result of define_schema."""

    node_id: str
    display_name: str | None
    inputs: list[SchemaInput] | None
    outputs: list[SchemaOutput] | None
    hidden: Sequence[io.Hidden] | None
    is_input_list: bool
    is_output_node: bool
    not_idempotent: bool
