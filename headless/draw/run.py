"""`inkstone draw`: one call from prompt to picture files."""

from __future__ import annotations

from typing import Any

from .drawer import Drawer, Progress
from .request import DrawCall, check_call, without_own_size
from .save import check_output, save_result


def draw(call: DrawCall, progress: Progress, drawer: Drawer | None = None) -> dict[str, Any]:
    """Draws and saves; returns facts: files, settings, seconds per stage, models.

    drawer: keeps models and prompts from call to call; without it they leave with the call. Raises
    CallError where the call is wrong, InkstoneError where the drawing failed.
    """
    call = without_own_size(call)
    check_call(call)
    check_output(call)
    drawer = drawer or Drawer(once=True)
    return save_result(drawer.draw(call, progress), drawer.stop)
