"""Inkstone: Qwen-Image on our own kernels.

ComfyUI's door: the list of nodes, nothing else at import.
"""

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"  # help pages, web/docs; no scripts


async def comfy_entrypoint():
    """ComfyUI calls this once: the extension that lists our nodes."""
    from .nodes import extension

    return extension()
