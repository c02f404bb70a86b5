"""The settings file of a LoRA training: JSON, the names of the record's fields.

The node *Train LoRA* writes it, `inkstone train-lora --settings F` reads it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import CallError, InkstoneError, shorten
from ..files.atomic import write_text
from ..files.json_text import each_once, parse_json
from ..files.paths import check_given, read_regular
from .devices import parse_memory
from .train_choices import OPTIONS, TrainSettings
from .train_option import Option, flag_of, shown

_MOST = 1 << 20  # bytes of a file


def as_json(settings: TrainSettings) -> dict[str, object]:
    """The settings that are not left to the model, as JSON has them."""
    values = {name: _plain(name, getattr(settings, name)) for name in OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def _plain(name: str, value: object) -> object:
    if OPTIONS[name].kind == "ranks":
        assert isinstance(value, tuple)
        return dict(value)
    if isinstance(value, tuple):
        return [_plain("data", item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_settings(path: Path, settings: TrainSettings) -> None:
    """Writes a settings file. Raises InkstoneError."""
    text = json.dumps(as_json(settings), ensure_ascii=False, indent=2)
    write_text(path, text + "\n")


def read_settings(path: Path) -> dict[str, object]:
    """The settings of a file, for the record's constructor. Raises CallError: it is no JSON object,
    or has a name or a value that is no setting.
    """
    check_given(path, "--settings", kinds=("settings file",))
    try:
        values = parse_json(read_regular(path, _MOST), object_pairs_hook=each_once(_twice))
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__}")
    except OSError as error:
        raise CallError(f"--settings {path}: cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CallError(
            f"--settings {path}: expected a JSON object with settings, such as "
            f'{{"rank": 16}}: {shorten(str(error))}.'
        ) from None
    try:
        return settings_from(values)
    except InkstoneError as error:
        raise CallError(f"--settings {path}: {error}") from None


def _twice(name: str) -> ValueError:
    return ValueError(f"{shorten(name)!r} is there twice")


def settings_from(values: Mapping[str, object]) -> dict[str, object]:
    """Values of JSON, or of Python, as the record's constructor takes them; None is left out.
    Raises CallError.
    """
    for name in values:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(OPTIONS)}."
            raise CallError(f"{shorten(name)!r} is no setting: {hint}")
    given = {name: value for name, value in values.items() if value is not None}
    return {name: _value(name, OPTIONS[name], value) for name, value in given.items()}


def _memory(text: str) -> int | str:
    """Bytes; a text that is no amount stays one, and is refused."""
    try:
        return parse_memory(text)
    except InkstoneError:
        return text


def _value(name: str, option: Option, given: object) -> object:
    """One value; its limits are the record's."""
    value = given
    if option.kind == "path" and isinstance(value, (str, Path)):
        if not value:
            raise CallError(f"{flag_of(name)} is empty: expected a path.")
        value = Path(value)
    elif option.kind in ("paths", "texts"):
        single = isinstance(value, (str, Path))
        items = value if isinstance(value, (list, tuple)) else [value] if single else None
        paths = option.kind == "paths"
        if items is not None:
            if paths and "" in items:
                raise CallError(f"{flag_of(name)} has an empty path: expected folders.")
            value = tuple(Path(x) if paths and isinstance(x, str) else x for x in items)
    elif option.kind == "ranks" and isinstance(value, (Mapping, list, tuple)):
        pairs = value.items() if isinstance(value, Mapping) else value
        value = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in pairs)
    elif option.kind == "number" and type(value) is int:
        value = float(value)
    elif option.kind == "memory" and isinstance(value, str):
        value = _memory(value)
    fault = option.fault(value)
    if fault is not None:
        raise CallError(f"{name} is {shown(given)}: {fault}.")
    return value
