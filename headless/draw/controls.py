"""The controls of a draw: `--control TYPE:PICTURE[:STRENGTH[:START-END]]` and `--control-model`.

Files are opened and pictures read before the models. With one control model it serves all
controls; with several, the first belongs to the first control, and so on; with none the one in
the model's own folder (the embedded model has one). --mask is what an
inpainting control draws anew, and without --image where the others act.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import CallError
from ...files.hashes import model_hash, picture_hash
from ...files.images import read_picture

if TYPE_CHECKING:
    from torch import Tensor

    from ...controlnet.in_context import InContext, InContextModel
    from ...loaders.models.bundle import Bundle
    from ...loaders.models.control import ControlModel
    from ...loaders.models.weight_file import LoadOptions
    from ...sampling.request import Control
    from .task import Task

log = logging.getLogger(__name__)

MAP = "map"  # the picture is the map
_NUMBER = r"[-+]?\d+(?:\.\d*)?|[-+]?\.\d+"
_TAIL = re.compile(rf":({_NUMBER})(?::(\d*\.?\d+)-(\d*\.?\d+))?$")


@dataclass(frozen=True)
class Asked:
    """One --control."""

    kind: str
    path: Path
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def words(self) -> str:
        """As it is written on the command line, without the folder."""
        return f"{self.kind}:{self.path.name}:{self.strength:g}:{self.start:g}-{self.end:g}"


class Call(Protocol):
    """What is asked of a draw call."""

    model: Path | None
    control: Sequence[Asked]
    control_model: Sequence[Path]
    mask: Path | None
    size: tuple[int, int] | None


def kinds() -> tuple[str, ...]:
    """Types of --control."""
    from ...controlnet.preprocess.kinds import KINDS

    return (MAP, *KINDS)


def control(text: str) -> Asked:
    """TYPE:PICTURE[:STRENGTH[:START-END]]. The path may hold colons: only numbers count."""
    kind, _, rest = text.partition(":")
    if kind not in kinds() or not rest:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected TYPE:PICTURE[:STRENGTH[:START-END]], for example "
            f"canny:photo.png:0.8:0-0.5, with a type of {', '.join(kinds())}"
        )
    tail = None if Path(rest).is_file() else _TAIL.search(rest)
    if tail is None:
        return Asked(kind, Path(rest))
    strength, start, end = float(tail[1]), float(tail[2] or 0), float(tail[3] or 1)
    if not -10 <= strength <= 10 or not 0 <= start < end <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a strength from -10 to 10 and steps from START to END as "
            "fractions, 0 <= START < END <= 1"
        )
    return Asked(kind, Path(rest[: tail.start()]), strength, start, end)


def check_controls(call: Call) -> None:
    """Raises CallError where the options do not go together or a file is not there."""
    for asked in call.control:
        if not asked.path.is_file():
            raise CallError(f"--control {asked.path}: no such picture file. Check the path.")
    for path in call.control_model:
        if not path.exists():
            raise CallError(f"--control-model {path}: no such file or folder. Check the path.")
    controls, models = len(call.control), len(_paths(call))
    if controls and not models:
        raise CallError(
            "--control needs the file of a control: give --control-model F, or a whole model "
            "folder that has one in controlnet/."
        )
    if call.control_model and not controls:
        raise CallError("--control-model needs a picture: give --control TYPE:PICTURE.")
    if models > 1 and models != controls:
        raise CallError(
            f"{models} --control-model for {controls} --control: give one for all, or one for each."
        )


def _paths(call: Call) -> list[Path]:
    """The files of --control-model; else what lies in the model's own folder."""
    from ...loaders.models.load import EMBEDDED_FOLDER

    own = (call.model or EMBEDDED_FOLDER) / "controlnet"
    return list(call.control_model) or ([own] if call.control and own.is_dir() else [])


@dataclass(frozen=True)
class Controls:
    """The controls of a call: what is asked, its model and its map [1,H,W,C]."""

    asked: tuple[Asked, ...] = ()
    models: tuple[ControlModel | InContextModel, ...] = ()
    maps: tuple[Tensor, ...] = ()

    def task(self, task: Task, call: Call, bundle: Bundle) -> Task:
        """The task; where nothing else says the size, it is that of the first map."""
        from ...pipeline.edit import lock_for

        if not self.maps or call.size is not None or task.locks:
            return task
        return replace(task, locks=(lock_for(bundle.model.family, self.maps[0]),))

    def on(
        self, task: Task, mask: Tensor | None, bundle: Bundle, size: tuple[int, int]
    ) -> tuple[Control | InContext, ...]:
        """For a request, encoded on its canvas. mask: what is drawn anew; where nothing is
        repainted, where the controls act. Fun Union is shown the picture that is repainted.
        """
        from ...controlnet.canvas import canvas_of
        from ...controlnet.control_picture import ControlInput, Effect

        if not self.maps:
            return ()
        where = task.repaint.crop if task.repaint else task.locks[0] if task.locks else None
        canvas, found = canvas_of(*size, where), []
        for asked, model, made, shown in zip(self.asked, self.models, self.maps, self.shown(task)):
            effect = Effect(asked.strength, asked.start, asked.end)
            source, own = task.repaint.picture if shown[0] else None, mask if shown[1] else None
            found.append(ControlInput(model, bundle.vae, made, effect, own, source).on(canvas))
        return tuple(found)

    def shown(self, task: Task) -> tuple[tuple[bool, bool], ...]:
        """Of each control: whether it is shown the picture that is repainted, and the mask."""
        paints = task.repaint is not None
        sources = (paints and _reads_source(model) for model in self.models)
        return tuple((s, s or m.masked or not paints) for s, m in zip(sources, self.models))

    def branches(self) -> tuple[ControlModel, ...]:
        """Of the models those that work beside the diffusion model."""
        from ...loaders.models.control import ControlModel

        return tuple(m for m in self.models if isinstance(m, ControlModel))

    def prompt(self, prompt: str) -> str:
        """The prompt as an in-context control wants it."""
        from ...controlnet.in_context import with_prefix

        if len(self.branches()) == len(self.models) or prompt == with_prefix(prompt):
            return prompt
        log.info("in-context control: the prompt is drawn as %r", with_prefix(prompt))
        return with_prefix(prompt)


def _reads_source(model: ControlModel | InContextModel) -> bool:
    """Takes the picture that is repainted beside its map."""
    from ...loaders.models.control import ControlModel

    return isinstance(model, ControlModel) and model.network.borrows


NONE = Controls()
Opener = Callable[[Path, "LoadOptions"], "ControlModel | InContextModel"]


def read_controls(call: Call, want: LoadOptions, opener: Opener | None = None) -> Controls:
    """Opens the files (one that is named twice once), reads the pictures, makes the maps."""
    from ...controlnet.in_context import load_any_control

    found = {path: (opener or load_any_control)(path, want) for path in dict.fromkeys(_paths(call))}
    models = tuple(found[path] for path in _each(call))
    for model in models:
        if model.masked and call.mask is None:
            raise CallError(
                f"The control {model.path.name} is for inpainting: give --mask F, the part that "
                "is drawn anew."
            )
    return Controls(tuple(call.control), models, tuple(_map(asked) for asked in call.control))


def _each(call: Call) -> list[Path]:
    """The file of each control."""
    paths = _paths(call)
    return paths * len(call.control) if len(paths) == 1 else paths


def _map(asked: Asked) -> Tensor:
    from ...controlnet.preprocess.kinds import preprocess

    picture = read_picture(asked.path)
    return picture if asked.kind == MAP else preprocess(asked.kind, picture)


def control_facts(call: Call) -> list[dict]:
    """What the PNG says of the controls."""
    return [
        {
            "control": asked.words(),
            "hash": picture_hash(asked.path),
            "model": {"name": path.name, "hash": model_hash(path)},
        }
        for asked, path in zip(call.control, _each(call))
    ]
