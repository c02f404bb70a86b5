"""The jobs of `inkstone batch`: one JSON object a line, checked as a whole before anything runs.

A line has the names of `inkstone draw`'s options, or {"graph": FILE, "set": {"NODE.INPUT": VALUE}};
"id" names the results. Values go through the parser of `draw` itself, so they mean and are refused
the same. What a job is, is what its line says with all defaults, and the content of the files that
it names (models go by name): a changed line is another job, and so is the same line twice.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import CallError, InkstoneError
from ...files.hashes import picture_hash
from ..draw.options import add_draw
from ..draw.request import DrawCall, check_call

MACHINE = ("memory", "device")  # change no picture
_NOT_HERE = {"out", "plan", "json", "quiet", "help"}
_NUMBERS = {"steps", "batch", "cfg", "seed", "strength", "layers"}
_FLAGS = {"fast", "save_latent"}
_GRAPH_NAMES = ("graph", "set", "id")
_MOST_SAID = 20  # faults that are listed
_ID_BYTES = 120  # file systems take names of 255 bytes
_NOT_IN_ID = re.compile(r'[\ud800-\udfff\x00-\x1f\x7f/\\:*?"<>|]')
# files of the folder itself, of other jobs, and what Windows keeps for devices
_TAKEN = re.compile(r".*\.(png|safetensors|jsonl|prom)|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)


@dataclass(frozen=True)
class Job:
    """One line. `key` is the hash of what it says, `content` of its files (None: one is gone)."""

    line: int
    name: str
    key: str
    content: str | None
    call: DrawCall | None = None
    latent: bool = False  # its latents are saved too
    graph: Path | None = None
    settings: tuple[str, ...] = ()  # NODE.INPUT=VALUE

    @property
    def group(self) -> tuple:
        """Jobs that share models, and then those that share a size, are neighbours."""
        call = self.call
        if call is None:
            return ("graph", self.graph)
        return ("draw", call.models_key, tuple(call.lora), tuple(call.control_model))

    @property
    def size(self) -> object:
        """Equal where the canvas is."""
        return self.call and (self.call.size or tuple(self.call.image[:1]))


@dataclass
class _Reading:
    """What was found so far; `ids`: folded name -> line."""

    jobs: list[Job] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)


def read_jobs(
    path: Path, defaults: Mapping[str, Any], check: Callable[[Job], None] | None = None
) -> list[Job]:
    """The jobs of a file in its order; defaults: values of DrawCall that a line does not say;
    check: sees every job, raises where it cannot run.

    Raises CallError with every faulty line by its number.
    """
    reading = _Reading()
    for number, text in _lines(path):
        try:
            job = _take(reading, _job(_object(text), number, defaults))
            (check or check_files)(job)
        except InkstoneError as error:
            reading.faults.append(f"line {number}: {error}")
    _check_names(reading)
    if reading.faults:
        raise CallError(_said(path, reading.faults))
    if not reading.jobs:
        raise CallError(
            f'{path} holds no job. Write one JSON object a line, such as {{"prompt": "a red '
            'circle", "seed": 1}.'
        )
    return reading.jobs


def check_files(job: Job) -> None:
    """Raises CallError where a file of a job is not there, or options do not go together."""
    if job.call is not None:
        check_call(job.call)
    elif not job.graph.is_file():
        raise CallError(f'"graph": {job.graph}: no such graph file. Check the path.')


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Grouped by models, within them by size; groups and their jobs in the order of the file."""
    groups: dict[tuple, dict[object, list[Job]]] = {}
    for job in jobs:
        groups.setdefault(job.group, {}).setdefault(job.size, []).append(job)
    return [job for sizes in groups.values() for same in sizes.values() for job in same]


def read_defaults(path: Path) -> dict[str, Any]:
    """Values for all jobs from a JSON object with the names of a line."""
    try:
        said = _object(path.read_text("utf-8-sig"))
        if "id" in said or "prompt" in said or "graph" in said:
            raise CallError('"id", "prompt" and "graph" belong to one job: put them in its line.')
        return _values(said)
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"--defaults {path}: cannot be read: {error}.") from None
    except InkstoneError as error:
        raise CallError(f"--defaults {path}: {error}") from None


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        found = [(number, line.decode("utf-8")) for number, line in enumerate(lines, 1)]
    except OSError as error:
        raise CallError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError as error:
        raise CallError(f"{path} is not UTF-8: {error}. Save it as UTF-8 text.") from None
    return [(number, text) for number, text in found if text.strip()]


def _object(text: str) -> dict[str, Any]:
    """A JSON object, no name twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1]
        if twice:
            raise CallError(f'"{twice[0]}" is there twice: keep one.')
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise CallError(f"{constant} is not JSON: write a number.")

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise CallError("is nested too deeply. A job is one flat JSON object.") from None
    except json.JSONDecodeError as error:
        raise CallError(
            f"is not JSON: {error.msg} at column {error.colno}. Expected an object such as "
            '{"prompt": "a red circle"}.'
        ) from None
    if re.search("[\ud800-\udfff]", json.dumps(found, ensure_ascii=False)):
        raise CallError("holds half a character (\\ud800 to \\udfff alone): no text has that.")
    if not isinstance(found, dict):
        raise CallError(
            f'is {_kind(found)}, expected a JSON object such as {{"prompt": "a red circle"}}.'
        )
    return found


def _job(said: dict[str, Any], line: int, defaults: Mapping[str, Any]) -> Job:
    name = _id(said.pop("id", None))
    if "graph" in said:
        return _graph_job(said, line, name)
    values = {**defaults, **_values(said)}
    if not isinstance(values.get("prompt"), str):
        raise CallError('has no "prompt" (a text) and no "graph" (a file): a job has one of them.')
    latent = bool(values.pop("save_latent", False))
    known = {k: v for k, v in values.items() if v is not None}
    call = DrawCall(**known)
    told = {f.name: getattr(call, f.name) for f in fields(call) if f.name not in MACHINE}
    usual = {f.name: f.default for f in fields(call)}
    # only what differs from the defaults: options of later versions do not make old jobs others
    parts = {k: v for k, v in told.items() if v != usual[k] and v != []} | {"latent": latent}
    named = [*call.image, *([call.mask] if call.mask else []), *(c.path for c in call.control)]
    return Job(line, name, _digest(parts), _content(named), call, latent)


def _graph_job(said: dict[str, Any], line: int, name: str) -> Job:
    for key in said:
        if key not in _GRAPH_NAMES:
            raise CallError(
                f'"{key}" does not go with "graph": change inputs of its nodes with "set": '
                '{"NODE.INPUT": VALUE}.'
            )
    path, inputs = said["graph"], said.get("set", {})
    if not isinstance(path, str):
        raise CallError(f'"graph" is {_kind(path)}, expected the path of a graph file.')
    if not isinstance(inputs, dict):
        raise CallError(f'"set" is {_kind(inputs)}, expected {{"NODE.INPUT": VALUE}}.')
    settings = tuple(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in inputs.items())
    parts = {"graph": path, "set": sorted(settings)}
    return Job(
        line, name, _digest(parts), _content([Path(path)]), graph=Path(path), settings=settings
    )


def _id(said: Any) -> str:
    """A name for files; "" where none is given."""
    if said is None:
        return ""
    if isinstance(said, bool) or not isinstance(said, (str, int)):
        raise CallError(f'"id" is {_kind(said)}, expected a text.')
    name = str(said)
    bad = _NOT_IN_ID.search(name) or name.startswith(".") or name.strip() != name
    bad = bad or name.endswith(".") or _TAKEN.fullmatch(name)
    if not name or bad or len(name.encode(errors="replace")) > _ID_BYTES:
        raise CallError(
            f'"id" {name!r} cannot name a file: 1 to {_ID_BYTES} bytes, none of / \\ : * ? " < > | '
            "in it, no dot or space at an end, and no ending such as .png."
        )
    return name


def _values(said: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a line, converted as the command line of `draw` does it."""
    return {name: _value(name, value) for name, value in _known(said).items()}


def _known(said: Mapping[str, Any]) -> dict[str, Any]:
    """With the names of DrawCall; "save-latent" is "save_latent"."""
    names, found = set(options()) | {"save_latent"}, {}
    for key, value in said.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, [*names, *_GRAPH_NAMES], 1, 0.5)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(sorted(names))}."
            raise CallError(f'unknown name "{key}". {hint}')
        if name in found:
            raise CallError(f'"{name}" is there twice: keep one.')
        found[name] = value
    return found


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise CallError(f'"{name}" is {_kind(value)}, expected true or false.')
        return value
    action = options()[name]
    if isinstance(action.default, list):
        many = value if isinstance(value, list) else [value]
        return [_single(action, name, item) for item in many]
    return _single(action, name, value)


def _single(action: argparse.Action, name: str, value: Any) -> Any:
    """One value through the option's own type and choices."""
    number = name in _NUMBERS
    if isinstance(value, bool) or not isinstance(value, (int, float) if number else str):
        raise CallError(f'"{name}" is {_kind(value)}, expected a {"number" if number else "text"}.')
    try:
        made = action.type(str(value)) if action.type else value
    except argparse.ArgumentTypeError as error:
        raise CallError(f'"{name}": {error}') from None
    if action.choices is not None and made not in action.choices:
        raise CallError(f'"{name}": {value!r}, expected {", ".join(map(str, action.choices))}.')
    return made


@lru_cache(maxsize=1)
def options() -> dict[str, argparse.Action]:
    """DrawCall's names -> options of `inkstone draw`."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_draw(commands)
    actions = commands.choices["draw"]._actions  # argparse has no public way to them
    return {a.dest: a for a in actions if a.dest not in _NOT_HERE | {"save_latent"}}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), "a number")


def _digest(parts: Mapping[str, Any]) -> str:
    said = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()


def _content(paths: Iterable[Path]) -> str | None:
    """A hash of the files' bytes, "" without files."""
    try:
        found = [picture_hash(path) for path in paths]
    except OSError:
        return None
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else ""


def _take(reading: _Reading, job: Job) -> Job:
    """The job; one without id gets a name of its own. Refuses an id that is taken."""
    if not job.name:
        count = reading.equal[job.key] = reading.equal.get(job.key, 0) + 1
        job = replace(job, name=job.key[:16] + (f"-{count}" if count > 1 else ""))
    folded = job.name.casefold()
    if folded in reading.ids:
        raise CallError(
            f'the id "{job.name}" is that of line {reading.ids[folded]} too (capitals do not count '
            "in file names): ids name results, give each job its own."
        )
    reading.ids[folded] = job.line
    reading.jobs.append(job)
    return job


def _check_names(reading: _Reading) -> None:
    """The pictures of a batch are ID_1, ID_2: no other job may have such a name."""
    for name, line in reading.ids.items():
        first, _, number = name.rpartition("_")
        if number.isdecimal() and first in reading.ids:
            reading.faults.append(
                f'line {line}: the id "{name}" is what a picture of the job "{first}" (line '
                f"{reading.ids[first]}) can be named. Choose another."
            )


def _said(path: Path, faults: list[str]) -> str:
    count = f"{len(faults)} line{'s' * (len(faults) > 1)}"
    more = [f"and {len(faults) - _MOST_SAID} more"] if len(faults) > _MOST_SAID else []
    return "\n".join([f"{path}: {count} cannot run, nothing was run.", *faults[:_MOST_SAID], *more])
