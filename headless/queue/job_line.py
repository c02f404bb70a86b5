"""One line of a jobs file: a JSON object whose values are those of `inkstone draw`'s options.

Values go through the parser of `draw` itself, so that they mean and are refused the same.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from ...errors import CallError, InkstoneError
from ..draw.options import add_draw
from ..node_types import Json

GRAPH_NAMES = ("graph", "set", "id")
_NOT_HERE = {"out", "plan", "json", "quiet", "help", "save_latent"}
_NUMBERS = {"steps", "batch", "cfg", "seed", "strength", "layers"}
_FLAGS = {"fast", "save_latent"}
_ID_BYTES = 120  # file systems take names of 255 bytes
_NOT_IN_ID = re.compile(r'[\ud800-\udfff\x00-\x1f\x7f/\\:*?"<>|]')
# files of the folder itself, of other jobs, and what Windows reserves for devices
_RESERVED = re.compile(
    r".*\.(png|safetensors|jsonl|prom)|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I
)


def parse_object(text: str) -> dict[str, Json]:
    """A JSON object without duplicate names. Raises CallError."""
    try:
        data = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise CallError("is nested too deeply. A job is one flat JSON object.") from None
    except json.JSONDecodeError as error:
        raise CallError(
            f"is not JSON: {error.msg} at column {error.colno}. Expected an object such as "
            '{"prompt": "a red circle"}.'
        ) from None
    if re.search("[\ud800-\udfff]", json.dumps(data, ensure_ascii=False)):
        raise CallError("has half a character (\\ud800 to \\udfff alone). Remove it.")
    if not isinstance(data, dict):
        raise CallError(
            f'is {kind_of(data)}, expected a JSON object such as {{"prompt": "a red circle"}}.'
        )
    return data


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    names = [name for name, _ in pairs]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise CallError(f'"{duplicates[0]}" appears twice: keep one.')
    return dict(pairs)


def _refuse_constant(constant: str) -> None:
    raise CallError(f"{constant} is not JSON: write a number.")


def read_defaults(path: Path) -> dict[str, Json]:
    """Values for all jobs from a JSON object with the names of a line. Raises CallError."""
    try:
        data = parse_object(path.read_text("utf-8-sig"))
        if "id" in data or "prompt" in data or "graph" in data:
            raise CallError('"id", "prompt" and "graph" belong to one job: put them in its line.')
        return parse_values(data)
    except (OSError, UnicodeDecodeError) as error:
        raise CallError(f"--defaults {path}: cannot be read: {error}.") from None
    except InkstoneError as error:
        raise CallError(f"--defaults {path}: {error}") from None


def parse_id(value: Json) -> str:
    """A job's id, which names its files; "" if it has none. Raises CallError."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise CallError(f'"id" is {kind_of(value)}, expected a text.')
    name = str(value)
    bad = bool(_NOT_IN_ID.search(name) or _RESERVED.fullmatch(name))
    bad = bad or name.startswith(".") or name.endswith(".") or name.strip() != name
    if not name or bad or len(name.encode(errors="replace")) > _ID_BYTES:
        raise CallError(
            f'"id" {name!r} cannot name a file: expected 1 to {_ID_BYTES} bytes, without '
            '/ \\ : * ? " < > |, without a dot or space at either end, and without an ending such '
            "as .png."
        )
    return name


def parse_values(data: Mapping[str, Json]) -> dict[str, Json]:
    """Values of a line by the names of DrawCall, converted as `draw` does. Raises CallError."""
    return {name: _convert(name, value) for name, value in _option_names(data).items()}


def _option_names(data: Mapping[str, Json]) -> dict[str, Json]:
    """The values by option name: "save-latent" becomes "save_latent"."""
    names = set(options()) | {"save_latent"}
    values: dict[str, Json] = {}
    for key, value in data.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, [*names, *GRAPH_NAMES], 1, 0.5)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(sorted(names))}."
            raise CallError(f'unknown name "{key}". {hint}')
        if name in values:
            raise CallError(f'"{name}" appears twice: keep one.')
        values[name] = value
    return values


def _convert(name: str, value: Json) -> Json:
    if value is None:
        return None
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise CallError(f'"{name}" is {kind_of(value)}, expected true or false.')
        return value
    option = options()[name]
    if isinstance(option.default, list):
        items = value if isinstance(value, list) else [value]
        return [_convert_one(option, name, item) for item in items]
    return _convert_one(option, name, value)


def _convert_one(option: argparse.Action, name: str, value: Json) -> Json:
    """Convert a single value by the option's own type and choices."""
    number = name in _NUMBERS
    if isinstance(value, bool) or not isinstance(value, (int, float) if number else str):
        expected = "number" if number else "text"
        raise CallError(f'"{name}" is {kind_of(value)}, expected a {expected}.')
    parse: Callable[[str], Json] | None = option.type if callable(option.type) else None
    try:
        converted = parse(str(value)) if parse else value
    except argparse.ArgumentTypeError as error:
        raise CallError(f'"{name}": {error}') from None
    if option.choices is not None and converted not in option.choices:
        raise CallError(f'"{name}": {value!r}, expected {", ".join(map(str, option.choices))}.')
    return converted


@lru_cache(maxsize=1)
def options() -> dict[str, argparse.Action]:
    """The options of `inkstone draw` by the names of DrawCall."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_draw(commands)
    actions = commands.choices["draw"]._actions  # argparse has no public way to them
    return {action.dest: action for action in actions if action.dest not in _NOT_HERE}


def kind_of(value: Json) -> str:
    """The JSON type of a value, for a message."""
    if value is None:
        return "null"
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), "a number")
