"""A dataset as JSONL: one object a line, its paths below the folder of the file.

    {"image": "a.png", "caption": "a red house", "references": ["b.png", "c.png"],
     "mask": "m.png", "layers": ["l1.png", "l2.png"]}

Only "image" has to be there. Keys of musubi-tuner (image_path, control_path, control_path_0 ...)
and of diffusers (file_name, text) are read too. Without a caption the `.txt` of the picture's stem
is taken. A path stays below the folder of the JSONL, so that a file that was downloaded reaches no
other pictures; a whole path into that folder, as musubi-tuner's have it, is as good. null is as if
the key were not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ...errors import InkstoneError
from ...files.json_text import each_once, parse_json
from ...files.paths import below, kind_of, read_regular, stays_in
from .captions import MOST_CAPTION, Unusable, checked_caption, read_caption
from .findings import Finding
from .items import Dataset, Sources, finished
from .pictures import OnItem

MOST_BYTES = 1 << 28  # of the file
_KEYS = {
    "image": "image",
    "image_path": "image",
    "file_name": "image",
    "caption": "caption",
    "text": "caption",
    "references": "references",
    "control_path": "references",
    "mask": "mask",
    "mask_path": "mask",
    "layers": "layers",
}
_NUMBERED = re.compile(r"control_path_(\d{1,4})")
_MOST_PICTURES = 64  # references or layers of one example


class _Refused(ValueError):
    """Why a line is left out."""


def read_jsonl(path: Path, on_item: OnItem) -> Dataset:
    """The dataset of a file. InkstoneError where it is no text, or where no example is left."""
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InkstoneError(
            f"{path}: cannot be read as JSONL: {reason}. Give a folder of pictures, or a text file "
            'with one object a line, such as {"image": "a.png", "caption": "a red house"}.'
        ) from None
    sources, findings = [], list[Finding]()
    unknown: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = _object(line)
            for key in values:
                if key not in _KEYS and not _NUMBERED.fullmatch(key):
                    unknown.setdefault(key, number)
            sources.append(_sources(values, path.parent))
        except (_Refused, Unusable) as fault:
            findings.append(Finding("line", f"line {number}", str(fault)))
    findings += [Finding("unknown key", key, f"line {n}") for key, n in unknown.items()]
    return finished(path, sources, findings, on_item)


def _object(line: str) -> dict[str, object]:
    """A JSON object without keys that appear twice."""
    try:
        value = parse_json(line, object_pairs_hook=each_once(_twice))
    except _Refused:
        raise
    except ValueError as error:
        raise _Refused(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _Refused(f"{type(value).__name__}, expected an object")
    return value


def _twice(_: str) -> _Refused:
    return _Refused("a key appears twice")


def _sources(values: dict[str, object], folder: Path) -> Sources:
    """The files and the caption of a line."""
    known: dict[str, object] = {}
    for key, value in values.items():
        name = _KEYS.get(key)
        if name in known:
            raise _Refused(f'more than one key for "{name}"')
        if name is not None and value is not None:
            known[name] = value
    numbered = _numbered(values)
    references = numbered or known.get("references", [])
    if numbered and "references" in known:
        raise _Refused('more than one key for "references"')
    if "image" not in known:
        raise _Refused('the key "image" is missing')
    picture = _file(known["image"], "image", folder)
    return Sources(
        name=picture.relative_to(folder).as_posix(),
        picture=picture,
        caption=_caption(known.get("caption"), picture, folder),
        references=_files(references, "references", folder),
        mask=_file(known["mask"], "mask", folder) if "mask" in known else None,
        layers=_files(known.get("layers", []), "layers", folder),
    )


def _numbered(values: Mapping[str, object]) -> list[object]:
    """The values of control_path_0, control_path_1 ... in order, without those at the end that are
    null; one in front would give the others another number.
    """
    order = sorted((int(m[1]), key) for key in values if (m := _NUMBERED.fullmatch(key)))
    keys = [key for _, key in order]
    while keys and values[keys[-1]] is None:
        keys.pop()
    for key, following in zip(keys, keys[1:]):
        if values[key] is None:
            raise _Refused(f'"{key}" is null, and "{following}" is there')
    return [values[key] for key in keys]


def _caption(value: object, picture: Path, folder: Path) -> str | None:
    if value is None:
        beside = picture.with_suffix(".txt")
        there = kind_of(beside) == "a file" and stays_in(folder, beside)
        return read_caption(beside) if there else None
    if not isinstance(value, str):
        raise _Refused(f'"caption" is {type(value).__name__}, expected a text')
    if len(value.encode("utf-8", "replace")) > MOST_CAPTION:
        raise _Refused(f"the caption is larger than {MOST_CAPTION >> 10} KiB")
    if re.search("[\ud800-\udfff]", value):
        raise _Refused("the caption has half a character")
    return checked_caption(value, "the caption")


def _files(value: object, key: str, folder: Path) -> tuple[Path, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) > _MOST_PICTURES:
        raise _Refused(f'"{key}" has {len(values)} pictures, expected at most {_MOST_PICTURES}')
    return tuple(_file(each, key, folder) for each in values)


def _file(value: object, key: str, folder: Path) -> Path:
    """A path below the folder."""
    if not isinstance(value, str):
        raise _Refused(f'"{key}" is {type(value).__name__}, expected a path')
    try:
        path = below(folder, _inside(value, folder))
    except InkstoneError as error:
        raise _Refused(f'"{key}": {error}') from None
    if not kind_of(path):
        raise _Refused(f'"{key}": there is no {value}')
    return path


def _inside(name: str, folder: Path) -> str:
    """A whole path into a folder as a name below it; others as they are."""
    if not os.path.isabs(name):
        return name
    try:
        place = Path(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        return place.relative_to(os.path.realpath(folder)).as_posix()
    except (OSError, ValueError):  # it leads elsewhere, or is no path
        return name
