"""A job on its way to a replica: its pictures and its graph go along as bytes, models by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ....loaders.models.load import EMBEDDED_FOLDER
from ...node_types import Json
from ...queue.away import with_paths
from ...queue.jobs import Job


@dataclass(frozen=True)
class Parcel:
    """job: files that are sent have relative paths. files: by these; inputs: by their names in the
    folder of input pictures, which graphs read.
    """

    job: Job
    files: Mapping[str, bytes]
    inputs: Mapping[str, bytes]


@dataclass(frozen=True)
class Progress:
    """Where a job stands: steps, and a new preview as JPEG."""

    step: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True)
class Finished:
    """What became of a job on a replica: status and facts as those of Outcome, files by name."""

    status: str
    facts: dict[str, Json] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def pack(job: Job, inputs: Path) -> Parcel:
    """A job for a machine that has the models at the same paths, and nothing else of ours. inputs:
    the folder of input pictures. Raises OSError.
    """
    paths = job.call.pictures if job.call else [job.graph] if job.graph else []
    names = {path: f"{k}{path.suffix}" for k, path in enumerate(dict.fromkeys(paths))}
    if job.call is not None and job.call.model == EMBEDDED_FOLDER:  # each machine has its own
        job = replace(job, call=replace(job.call, model=None))
    return Parcel(
        job=with_paths(job, lambda path: Path(names[path]) if path in names else path.absolute()),
        files={name: path.read_bytes() for path, name in names.items()},
        inputs={path.name: path.read_bytes() for path in inputs.glob(f"{job.name}_*")},
    )


def unpack(parcel: Parcel, folder: Path, inputs: Path) -> Job:
    """The job with its files in a folder, and in that of input pictures. Raises OSError."""
    for place, files in ((folder, parcel.files), (inputs, parcel.inputs)):
        for name, data in files.items():
            (place / name).write_bytes(data)
    return with_paths(parcel.job, lambda path: path if path.is_absolute() else folder / path)
