"""Input values and node schemas: socket types, defaults, and constants converted to their type.

The rules are those of ComfyUI's server ("5" is an INT), and stricter where its rule is a trap:
"false" is False, the step of an INT is enforced, combos are checked, NaN is not a FLOAT.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping

from ...errors import InkstoneError
from ..node_types import NodeClass, NodeSchema, SchemaInput, SchemaOutput, Value

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEED_NAMES = ("seed", "noise_seed")  # INTs that the page gives a "control after generate" widget


def schema_of(node_class: NodeClass) -> NodeSchema:
    """The schema of a node class."""
    schema: NodeSchema = node_class.define_schema()
    return schema


def socket_type(item: SchemaInput | SchemaOutput) -> str:
    """The type string of an input or output ("COMBO" where the host gives the list of options)."""
    kind = item.get_io_type()
    return kind if isinstance(kind, str) else "COMBO"


def is_widget(item: SchemaInput) -> bool:
    """True when the input has a widget on the page, so that the graph may hold a constant."""
    return socket_type(item) in WIDGET_TYPES and not getattr(item, "force_input", None)


def default_value(item: SchemaInput) -> Value:
    """The value that the page shows in a new widget."""
    if getattr(item, "default", None) is not None:
        return item.default
    kind = socket_type(item)
    if kind == "COMBO":
        return item.options[0] if item.options else None
    if kind in ("INT", "FLOAT"):
        low = getattr(item, "min", None)
        return max(0, low) if low is not None else 0
    return {"BOOLEAN": False}.get(kind, "")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One fault: where, what was expected, what was got."""

    node: str
    title: str
    input: str | None
    expected: str
    got: str

    def __str__(self) -> str:
        place = f"node {self.node} ({self.title})" + (
            f", input {self.input!r}" if self.input else ""
        )
        return f"{place}: expected {self.expected}, got {self.got}"


class GraphError(InkstoneError):
    """The graph cannot run; `problems` lists every fault."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = (
            "The graph has 1 fault"
            if len(problems) == 1
            else f"The graph has {len(problems)} faults"
        )
        super().__init__(f"{count}. " + "; ".join(map(str, problems)) + ".")


class Fault(Exception):
    """The value of one input is wrong: what was expected and what was got."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected, self.got = expected, got


def nearest_input(name: str, items: Mapping[str, SchemaInput]) -> str:
    """The expected text for an input name that the node does not have."""
    near = difflib.get_close_matches(name, items, 1, 0.5)
    return (
        f"{near[0]!r} (the nearest input)" if near else f"one of {', '.join(items) or 'no inputs'}"
    )


def convert(item: SchemaInput, value: Value, limits: bool = True) -> Value:
    """Convert a constant to the input's type ("5" is an INT, "false" is False). Raises Fault."""
    kind = socket_type(item)
    if not is_widget(item):
        raise Fault(f"a link of type {kind}", short(value))
    if kind == "COMBO":
        return _convert_combo(item, value, limits)
    converted = _CONVERTERS[kind](value)
    if limits and kind in ("INT", "FLOAT"):
        _check_range(item, kind, converted)
    return converted


def _to_int(value: Value) -> int:
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Fault("a whole number (INT)", short(value)) from error


def _to_float(value: Value) -> float:
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise Fault("a finite number (FLOAT)", short(value)) from error


def _to_bool(value: Value) -> bool:
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if str(value).lower() not in words:
        raise Fault("true or false (BOOLEAN)", short(value))
    return words[str(value).lower()]


def _to_text(value: Value) -> str:
    if not isinstance(value, (str, int, float)):
        raise Fault("a text (STRING)", short(value))
    return str(value)


_CONVERTERS: dict[str, Callable[[Value], int | float | bool | str]] = {
    "INT": _to_int,
    "FLOAT": _to_float,
    "BOOLEAN": _to_bool,
    "STRING": _to_text,
}


def _check_range(item: SchemaInput, kind: str, value: Value) -> None:
    """Check min and max, and for INT the step (for FLOAT it is only the stride of the arrows)."""
    low, high, step = item.min, item.max, item.step or 1
    if (low is not None and value < low) or (high is not None and value > high):
        raise Fault(f"a number in {low}..{high}", str(value))
    if kind == "INT" and step > 1 and (value - (low or 0)) % step:
        raise Fault(f"{low or 0} plus a multiple of {step}", str(value))


def _convert_combo(item: SchemaInput, value: Value, limits: bool) -> Value:
    if item.options is None or not limits:
        return value
    for option in item.options:
        if option == value or str(option) == str(value):
            return option
    near = difflib.get_close_matches(str(value), map(str, item.options), 3, 0.4) or item.options[:5]
    some = (
        ", ".join(map(repr, near)) or "nothing (the list is empty here: no file is in the folder)"
    )
    raise Fault(f"one of {len(item.options)} choices, such as {some}", short(value))


def short(value: Value) -> str:
    """A value for a message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
