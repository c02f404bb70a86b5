"""Inkstone: Qwen-Image on its own kernels, in ComfyUI, on the command line and in Python.

ComfyUI calls `comfy_entrypoint`; Python calls `draw`, `load`, `train_lora` and `score_model`
(docs/api.md).
Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .headless.draw.api import draw, load
    from .headless.score.api import score_model
    from .nodes import InkstoneExtension
    from .training.lora.api import train_lora

__all__ = ["__version__", "draw", "load", "score_model", "train_lora"]
WEB_DIRECTORY = "./web"  # help pages, and what the page does for our nodes


async def comfy_entrypoint() -> InkstoneExtension:
    """ComfyUI calls this once: the extension that lists our nodes."""
    from .headless.workflow.page import serve_page
    from .nodes import extension

    serve_page()
    return extension()


def __getattr__(name: str) -> object:
    """The functions of the Python API, imported when they are first used."""
    if name in ("draw", "load"):
        from .headless.draw import api

        return getattr(api, name)
    if name == "score_model":
        from .headless.score.api import score_model

        return score_model
    if name == "train_lora":
        from .training.lora.api import train_lora

        return train_lora
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
