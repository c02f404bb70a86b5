"""Calling a node class as ComfyUI does: hidden values, inference mode, async, return forms."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

from ...errors import InkstoneError
from ...host.api import io
from .input_values import WIDGET_TYPES, socket_type


def prepared(node_class: type, schema: Any, values: dict[str, Any]) -> type:
    """A subclass for one run whose `hidden` has the values that the schema asks for, else None.

    Output nodes get prompt and extra_pnginfo unasked.
    """
    asked = {item.value for item in schema.hidden or []}
    asked |= {"PROMPT", "EXTRA_PNGINFO"} if schema.is_output_node else set()
    given = {
        item.name: values.get(item.value) if item.value in asked else None for item in io.Hidden
    }
    return type(node_class.__name__, (node_class,), {"hidden": SimpleNamespace(**given)})


def overrides(node_class: type, name: str) -> bool:
    """True when the class has its own `name`, not the base's."""
    return getattr(node_class, name).__func__ is not getattr(io.ComfyNode, name).__func__


def inference(schema: Any) -> AbstractContextManager:
    """torch.inference_mode, as in ComfyUI; nodes with only numbers and texts need no torch."""
    kinds = {socket_type(item) for item in (schema.inputs or []) + (schema.outputs or [])}
    if kinds <= set(WIDGET_TYPES) and "torch" not in sys.modules:
        return nullcontext()
    import torch

    return torch.inference_mode()


def finished(value: Any) -> Any:
    """The value, or what an async execute returns (in a thread when a loop runs in this one)."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, value).result()


def normalised(value: Any) -> Any:
    """A NodeOutput from what execute may return: NodeOutput, tuple, dict (result, ui) or None."""
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
