"""Inkstone: Qwen-Image on its own kernels, in ComfyUI, on the command line and in Python.

ComfyUI calls `comfy_entrypoint`; Python calls `draw` and `load` (docs/api.md). Nothing heavy is
imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .headless.draw.api import draw, load
    from .nodes import InkstoneExtension

__version__ = "0.1.0"
__all__ = ["__version__", "draw", "load"]
WEB_DIRECTORY = "./web"  # help pages, and what the page does for our nodes


async def comfy_entrypoint() -> InkstoneExtension:
    """ComfyUI calls this once: the extension that lists our nodes."""
    from .headless.workflow.page import serve_page
    from .nodes import extension

    serve_page()
    return extension()


def __getattr__(name: str) -> object:
    """`draw` and `load`, imported when they are first used."""
    if name in ("draw", "load"):
        from .headless.draw import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
