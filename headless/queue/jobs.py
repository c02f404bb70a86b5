"""The jobs of `inkstone batch`: one JSON object per line, all checked before anything runs.

A line has the names of `inkstone draw`'s options, or {"graph": FILE, "set": {"NODE.INPUT": VALUE}};
"id" names the results. A job is identified by its line with all defaults and the content of the
files that it names (models count by name): a changed line is another job, and the same line twice
is two jobs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.hashes import picture_hash
from ...files.paths import check_given, read_regular
from ..draw.option_values import kind_of, parse_values
from ..draw.request import DrawCall, check_call, without_own_size
from ..node_types import Json
from .job_line import GRAPH_NAMES, parse_id, parse_object

MACHINE = ("memory", "device")  # options that change no picture
_MAX_LISTED = 20  # faults in one message
_MOST_BYTES = 1 << 30  # of a file of jobs


@dataclass(frozen=True)
class Job:
    """One line. key: hash of its text; content: hash of its files, None if one is missing."""

    line: int
    name: str
    key: str
    content: str | None
    call: DrawCall | None = None
    latent: bool = False  # save its latents too
    graph: Path | None = None
    settings: tuple[str, ...] = ()  # NODE.INPUT=VALUE

    @property
    def group(self) -> tuple[object, ...]:
        """Equal for jobs that share models; they run next to each other."""
        call = self.call
        if call is None:
            return ("graph", self.graph)
        return ("draw", call.models_key, tuple(call.lora), tuple(call.control_model))

    @property
    def size(self) -> object:
        """Equal for jobs of one canvas size."""
        return self.call and (self.call.size or tuple(self.call.image[:1]))


@dataclass
class _Reading:
    """The state while a file is read. ids: case-folded name -> line."""

    jobs: list[Job] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    unnamed: dict[str, int] = field(default_factory=dict)  # key -> jobs without an id

    def add(self, job: Job) -> Job:
        """The job, with a name if it has no id. Refuses an id that another line has."""
        if not job.name:
            count = self.unnamed[job.key] = self.unnamed.get(job.key, 0) + 1
            job = replace(job, name=job.key[:16] + (f"-{count}" if count > 1 else ""))
        folded = job.name.casefold()
        if folded in self.ids:
            raise CallError(
                f'the id "{job.name}" is that of line {self.ids[folded]} too (file names ignore '
                "case). Ids name results: give each job its own."
            )
        self.ids[folded] = job.line
        self.jobs.append(job)
        return job

    def check_names(self) -> None:
        """Refuse names that are those of a batch's pictures: ID_1, ID_2."""
        for name, line in self.ids.items():
            first, _, number = name.rpartition("_")
            if number.isdecimal() and first in self.ids:
                fault = (
                    f'the id "{name}" could name a picture of the job "{first}" (line '
                    f"{self.ids[first]}). Choose another."
                )
                self.faults.append((line, fault))


def read_jobs(
    path: Path, defaults: Mapping[str, Json], check: Callable[[Job], None] | None = None
) -> list[Job]:
    """The jobs of a file in its order.

    defaults: values of DrawCall for lines without them; check: called with every job, raises if it
    cannot run. Raises CallError that lists every faulty line by its number.
    """
    reading = _Reading()
    for number, text in _lines(path):
        try:
            job = reading.add(_job(parse_object(text), number, defaults))
            (check or check_files)(job)
        except InkstoneError as error:
            reading.faults.append((number, str(error)))
    reading.check_names()
    if reading.faults:
        raise CallError(_fault_list(path, reading.faults))
    if not reading.jobs:
        raise CallError(
            f'{path} has no jobs. Write one JSON object per line, such as {{"prompt": "a red '
            'circle", "seed": 1}.'
        )
    return reading.jobs


def check_files(job: Job) -> None:
    """Raises CallError if a file of a job is missing, or options do not go together."""
    if job.call is not None:
        check_call(job.call)
    elif job.graph is not None:
        check_given(job.graph, '"graph":', kinds=("graph file",))


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs grouped by models, within them by size; all in the order of the file."""
    groups: dict[tuple[object, ...], dict[object, list[Job]]] = {}
    for job in jobs:
        groups.setdefault(job.group, {}).setdefault(job.size, []).append(job)
    return [job for sizes in groups.values() for same in sizes.values() for job in same]


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank."""
    try:
        lines = read_regular(path, _MOST_BYTES).removeprefix(b"\xef\xbb\xbf").splitlines()
        texts = [line.decode("utf-8") for line in lines]
    except OSError as error:
        raise CallError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise CallError(f"{path} is not UTF-8: {error}. Save it as UTF-8 text.") from None
    return [(number, text) for number, text in enumerate(texts, 1) if text.strip()]


def _job(data: dict[str, Json], line: int, defaults: Mapping[str, Json]) -> Job:
    name = parse_id(data.pop("id", None))
    if "graph" in data:
        return _graph_job(data, line, name)
    values = {**defaults, **parse_values(data, GRAPH_NAMES)}
    if not isinstance(values.get("prompt"), str):
        raise CallError(
            'has no "prompt" (a text) and no "graph" (a file): a job needs one of them.'
        )
    latent = bool(values.pop("save_latent", False))
    given = {name: value for name, value in values.items() if value is not None}
    call = without_own_size(DrawCall(**given))
    # only differences from the defaults: options of later versions leave old jobs the same
    parts = {
        f.name: getattr(call, f.name)
        for f in fields(call)
        if f.name not in MACHINE and getattr(call, f.name) not in (f.default, [])
    }
    return Job(
        line=line,
        name=name,
        key=_digest(parts | {"latent": latent}),
        content=_content(call.pictures),
        call=call,
        latent=latent,
    )


def _graph_job(data: dict[str, Json], line: int, name: str) -> Job:
    for key in data:
        if key not in GRAPH_NAMES:
            raise CallError(
                f'"{key}" does not go with "graph": change inputs of its nodes with "set": '
                '{"NODE.INPUT": VALUE}.'
            )
    path, inputs = data["graph"], data.get("set", {})
    if not isinstance(path, str):
        raise CallError(f'"graph" is {kind_of(path)}, expected the path of a graph file.')
    if not isinstance(inputs, dict):
        raise CallError(f'"set" is {kind_of(inputs)}, expected {{"NODE.INPUT": VALUE}}.')
    settings = tuple(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in inputs.items())
    return Job(
        line=line,
        name=name,
        key=_digest({"graph": path, "set": sorted(settings)}),
        content=_content([Path(path)]),
        graph=Path(path),
        settings=settings,
    )


def _digest(parts: Mapping[str, Json]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(paths: Iterable[Path]) -> str | None:
    """A hash of the files' bytes, "" without files."""
    try:
        hashes = [picture_hash(path) for path in paths]
    except OSError:
        return None
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _fault_list(path: Path, faults: Sequence[tuple[int, str]]) -> str:
    """Each fault once, with the lines that have it."""
    count = f"{len(faults)} line{'s' * (len(faults) > 1)}"
    lines: dict[str, list[int]] = {}
    for line, fault in faults:
        lines.setdefault(fault, []).append(line)
    listed = [f"{_numbers(own)}: {fault}" for fault, own in lines.items()]
    rest = sum(len(own) for own in list(lines.values())[_MAX_LISTED:])
    more = [f"and {rest} more"] if rest > 0 else []
    return "\n".join(
        [f"{path}: {count} cannot run, nothing was run.", *listed[:_MAX_LISTED], *more]
    )


def _numbers(lines: Sequence[int]) -> str:
    """ "line 3", "lines 3, 4", "lines 3, 4, 5 and 197 more"."""
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:3]))}{more}"
