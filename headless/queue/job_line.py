"""One line of a jobs file: a JSON object whose values are those of `inkstone draw`'s options.

Values go through the parser of `draw` itself, so that they mean and are refused the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.json_text import TooDeep, each_once, parse_json
from ...files.paths import name_fault, read_regular
from ..draw.option_values import kind_of, parse_values
from ..node_types import Json

GRAPH_NAMES = ("graph", "set", "id")
_MOST_BYTES = 16 << 20  # of a file of defaults
_ID_BYTES = 120  # file systems take names of 255 bytes
_NOT_IN_ID = re.compile(r'[\ud800-\udfff\x00-\x1f\x7f/\\:*?"<>|]')
# files of the folder itself and of other jobs
_RESERVED = re.compile(r".*\.(png|safetensors|jsonl|prom)", re.I)


def parse_object(text: str, example: str = '{"prompt": "a red circle"}') -> dict[str, Json]:
    """A JSON object without duplicate names; example: what a message shows. Raises CallError."""
    try:
        data = parse_json(
            text, object_pairs_hook=each_once(_twice), parse_constant=_refuse_constant
        )
    except CallError:
        raise
    except TooDeep:
        raise CallError("is nested too deeply. A job is one flat JSON object.") from None
    except json.JSONDecodeError as error:
        raise CallError(
            f"is not JSON: {error.msg} at column {error.colno}. Expected an object such as "
            f"{example}."
        ) from None
    except ValueError as error:  # a number of more than 4300 digits
        raise CallError(f"is not JSON: {error}. Write a smaller number.") from None
    if re.search("[\ud800-\udfff]", json.dumps(data, ensure_ascii=False)):
        raise CallError("has half a character (\\ud800 to \\udfff alone). Remove it.")
    if not isinstance(data, dict):
        raise CallError(f"is {kind_of(data)}, expected a JSON object such as {example}.")
    return data


def _twice(name: str) -> CallError:
    return CallError(f'"{name[:60]}" appears twice: keep one.')


def _refuse_constant(constant: str) -> None:
    raise CallError(f"{constant} is not JSON: write a number.")


def read_defaults(path: Path) -> dict[str, Json]:
    """Values for all jobs from a JSON object with the names of a line. Raises CallError."""
    try:
        data = parse_object(read_regular(path, _MOST_BYTES).decode("utf-8-sig"))
        if "id" in data or "prompt" in data or "graph" in data:
            raise CallError('"id", "prompt" and "graph" belong to one job: put them in its line.')
        return parse_values(data, GRAPH_NAMES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CallError(f"--defaults {path}: cannot be read: {reason}.") from None
    except InkstoneError as error:
        raise CallError(f"--defaults {path}: {error}") from None


def parse_id(value: Json) -> str:
    """A job's id, which names its files; "" if it has none. Raises CallError."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise CallError(f'"id" is {kind_of(value)}, expected a text.')
    name = str(value)
    bad = bool(_NOT_IN_ID.search(name) or _RESERVED.fullmatch(name) or name_fault(name))
    bad = bad or name.startswith(".") or name.endswith(".") or name.strip() != name
    if not name or bad or len(name.encode(errors="replace")) > _ID_BYTES:
        raise CallError(
            f'"id" {name!r} cannot name a file: expected 1 to {_ID_BYTES} bytes, without '
            '/ \\ : * ? " < > |, without a dot or space at either end, and without an ending such '
            "as .png."
        )
    return name
