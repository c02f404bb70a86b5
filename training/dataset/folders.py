"""The files of a dataset's folder: pictures, captions and others, with what cannot be looked at.

Links to files are followed where they stay in the folder; links to folders are not, because they
may lead in circles. A folder is read to any depth without recursion.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...errors import CallError, InkstoneError
from ...files.json_text import parse_json
from ...files.paths import read_regular, stays_in
from .findings import Finding

ENDINGS = frozenset(
    ".png .jpg .jpeg .jfif .webp .bmp .dib .gif .tif .tiff .avif .heic .heif".split()
)
MOST_FILES = 1_000_000
_RUN, _RUN_KEY, _RUN_BYTES = "run.json", "pictures-digest", 1 << 20  # of a training's own folder
Name = PurePosixPath
"""The path of a file below its folder."""


@dataclass
class Listing:
    """The files of a folder by their names, each kind in order of name."""

    folder: Path
    pictures: dict[Name, Path] = field(default_factory=dict)
    texts: dict[Name, Path] = field(default_factory=dict)
    others: list[Name] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def stem(name: Name) -> Name:
    """A name without its ending: what pictures, captions, references and masks share."""
    return name.with_suffix("")


def listing(folder: Path, apart: Sequence[Path] = (), own: Sequence[Path] = ()) -> Listing:
    """All files below a folder, without those below the folders `apart`, and without what a
    training wrote, which is said: the folders `own`, and those of earlier runs. CallError for a
    whole disk, InkstoneError where there are more than MOST_FILES.
    """
    real = Path(os.path.realpath(folder))
    if real.parent == real:
        raise CallError(f"{folder} is a whole disk: give the folder that holds only the pictures.")
    found, todo, count = Listing(folder), [folder], 0
    skipped, written = ({os.path.realpath(path) for path in paths} for paths in (apart, own))
    skipped.discard(str(real))
    written.discard(str(real))
    while todo:
        place = todo.pop()
        for entry in _entries(place, found):
            count += 1
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inside, place_of = Path(entry.path), os.path.realpath(entry.path)
                if place_of in written or _is_run(inside):
                    name = inside.relative_to(folder).as_posix()
                    found.findings.append(Finding("of a training", name))
                elif place_of not in skipped:
                    todo.append(inside)
            else:
                _sort_in(entry, found)
        if count > MOST_FILES:
            raise InkstoneError(
                f"{folder} holds more than {MOST_FILES:,} files: that is no folder of training "
                "pictures. Give the folder that holds only these."
            )
    found.pictures = dict(sorted(found.pictures.items()))
    found.texts = dict(sorted(found.texts.items()))
    found.others.sort()
    found.findings.sort(key=lambda finding: finding.name)
    return found


def _is_run(folder: Path) -> bool:
    """True for the folder of a LoRA training: checkpoints, samples, a plot of the loss."""
    try:
        facts = parse_json(read_regular(folder / _RUN, _RUN_BYTES).decode())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and _RUN_KEY in facts


def _entries(place: Path, found: Listing) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        name = place.relative_to(found.folder).as_posix()
        found.findings.append(Finding("folder", name, (error.strerror or "").lower()))
        return []


def _sort_in(entry: os.DirEntry[str], found: Listing) -> None:
    """Puts a file, or a link, where it belongs."""
    path = Path(entry.path)
    name = Name(path.relative_to(found.folder).as_posix())
    ending = name.suffix.lower()
    if entry.is_symlink():
        if os.path.isdir(path):
            return found.findings.append(Finding("linked folder", str(name)))
        if (ending in ENDINGS or ending == ".txt") and not stays_in(found.folder, path):
            return found.findings.append(Finding("outside", str(name)))
    if ending in ENDINGS:
        found.pictures[name] = path
    elif ending == ".txt":
        found.texts[name] = path
    else:
        found.others.append(name)
