"""A call of `inkstone score`, and the sets that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ...errors import CallError
from ...files.images import frames
from ...files.paths import below, check_given
from ...files.png import save_png
from ...score.embedded_set import EMBEDDED, OWN_SETS, EmbeddedSet, embedded_set
from ...score.sets import SHIPPED, PromptSet, read_set
from ...score.source import render_source
from ...score.task import Task
from ..draw.file_names import is_embedded
from ..node_types import Json

PICTURES, SOURCES = "pictures", "sources"  # folders of a run
JOBS, READINGS, RESULT, PAGE = "prompts.jsonl", "readings.jsonl", "score.json", "score.html"
USUAL = ("english", "chinese", "latin", "objects")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class ScoreCall:
    """The options of `inkstone score`. options: values of DrawCall for all pictures; seed: of the
    first prompt of a set, the next has the next one.
    """

    sets: Sequence[str]
    output: Path
    name: str = ""
    limit: int | None = None
    seed: int = 0
    font: Path | None = None
    options: Mapping[str, Json] = field(default_factory=dict)

    @property
    def model(self) -> Path | None:
        """None: the embedded one."""
        model = self.options.get("model")
        return None if is_embedded(model) else model

    @cached_property
    def given(self) -> list[ScoredSet]:
        """The sets, read and checked. Raises CallError."""
        names = self.sets or ([EMBEDDED] if self.model is None else USUAL)
        if len(set(names)) < len(names):
            raise CallError(f"A set is named twice: {', '.join(names)}. Name each once.")
        sets = [_read(name, self.limit) for name in names]
        labels = [one.prompts.name for one in sets]
        if len(set(map(plain_name, labels))) < len(labels):
            raise CallError(
                f"Two sets have one name: {', '.join(labels)}. Results are kept by it: rename a "
                "file."
            )
        return sets

    @property
    def label(self) -> str:
        """The name of the run in results."""
        if self.name:
            return self.name
        model = self.model.name if self.model else "embedded model"
        loras = [path.stem for path, _ in self.options.get("lora") or ()]
        return " + ".join([model, *loras])


@dataclass(frozen=True)
class ScoredSet:
    """A set of a run. own: what is known of a set of the embedded model, else None."""

    prompts: PromptSet
    own: EmbeddedSet | None = None

    @property
    def edits(self) -> bool:
        """Its prompts are requests about pictures."""
        return bool(self.own and self.own.sources) or any(
            t.image or t.source for t in self.prompts.tasks
        )

    def job(self, task: Task) -> str:
        """The name of the picture of a task, of letters and digits."""
        return f"{plain_name(self.prompts.name)}-{task.number:05}"

    def source(self, task: Task) -> np.ndarray | None:
        """The picture uint8 [H,W,3] that a task edits."""
        if self.own is not None:
            return self.own.sources[task.number] if self.own.sources else None
        if task.source is not None:
            return render_source(task.source)
        return read_pixels(self.source_path(task)) if task.image else None

    def source_path(self, task: Task) -> Path:
        """The file of the source, in the folder of the set."""
        path = below(self.prompts.folder, task.image)
        check_given(path, f'{self.prompts.name}, "image":', kinds=("picture file",))
        return path

    def write_source(self, task: Task, folder: Path) -> Path | None:
        """The file that a drawing starts from; a rendered one is written into the folder."""
        if task.image:
            return self.source_path(task).resolve()
        pixels = self.source(task)
        if pixels is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.job(task)}.png"
        if not path.exists() or not np.array_equal(read_pixels(path), pixels):
            save_png(path, pixels)
        return path.resolve()


def plain_name(name: str) -> str:
    """A set's name in names of files."""
    return _NOT_IN_NAMES.sub("-", name).strip("-")[:60].lower() or "set"


def _read(name: str, limit: int | None) -> ScoredSet:
    if name in OWN_SETS:
        own = embedded_set(name, limit)
        return ScoredSet(own.prompts, own)
    return ScoredSet(read_set(name).limited(limit))


def read_pixels(path: Path) -> np.ndarray:
    """A picture file as uint8 [H,W,3]; what is transparent is white."""
    colours, alpha = frames(path, most=1)[0]
    if alpha is not None:
        colours = colours * alpha[..., None] + (1 - alpha[..., None])
    return np.asarray((colours * 255).round().clip(0, 255), np.uint8)


def sets_help() -> str:
    """The sets that have names, for the help."""
    return "; ".join(f"{name}: {text}" for name, text in {**SHIPPED, **OWN_SETS}.items())
