"""The texts that a page shows: on a server, names as its lists have them, without their folders.

Whoever reaches a server reads its errors and outputs. Our sentences name files by their whole
paths, which the command line needs; `without_folders` shortens them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..errors import InkstoneError
from . import directories
from .exhaustion import memory_fault
from .headless import headless_host
from .model_folders import KINDS, model_folders

_PACKAGE = Path(__file__).resolve().parents[1]

Given = ParamSpec("Given")
Result = TypeVar("Result")


def without_folders(text: str) -> str:
    """A text for the page: "/srv/models/vae/a.gguf: damaged" becomes "a.gguf: damaged", a folder
    alone its name. Unchanged without ComfyUI.
    """
    if headless_host() is not None:
        return text
    for folder in sorted(_folders(), key=len, reverse=True):
        text = text.replace(folder + os.sep, "").replace(folder, os.path.basename(folder))
    return text


def _folders() -> set[str]:
    import folder_paths

    known = {path for kind in KINDS for path in model_folders(kind)}
    known |= {directories.input_directory(), directories.output_directory()}
    known |= {directories.temp_directory(), Path(folder_paths.models_dir), _PACKAGE}
    known |= {Path(folder_paths.models_dir).parent}
    names = {form for path in known for form in (str(path), os.path.realpath(path))}
    return {name for name in names if len(Path(name).parts) > 2}  # never "/" or "/models"


def for_page(run: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that ComfyUI calls, with errors that name no folder: its page shows their text,
    and the module of their class, which is a path there. Memory that ran out is a sentence too.
    Other errors pass as they are, the host's stop among them.
    """

    @functools.wraps(run)
    def called(*values: Given.args, **inputs: Given.kwargs) -> Result:
        try:
            return run(*values, **inputs)
        except Exception as error:
            if headless_host() is not None:
                raise
            fault = memory_fault(error)
            if fault is not None:
                raise InkstoneError(str(fault)) from error
            short = without_folders(str(error))
            named = isinstance(error, InkstoneError) and type(error) is not InkstoneError
            if short == str(error) and not named:
                raise
            raise InkstoneError(short) from error  # the console has the whole path, as its cause

    return called
