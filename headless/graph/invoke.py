"""Calling a node class as ComfyUI does: hidden values, inference mode, async, return forms."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

from ...errors import InkstoneError
from ...host import headless
from ...host.api import io
from ...host.exhaustion import memory_fault
from ..node_types import NodeClass, NodeSchema, Value
from .api_graph import Node
from .events import NodeError
from .input_values import WIDGET_TYPES, socket_type


def with_hidden(node_class: NodeClass, schema: NodeSchema, values: dict[str, Value]) -> NodeClass:
    """A subclass for one run whose `hidden` has the values that the schema requests, else None.

    Output nodes get prompt and extra_pnginfo in any case.
    """
    requested = {item.value for item in schema.hidden or []}
    requested |= {"PROMPT", "EXTRA_PNGINFO"} if schema.is_output_node else set()
    hidden = {
        item.name: values.get(item.value) if item.value in requested else None for item in io.Hidden
    }
    return type(node_class.__name__, (node_class,), {"hidden": SimpleNamespace(**hidden)})


def overrides(node_class: NodeClass, name: str) -> bool:
    """True when the class defines `name` itself, rather than inheriting the base's."""
    return getattr(node_class, name).__func__ is not getattr(io.ComfyNode, name).__func__


def inference(schema: NodeSchema) -> AbstractContextManager[object]:
    """torch.inference_mode, as in ComfyUI; nodes with only numbers and texts need no torch."""
    kinds = set(map(socket_type, schema.inputs or [])) | set(map(socket_type, schema.outputs or []))
    if kinds <= set(WIDGET_TYPES) and "torch" not in sys.modules:
        return nullcontext()
    import torch

    return torch.inference_mode()


def awaited(value: Value) -> Value:
    """The value, or the result of an async execute (in a thread if a loop runs in this one)."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, value).result()


def as_node_output(value: Value) -> io.NodeOutput:
    """A NodeOutput from all that execute may return: NodeOutput, tuple, dict (result, ui), None."""
    if value is None:
        return io.NodeOutput()
    if isinstance(value, tuple):
        return io.NodeOutput(*value)
    if isinstance(value, dict):
        return io.NodeOutput(
            *value.get("result", ()), ui=value.get("ui"), expand=value.get("expand")
        )
    if not isinstance(value, io.NodeOutput):
        raise InkstoneError(f"execute() must return a NodeOutput, got {type(value).__name__}.")
    return value


def guarded(node: Node, call: Callable[[], Value]) -> Value:
    """Run a node's code; any exception but a stop becomes a NodeError."""
    try:
        return call()
    except headless.Interrupted:
        raise
    except Exception as error:  # the boundary to any node's code: named and chained
        fault = memory_fault(error)
        if fault is None:
            raise NodeError(node, error) from error
    raise NodeError(node, fault) from fault
