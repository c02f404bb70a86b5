"""The pictures and captions of a training: a folder, or a JSONL file.

Conventions are those of the usual trainers (kohya's scripts, musubi-tuner, ai-toolkit, diffusers):

- A folder holds pictures, and beside each a `.txt` of the same stem with its caption. Subfolders
  are read too; names that begin with a dot are not.
- `control_dir` holds the references of edits, under the picture's own stem, or stem_0, stem_1,
  stem_2 ... for more than one; or there are several such folders, for Picture 1, 2, 3. `mask_dir`
  holds a mask under the picture's stem: what is white is learned, what is black is not; of one with
  transparency what is opaque. All have the same subfolders as the pictures.
- The pictures of a folder `10_name` (kohya's) are shown ten times as often as those of `1_name` or
  of a folder without a number. Folders inside it count like it, where kohya reads none.
- A JSONL file has one object a line: see jsonl.py.

Every picture is decoded once, so that a damaged file is named before a model is loaded. Nothing
outside the folders is opened: links that lead out of them are left out, and said.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CallError
from ...files.paths import check_given, kind_of
from .captions import OTHER_CAPTIONS, Unusable, read_caption
from .findings import Finding
from .folders import Listing, Name, listing, stem
from .items import Dataset, Sources, finished
from .jsonl import read_jsonl
from .pictures import NO_PROGRESS, OnItem

_NUMBERED = re.compile(r"(.+)_(\d{1,4})")
_REPEATED = re.compile(r"(\d{1,4})_.*")  # kohya's name of a folder: how often its pictures count
_MASK_LABEL = "-masklabel"  # OneTrainer's ending of the stem of a mask beside its picture
MOST_REPEATS = 100  # of such a name; 2024_italy is none
_ADVICE = {
    ".jsonl": "to use it, give it in place of the folder",
    **dict.fromkeys(OTHER_CAPTIONS, "rename it to .txt to use it"),
}


def read(
    data: Path,
    control_dir: Path | Sequence[Path] | None = None,
    mask_dir: Path | None = None,
    on_item: OnItem = NO_PROGRESS,
    own: Sequence[Path] = (),
) -> Dataset:
    """A folder of pictures, or a JSONL file. own: folders that the training writes to, which hold
    no pictures to train on, wherever they are; those of earlier runs are known by their files.
    Raises CallError where a path is none of these, and InkstoneError where no example is left;
    everything else becomes a finding.
    """
    check_given(data, "DATA", kinds=("folder", "JSONL file"))
    several = [control_dir] if isinstance(control_dir, Path) else [*(control_dir or ())]
    sides = [("--control-dir", path) for path in several]
    sides += [("--mask-dir", mask_dir)] if mask_dir is not None else []
    if kind_of(data) == "a file":
        given = list(dict.fromkeys(option for option, _ in sides))
        if given:
            raise CallError(
                f"{data.name} is a file, a JSONL names references and masks itself: remove "
                f"{' and '.join(given)}, or give a folder of pictures."
            )
        return read_jsonl(data, on_item)
    for option, path in sides:
        check_given(path, option, kinds=("folder",))
        if os.path.realpath(path) == os.path.realpath(data):
            raise CallError(f"{option} {path} is the folder of the pictures: name another.")
    return _read_folder(_Folders(data, several, mask_dir, own), on_item)


@dataclass(frozen=True)
class _Folders:
    """The folders of a dataset."""

    data: Path
    controls: Sequence[Path]
    masks: Path | None
    own: Sequence[Path]  # that the training writes to


@dataclass
class _Side:
    """Files that belong to pictures of the same stem, and what was found of them."""

    files: dict[Name, list[Path]] = field(default_factory=dict)  # by the picture's stem
    findings: list[Finding] = field(default_factory=list)


def _read_folder(folders: _Folders, on_item: OnItem) -> Dataset:
    data, mask_dir, written = folders.data, folders.masks, folders.own
    mask_dirs = [] if mask_dir is None else [mask_dir]
    main = listing(data, [*folders.controls, *mask_dirs], written)
    findings = [*main.findings, *_without_labels(main)]
    stems = Counter(map(stem, main.pictures))
    controls = [_references(listing(path, [data], written), stems) for path in folders.controls]
    masks = [_masks(listing(path, [data], written), stems) for path in mask_dirs]
    if masks and main.pictures and not masks[0].files:
        raise CallError(
            f"--mask-dir {mask_dir}: no picture has a mask there. Expected a picture with the name "
            f"of each that has one, such as {next(iter(main.pictures))}."
        )
    findings += _about(main, stems)
    findings += [finding for side in (*controls, *masks) for finding in side.findings]
    captions, usable = {stem(name): path for name, path in main.texts.items()}, []
    for name, path in main.pictures.items():
        own = stem(name)
        try:
            caption = read_caption(captions[own]) if own in captions else None
        except Unusable as fault:
            findings.append(Finding("bad caption", str(name), str(fault)))
            continue
        references = [side.files.get(own, []) for side in controls]
        lack = _lack(references)
        if lack is not None:
            findings.append(Finding("no reference", str(name), lack))
            continue
        if masks and own not in masks[0].files:
            findings.append(Finding("no mask", str(name)))
        mask = masks[0].files[own][0] if masks and own in masks[0].files else None
        every = tuple(path for paths in references for path in paths)
        repeats = _repeats(data, _numbered(data, name.parent)) or 1
        usable.append(Sources(str(name), path, caption, every, mask, repeats=repeats))
    return finished(data, usable, findings, on_item)


def _without_labels(main: Listing) -> list[Finding]:
    """Takes out of the pictures those that OneTrainer reads as masks of others."""
    stems = set(map(stem, main.pictures))
    labels = [
        name
        for name in main.pictures
        if (own := stem(name)).name.endswith(_MASK_LABEL) and own.name != _MASK_LABEL
        if own.with_name(own.name.removesuffix(_MASK_LABEL)) in stems
    ]
    for name in labels:
        del main.pictures[name]
    return [Finding("mask label", str(name)) for name in labels]


def _lack(references: Sequence[Sequence[Path]]) -> str | None:
    """What a picture lacks whose references are these, by folder; None where nothing. Without a
    Picture 1 the others would get other numbers.
    """
    present = [bool(paths) for paths in references]
    if not references or any(present) and present == sorted(present, reverse=True):
        return None
    return f"of Picture {present.index(False) + 1}" if any(present) else ""


def _about(main: Listing, stems: Counter[Name]) -> Iterable[Finding]:
    """What is strange about the names in the folder of the pictures."""
    for own, count in stems.items():
        if count > 1:
            yield Finding("same name", str(own), f"{count} pictures")
    for name in main.texts:
        if stem(name) not in stems:
            yield Finding("lone caption", str(name))
    for name in main.others:
        yield Finding("other file", str(name), _ADVICE.get(name.suffix.lower(), ""))
    for folder in sorted({_numbered(main.folder, name.parent) for name in main.pictures}):
        repeats = _repeats(main.folder, folder)
        if repeats is not None:
            shown_as = str(folder) if folder.name else _name(main.folder, folder)
            yield Finding("repeats" if repeats else "no repeats", shown_as)


def _numbered(root: Path, folder: Name) -> Name:
    """The folder that says how often the pictures of one count: itself, or the nearest around it
    with a number.
    """
    around = (folder, *folder.parents)
    return next((one for one in around if _repeats(root, one) is not None), folder)


def _name(root: Path, folder: Name) -> str:
    """The last name of a folder below the root, or of the root itself."""
    return folder.name or os.path.basename(os.path.realpath(root))


def _repeats(root: Path, folder: Name) -> int | None:
    """How often the pictures of a folder below the root count, as its own name says; 0 where its
    number is none of repeats, None where it has no number.
    """
    match = _REPEATED.fullmatch(_name(root, folder))
    if match is None:
        return None
    return int(match[1]) if int(match[1]) <= MOST_REPEATS else 0


def _references(side: Listing, stems: Collection[Name]) -> _Side:
    """The references of each picture in order: that of its own stem, then numbered ones."""
    numbered: dict[Name, list[tuple[int, Path]]] = defaultdict(list)
    lone = []
    for name, path in side.pictures.items():
        own, number = stem(name), -1
        if own not in stems and (match := _NUMBERED.fullmatch(own.name)):
            own, number = own.with_name(match[1]), int(match[2])
        if own in stems:
            numbered[own].append((number, path))
        else:
            lone.append(Finding("lone reference", str(name)))
    files = {own: [path for _, path in sorted(pairs)] for own, pairs in numbered.items()}
    twice = [own for own, pairs in numbered.items() if len({n for n, _ in pairs}) < len(pairs)]
    for own in twice:
        names = ", ".join(path.name for path in files.pop(own))
        lone.append(Finding("same reference", str(own), names))
    return _Side(files, [*side.findings, *lone])


def _masks(side: Listing, stems: Collection[Name]) -> _Side:
    """The mask of each picture."""
    files: dict[Name, list[Path]] = defaultdict(list)
    lone = []
    for name, path in side.pictures.items():
        if stem(name) in stems:
            files[stem(name)].append(path)
        else:
            lone.append(Finding("lone mask", str(name)))
    for own in [own for own, paths in files.items() if len(paths) > 1]:
        lone.append(Finding("same mask", str(own), ", ".join(path.name for path in files[own])))
    return _Side(files, [*side.findings, *lone])
