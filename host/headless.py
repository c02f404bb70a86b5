"""The host where there is no ComfyUI: folders, progress, stop and device of one context."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def in_comfyui() -> bool:
    """True inside ComfyUI; looks for its package without importing it."""
    if os.environ.get("INKSTONE_HOST") == "headless":
        return False
    return "comfy_api" in sys.modules or importlib.util.find_spec("comfy_api") is not None


IN_COMFYUI = in_comfyui()


class Interrupted(Exception):
    """The user stopped a headless run. (ComfyUI raises its own exception; let both pass.)"""


@dataclasses.dataclass
class HeadlessHost:
    """The services that ComfyUI would provide: folders, progress, a stop switch, a device.

    `on_progress(value, total, preview)` gets PIL previews or None, `on_detail` a line of text while
    one step takes long; `device` None = the best.
    """

    models: tuple[Path, ...] = (Path("models"),)
    input: Path = Path("input")
    output: Path = Path("output")
    temp: Path = Path("temp")
    device: str | None = None
    memory: int | None = None  # bytes for the whole process; None = what is free
    states_plan: bool = True  # loaders log the memory plan for the model's usual size
    unread: frozenset[int] = frozenset()  # outputs of the running node that are not connected
    on_progress: Callable[[int, int, Image | None], None] | None = None
    on_detail: Callable[[str], None] | None = None
    previews: bool = True  # of the steps, to on_progress
    saves_previews: bool = True  # nodes that show their result save it in `temp`
    any_path: bool = False  # graphs name files anywhere: our own do, never one of somebody else
    own_paths: frozenset[str] = frozenset()  # files outside the folders that the user named
    interrupt: threading.Event = dataclasses.field(default_factory=threading.Event)


_headless: ContextVar[HeadlessHost | None] = ContextVar("inkstone_headless_host", default=None)


_default_headless = HeadlessHost(any_path=True, saves_previews=False)  # nodes called from Python


@contextmanager
def using(headless: HeadlessHost) -> Iterator[HeadlessHost]:
    """Makes `headless` the host within the block."""
    token = _headless.set(headless)
    try:
        yield headless
    finally:
        _headless.reset(token)


def headless_host() -> HeadlessHost | None:
    """The headless host in force, or None inside ComfyUI."""
    return _headless.get() or (None if IN_COMFYUI else _default_headless)


def is_read(slot: int) -> bool:
    """True if an output of the running node is connected; always in ComfyUI, which does not say.

    For node classes that name slots in SKIPS_UNREAD; the cache of results knows the difference.
    """
    host = headless_host()
    return host is None or slot not in host.unread


def is_own_path(name: str) -> bool:
    """True if a name may be the path of any file: the user gave it on the command line."""
    host = headless_host()
    return host is not None and (host.any_path or name in host.own_paths)


def memory_budget() -> int | None:
    """Bytes for the whole process where the user set them; None = what is free."""
    host = headless_host()
    return None if host is None else host.memory


def saves_previews() -> bool:
    """True if a node that shows its result saves it for that; a draw has nobody who looks."""
    host = headless_host()
    return host is None or host.saves_previews


def states_plan() -> bool:
    """True if loaders log the memory plan; a run that knows its canvas logs a better one."""
    host = headless_host()
    return host is None or host.states_plan
