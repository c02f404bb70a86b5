"""What is worth knowing about a dataset: findings by kind, and the lines that they become.

A finding never stops the reading: the file or the example that it is about is left out, or used in
a way that its line says. Names come from anybody's folders and may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import shorten

_SHOWN = 4  # names in a line
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# kind -> the words of its line behind the number, for one and for more than one
KINDS = {
    # left out
    "folder": ("folder cannot be read", "folders cannot be read"),
    "linked folder": ("folder is a link and is not followed", "folders are links, not followed"),
    "of a training": (
        "folder is left out: a training wrote it, checkpoints and samples or encoded pictures",
        "folders are left out: trainings wrote them, checkpoints and samples or encoded pictures",
    ),
    "outside": (
        "file is left out: a link that leads out of its folder; copy the file into it",
        "files are left out: links that lead out of their folder; copy the files into it",
    ),
    "unreadable": ("picture is left out, it cannot be read", "pictures cannot be read, left out"),
    "mask label": (
        "picture is left out, OneTrainer's mask of another: put it into a folder of masks under "
        "that picture's name, and give --mask-dir",
        "pictures are left out, OneTrainer's masks of others: put them into a folder of masks "
        "under those pictures' names, and give --mask-dir",
    ),
    "line": ("line of the JSONL is left out", "lines of the JSONL are left out"),
    "bad caption": (
        "picture is left out, its caption cannot be used",
        "pictures are left out, their captions cannot be used",
    ),
    "no reference": (
        "picture is left out, it has no reference of its name",
        "pictures are left out, they have no reference of their name",
    ),
    "bad reference": (
        "picture is left out for its references",
        "pictures are left out for their references",
    ),
    "bad mask": ("picture is left out for its mask", "pictures are left out for their masks"),
    "bad layers": ("picture is left out for its layers", "pictures are left out for their layers"),
    "small": ("picture is left out, it is too small", "pictures are left out, they are too small"),
    "narrow": (
        "picture is left out, it is too long and narrow",
        "pictures are left out, they are too long and narrow",
    ),
    # used, and said
    "no caption": ("picture has no caption", "pictures have no caption"),
    "to ask": (
        "picture has no caption: the text encoder writes one beside it, before the training",
        "pictures have no caption: the text encoder writes them beside them, before the training",
    ),
    "not asked": (
        "picture stays without a caption: the text encoder writes none",
        "pictures stay without captions: the text encoder writes none",
    ),
    "asked": (
        "caption was written by the text encoder, beside its picture",
        "captions were written by the text encoder, beside their pictures",
    ),
    "empty caption": ("caption is empty", "captions are empty"),
    "long caption": (
        "caption is longer than the text encoder takes, its end is not used",
        "captions are longer than the text encoder takes, their ends are not used",
    ),
    "tags": (
        "caption has marks of other programs, which are read as plain words",
        "captions have marks of other programs, which are read as plain words",
    ),
    "trigger": (
        "caption has ai-toolkit's [trigger], which nothing replaces, --trigger neither: write the "
        "word itself",
        "captions have ai-toolkit's [trigger], which nothing replaces, --trigger neither: write "
        "the word itself",
    ),
    "duplicate": (
        "picture is there more than once, with the same bytes, and counts as often",
        "pictures are there more than once, with the same bytes, and count as often",
    ),
    "alike": (
        "picture looks the same as another, in other bytes, and counts as well",
        "pictures look the same as others, in other bytes, and count as well",
    ),
    "same name": (
        "name belongs to more than one picture, which share caption, references and mask",
        "names belong to more than one picture, which share caption, references and mask",
    ),
    "other count": (
        "picture has another number of references than most",
        "pictures have another number of references than most",
    ),
    "many references": (
        "picture has more references than the model was tried with",
        "pictures have more references than the model was tried with",
    ),
    "no mask": (
        "picture has no mask of its name: all of it is learned",
        "pictures have no mask of their name: all of them is learned",
    ),
    "whole mask": (
        "mask is white everywhere: it changes nothing",
        "masks are white everywhere: they change nothing",
    ),
    "alpha mask": (
        "mask has transparent parts: what is opaque is learned, whatever its colour",
        "masks have transparent parts: what is opaque is learned, whatever its colour",
    ),
    "transparent": (
        "picture has transparent parts: learned as white, or as they are by a VAE with alpha",
        "pictures have transparent parts: learned as white, or as they are by a VAE with alpha",
    ),
    "animated": (
        "picture is an animation, its first frame is used",
        "pictures are animations, their first frames are used",
    ),
    "lone caption": ("caption has no picture", "captions have no picture"),
    "lone reference": ("reference has no picture", "references have no picture"),
    "same reference": (
        "picture has more than one reference of one name or number",
        "pictures have more than one reference of one name or number",
    ),
    "same mask": (
        "picture has more than one mask, the first is used",
        "pictures have more than one mask, the first is used",
    ),
    "lone mask": ("mask has no picture", "masks have no picture"),
    "other file": ("file is neither picture nor caption", "files are neither picture nor caption"),
    "repeats": (
        "folder has a number of repeats in its name: its pictures are shown as often",
        "folders have numbers of repeats in their names: pictures are shown in these proportions",
    ),
    "same repeats": (
        "folder has a number of repeats in its name, which all pictures share: each is shown once "
        "in an epoch",
        "folders have numbers of repeats in their names, which all pictures share: each is shown "
        "once in an epoch",
    ),
    "no repeats": (
        "folder begins with a number that is none of repeats, 1 to 100: its pictures count once",
        "folders begin with numbers that are none of repeats, 1 to 100: their pictures count once",
    ),
    "unknown key": ("key of the JSONL is not read", "keys of the JSONL are not read"),
    "smaller": (
        "picture is smaller than the resolution and is learned at its own size",
        "pictures are smaller than the resolution and are learned at their own size",
    ),
    "cropped": (
        "picture loses more than a tenth to its bucket",
        "pictures lose more than a tenth to their bucket",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing about one file. name: as its line shows it; detail: why, or what of it."""

    kind: str
    name: str
    detail: str = ""


def shown(name: object, most: int = 80) -> str:
    """A name as a line can show it: on one line, in Unicode, and short."""
    plain = str(name).encode("utf-8", "backslashreplace").decode()
    return shorten(_CONTROL.sub(lambda match: repr(match[0])[1:-1], plain), most)


def lines(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind, in the order of KINDS: a count, the kind, the first names."""
    groups: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        groups[finding.kind].append(finding)
    return [_line(kind, group) for kind, group in groups.items() if group]


def _line(kind: str, group: Sequence[Finding]) -> str:
    names = [
        shown(one.name) + (f" ({shown(one.detail, 160)})" if one.detail else "")
        for one in group[:_SHOWN]
    ]
    more = f" and {len(group) - _SHOWN:,} more" if len(group) > _SHOWN else ""
    return f"{len(group):,} {KINDS[kind][len(group) > 1]}: {', '.join(names)}{more}"
