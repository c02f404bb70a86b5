"""The user's settings for our nodes, from the settings dialog of ComfyUI's page.

web/settings.js declares them; the page stores what differs from the default in its own settings
file, which is only read here. A server with several users (--multi-user) has several such files,
and a run does not say whose it is: there the defaults hold, as they do headless.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Final

from .headless import headless_host

log = logging.getLogger(__name__)

MEMORY: Final = "Inkstone.MemoryLimit"  # GB, 0 = no limit
PREVIEWS: Final = "Inkstone.Previews"
PRECISION: Final = "Inkstone.Precision"
PRECISIONS = ("auto", "float32", "bfloat16")
_LARGEST = 16 << 20  # bytes of a settings file that is read


def memory_limit() -> int | None:
    """Bytes that the whole process may use on a device; None without a limit."""
    value = _value(MEMORY)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        log.warning("the setting Memory limit is %r: expected a number of GB. No limit", value)
        return None
    return int(value * 1e9) if value > 0 else None


def shows_previews() -> bool:
    """False if the user switched off our previews of the steps."""
    return _value(PREVIEWS) is not False


def precision() -> str:
    """The precision that `auto` stands for at our loaders; "auto": the fastest that is safe."""
    value = _value(PRECISION)
    if value is None or value in PRECISIONS:
        return str(value or "auto")
    log.warning("the setting Precision is %r: expected one of %s", value, ", ".join(PRECISIONS))
    return "auto"


def _value(name: str) -> object:
    """A setting as the page stored it; None if it has its default."""
    if headless_host() is not None:
        return None
    import folder_paths
    from comfy.cli_args import args

    if getattr(args, "multi_user", False):
        return None
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        if path.stat().st_size > _LARGEST:
            return None
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # there is none yet, or the page is writing it
    return settings.get(name) if isinstance(settings, dict) else None
