"""What a run keeps on the disk: a folder beside its result, with all that resumes it bit for bit.

    OUT-checkpoints/
      run.json                     the arguments: others are refused
      started                      when the run was first started
      state.safetensors            weights, their average, moments, step; replaced whole
      OUT-step-000500.safetensors  the LoRA so far, the last few
      log.jsonl                    a line for each step

One process at a time: a lock keeps a second run out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ...errors import CallError, InkstoneError
from ...files.atomic import write_text
from ...files.hashes import model_hash
from ...files.lock import HeldLock
from ...files.paths import check_output, kind_of
from ...pipeline.train_choices import FREE, OPTIONS, TrainSettings
from ...pipeline.train_file import as_json
from ..checkpoint import EMA, Argument, Checkpoint, require_same_run
from .distributed import Group
from .progress import LOG, Log

log = logging.getLogger(__name__)

STATE = "state.safetensors"
_STARTED = "started"
_PICTURES = "pictures-digest"
_MODELS = {"model", "text-encoder", "vae"}
# settings whose content decides, which `stamp` has, not their name; and what all processes do
_BY_CONTENT = ("data", "control_dir", "mask_dir", "captions", "steps", "resolution", "accumulate")


def identity(
    settings: TrainSettings, facts: Mapping[str, Argument], group: Group
) -> dict[str, Argument]:
    """The arguments that decide what a run gives. facts: what was decided by the model and the
    pictures: steps, resolution, pictures, and a stamp of them.
    """
    values = as_json(settings)
    arguments: dict[str, Argument] = dict(facts)
    for name in OPTIONS:
        if name not in (*FREE, *_BY_CONTENT):
            arguments[name.replace("_", "-")] = _argument(values.get(name))
    for name in ("model", "text_encoder", "vae"):
        path = getattr(settings, name)
        if path is not None:
            arguments[name.replace("_", "-")] = _weights_stamp(path)  # it may have moved
    arguments["accumulate"] = settings.accumulate * group.size
    return arguments


def _argument(value: object) -> Argument:
    if value is None or isinstance(value, (str, int, float)):
        return value
    return json.dumps(value) if value else None


def _weights_stamp(path: Path) -> str:
    """What a file holds, or the files of a folder and of the parts in it; no deeper, whatever
    folder was given.
    """
    if not path.is_dir():
        return model_hash(path)
    files = (file for depth in ("*", "*/*") for file in path.glob(depth))
    weights = sorted(file for file in files if file.suffix in (".safetensors", ".gguf"))
    return stamp_of([[str(file.relative_to(path)), model_hash(file)] for file in weights])


def stamp_of(*parts: object) -> str:
    """A short digest of texts and numbers."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class RunFolder:
    """The folder of a run; `opened` makes it."""

    def __init__(self, settings: TrainSettings) -> None:
        self.output, self.path, self._keep = settings.output, settings.folder, settings.keep
        self.checkpoint = Checkpoint(self.path / STATE)
        self.log = Log(self.path / LOG)

    @property
    def started(self) -> str:
        """When the run was first started, ISO 8601."""
        path = self.path / _STARTED
        try:
            text = path.read_text("ascii").strip()
            if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
                return text
        except (OSError, UnicodeDecodeError):
            pass
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_text(path, text + "\n")
        return text

    def lora_at(self, step: int) -> Path:
        """The LoRA file of a step."""
        return self.path / f"{self.output.stem}-step-{step:06}.safetensors"

    def prune(self) -> None:
        """Removes the oldest LoRA files of earlier steps."""
        pattern = re.compile(re.escape(self.output.stem) + r"-step-(\d{6,})\.safetensors")
        steps = sorted(
            (int(m[1]), p) for p in self.path.iterdir() if (m := pattern.fullmatch(p.name))
        )
        for _, path in steps[: -self._keep]:
            path.unlink(missing_ok=True)


def check_result(settings: TrainSettings) -> None:
    """Raises CallError where the result or its folder would replace something that is not of this
    run.
    """
    output, folder = settings.output, settings.folder
    check_output(output)
    if kind_of(output.parent) != "a folder":
        raise CallError(f"--output {output}: the folder {output.parent} does not exist. Make it.")
    if (kind := kind_of(folder)) not in ("", "a folder"):
        raise CallError(f"{folder} is {kind}: checkpoints need a folder. Choose another --output.")
    if kind_of(output) and kind_of(folder / STATE) != "a file":
        raise CallError(
            f"--output {output} exists, and no checkpoints of it: it is no result of this run. "
            "Choose another name, or remove it."
        )


@contextmanager
def opened(
    settings: TrainSettings, arguments: Mapping[str, Argument], group: Group
) -> Iterator[RunFolder]:
    """The folder of a run, for the block. Raises CallError where its checkpoints are of other
    arguments, InkstoneError where another process has it or it cannot be written.
    """
    folder = RunFolder(settings)
    if not group.first:
        yield folder
        return
    lock = HeldLock(folder.path / ".lock")
    try:
        folder.path.mkdir(exist_ok=True)
        if not lock.acquire():
            raise InkstoneError(
                f"{folder.path}: another process trains this LoRA now. Wait for it, or choose "
                "another --output."
            )
    except OSError as error:
        raise InkstoneError(f"{folder.path}: cannot be written: {error.strerror}.") from None
    try:
        require_same_run(
            folder.path,
            arguments,
            "--output",
            lambda old: (
                _other_pictures(settings, folder.path, old, arguments)
                or _other_models(folder.path, old, arguments)
            ),
        )
        yield folder
    finally:
        lock.release(remove=True)


def _other_pictures(
    settings: TrainSettings, folder: Path, old: Mapping[str, Argument], new: Mapping[str, Argument]
) -> str:
    """A sentence, in place of two digests, where only the pictures are others than those of the
    folder's checkpoints; "" where more is.
    """
    others = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    follow = {"pictures", *(["steps"] if settings.steps is None else [])}
    if _PICTURES not in others or not others <= {_PICTURES, *follow}:
        return ""
    return (
        f"{folder} has checkpoints of a run on {old.get('pictures')} pictures, and pictures, "
        "captions, references or masks were changed since: there are "
        f"{new.get('pictures')} now. Put them back as they were to resume it, or choose another "
        "--output."
    )


def _other_models(folder: Path, old: Mapping[str, Argument], new: Mapping[str, Argument]) -> str:
    """As `_other_pictures`, where only the content of model files is another."""
    others = [name for name in old if old.get(name) != new.get(name)]
    if not others or not {*others} <= _MODELS or not {*new} <= {*old}:
        return ""
    names = " and ".join(f"--{name}" for name in others)
    return (
        f"{folder} has checkpoints of a run with other weights: the content of {names} is not what "
        "it was. Give the file of that run to resume it, or choose another --output."
    )


@contextmanager
def averaged(module: nn.Module, ema: EMA | None) -> Iterator[None]:
    """Within the block the module has its averaged weights."""
    if ema is None:
        yield
        return
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    ema.copy_to(module)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(own[name])
