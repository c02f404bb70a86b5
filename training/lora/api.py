"""The Python call: `inkstone.train_lora(...)`, with the names of the command line's options."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import CallError
from ...pipeline.train_choices import TrainSettings
from ...pipeline.train_file import settings_from
from .progress import StepReport
from .session import train


def train_lora(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    on_step: Callable[[StepReport], None] | None = None,
    **options: object,
) -> Path:
    """Trains a LoRA on a folder of pictures, or resumes it where the same call was stopped; returns
    its file.

    options: settings by the names of `inkstone train-lora --help` with `_` for `-`, for example
    model="qwen-image-Q4_K_M.gguf", rank=32, targets=["attention"], ranks={"0-9": 32},
    memory="12GB". on_step is called after every step with a report: `line` (step, loss, lr, grad,
    seconds), `steps`, `rate`, `left`, `memory`.
    Raises errors.CallError where the call is wrong, errors.InkstoneError where training failed, and
    KeyboardInterrupt after Ctrl-C or SIGTERM, with the state saved.
    """
    values = {name: _plain(value) for name, value in options.items()}
    for name, path in (("data", data), ("output", output)):
        if not isinstance(path, (str, os.PathLike)):
            raise CallError(f"{name} is of type {type(path).__name__}: expected a path.")
        values[name] = os.fspath(path)
    return train(TrainSettings(**settings_from(values)), on_step)  # type: ignore[arg-type]


def _plain(value: object) -> object:
    """Paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
