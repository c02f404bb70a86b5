"""ComfyUI's node interface, or our stub of it.

Inside ComfyUI `io`, `ui` and `ComfyExtension` are its own; elsewhere they come from io_stub.py. The
services of the host (folders, progress, memory, device) are in the other files of this package:
ComfyUI's modules, or a `HeadlessHost` set for the current context with `using`. ComfyUI is the host
when `comfy_api` can be found and INKSTONE_HOST is not "headless"; a HeadlessHost that is set wins
even there.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import sys

from ..errors import InkstoneError
from .headless import IN_COMFYUI, headless_host

__all__ = ["ComfyExtension", "io", "ui", "require_comfyui", "schema", "versions"]
if IN_COMFYUI:
    from comfy_api.latest import ComfyExtension, io, ui
else:
    from .io_stub import ComfyExtension, io, ui


def schema(**fields: object) -> io.Schema:
    """io.Schema from these fields, without those that an older host does not know.

    Keywords are passed through because the set belongs to the host, e.g. search_aliases is new.
    Each of those is also given with the pack's name in front: the page looks for all words that
    were typed in one text.
    """
    known = {item.name for item in dataclasses.fields(io.Schema)}
    aliases = fields.get("search_aliases")
    if isinstance(aliases, list):
        fields["search_aliases"] = [*aliases, *(f"inkstone {alias}" for alias in aliases)]
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def require_comfyui(node: str) -> None:
    """Raises outside ComfyUI: the output of this node is an object of ComfyUI's own."""
    if headless_host() is not None:
        raise InkstoneError(
            f"{node} needs ComfyUI, which is not running here: its output is an object of "
            "ComfyUI's. Run this graph in ComfyUI, or sample with Inkstone Sampler."
        )


def versions() -> str:
    """One line for logs and bug reports: host, frontend, torch, python."""
    known = IN_COMFYUI and importlib.util.find_spec("comfyui_version") is not None
    module = importlib.import_module("comfyui_version") if known else None
    number = getattr(module, "__version__", "of unknown version")
    parts = [f"ComfyUI {number}" if IN_COMFYUI else "headless"]
    for label, package in (("frontend", "comfyui-frontend-package"), ("torch", "torch")):
        try:
            parts.append(f"{label} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            if package == "torch":
                parts.append("torch missing")
    return ", ".join([*parts, f"python {sys.version.split()[0]}"])
