"""The records of a dataset, and how the files of an example become one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InkstoneError
from .alike import alike
from .findings import Finding, lines, shown
from .pictures import OnItem, Picture, Pictures

_NEAR_RATIO = 0.02  # sides of a mask may differ by this much, as a scaled copy's do


@dataclass(frozen=True)
class Item:
    """One example as it lies on the disk."""

    name: str  # of the picture, below its folder
    picture: Picture
    caption: str | None = None  # None: there is none
    references: tuple[Picture, ...] = ()  # Picture 1, 2, 3 of an edit
    mask: Picture | None = None
    layers: tuple[Picture, ...] = ()  # from the lowest on, each of the picture's size
    repeats: int = 1  # how often it is shown in an epoch


@dataclass(frozen=True)
class Dataset:
    """All examples that can be used, in order, and what was found in the folder."""

    root: Path  # the folder of the pictures, or the JSONL
    items: tuple[Item, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Sources:
    """An example whose picture files are not looked at yet."""

    name: str
    picture: Path
    caption: str | None = None
    references: tuple[Path, ...] = ()
    mask: Path | None = None
    layers: tuple[Path, ...] = ()
    repeats: int = 1


def finished(
    root: Path, sources: Sequence[Sources], findings: Sequence[Finding], on_item: OnItem
) -> Dataset:
    """The dataset of these examples. InkstoneError where none is left."""
    pictures = Pictures()
    plain = (p for one in sources for p in (one.picture, *one.references, *one.layers))
    pictures.look(plain, "checking pictures", on_item)
    masks = Pictures()
    masks.look((s.mask for s in sources if s.mask), "checking masks", on_item, mask=True)
    found, items = list(findings), []
    for one in sources:
        item = _item(one, pictures, masks)
        if isinstance(item, Finding):
            found.append(item)
        else:
            items.append(item)
    found += _of_all(items)
    if not items:
        raise InkstoneError(nothing_left(root, found))
    if len({item.repeats for item in items}) == 1:
        found = [replace(f, kind="same repeats") if f.kind == "repeats" else f for f in found]
    most = math.gcd(*(item.repeats for item in items))  # 10 and 20 are 1 and 2
    items = [replace(item, repeats=item.repeats // most) for item in items]
    return Dataset(root, tuple(items), tuple(found))


def nothing_left(root: Path, findings: Sequence[Finding]) -> str:
    """The sentence for a dataset without an example."""
    why = "; ".join(lines(findings))
    expected = "pictures, and beside each a .txt of the same name with its caption"
    if root.is_file():
        expected = 'one object a line, such as {"image": "a.png", "caption": "a red house"}'
    return (
        f"{shown(root)} has no picture to train on: expected {expected}. "
        f"{f'There: {why}.' if why else 'There is none.'}"
    )


def _item(one: Sources, pictures: Pictures, masks: Pictures) -> Item | Finding:
    """The example, or why it is left out."""
    picture = pictures[one.picture]
    if isinstance(picture, str):
        return Finding("unreadable", one.name, picture)
    references, layers = ([pictures[p] for p in paths] for paths in (one.references, one.layers))
    for number, reference in enumerate(references, 1):
        if isinstance(reference, str):
            return Finding("bad reference", one.name, f"Picture {number}: {reference}")
    fault = _layers_fault(picture, layers)
    if fault:
        return Finding("bad layers", one.name, fault)
    mask = None if one.mask is None else masks[one.mask]
    if isinstance(mask, str):
        return Finding("bad mask", one.name, mask)
    if mask is not None and not _same_ratio(mask.size, picture.size):
        sizes = "{}x{}, the picture {}x{}".format(*mask.size, *picture.size)
        return Finding("bad mask", one.name, f"{sizes}: another aspect ratio")
    return Item(
        name=one.name,
        picture=picture,
        caption=one.caption,
        references=tuple(p for p in references if isinstance(p, Picture)),
        mask=mask,
        layers=tuple(p for p in layers if isinstance(p, Picture)),
        repeats=one.repeats,
    )


def _layers_fault(picture: Picture, layers: Sequence[Picture | str]) -> str | None:
    for number, layer in enumerate(layers, 1):
        if isinstance(layer, str):
            return f"layer {number}: {layer}"
        if layer.size != picture.size:
            sizes = "{}x{}, the picture {}x{}".format(*layer.size, *picture.size)
            return f"layer {number} is {sizes}: expected the same size"
    return None


def _same_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
    one, other = a[0] * b[1], a[1] * b[0]
    return abs(one - other) <= _NEAR_RATIO * max(one, other)


def _of_all(items: Sequence[Item]) -> Iterator[Finding]:
    """What is only seen of an example beside the others."""
    for item in items:
        if item.caption is None:
            yield Finding("no caption", item.name)
        elif not item.caption:
            yield Finding("empty caption", item.name)
        if item.mask is not None and (item.mask.whole or item.mask.by_alpha):
            kind = "whole mask" if item.mask.whole else "alpha mask"
            yield Finding(kind, item.name)
        animated = [p for p in (item.picture, *item.references, *item.layers) if p.animated]
        if animated:
            yield Finding("animated", item.name if item.picture.animated else animated[0].path.name)
    first: dict[str, Item] = {}
    for item in items:
        same = first.setdefault(item.picture.digest, item)
        if same is not item:
            yield Finding("duplicate", item.name, f"as {shown(same.name)}")
    for index, one in alike([item.picture for item in items]).items():
        yield Finding("alike", items[index].name, f"as {shown(items[one].name)}")
    counts = Counter(len(item.references) for item in items)
    usual = counts.most_common(1)[0][0] if counts else 0
    for item in items:
        if len(item.references) != usual:
            yield Finding("other count", item.name, f"{len(item.references)}, most have {usual}")
