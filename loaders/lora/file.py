"""A LoRA file, read whole and checked: its change of each layer, by our names.

Every method that works as a side branch of a linear layer is read (layer.py), in every spelling of
loaders/arch/key_maps_lora.py. Whether it fits a model is checked later (adapters.py), so one file
serves several models; it is read once as long as it is referenced.
"""

from __future__ import annotations

import itertools
import logging
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InkstoneError
from ...kernels.interrupt import beat
from ...sampling.lightning import Distilled
from ...sampling.schedule import LIGHTNING_21, TURBO_21
from ..arch.identify import describe, require, view_of
from ..arch.key_maps_lora import (
    DISTILLED_MODULES,
    Named,
    is_norm,
    other_words,
    seems_for,
    understand,
)
from ..arch.marks import OTHER_LORA_MARK, QWEN_LORA_MARK
from ..formats.file_reader import stamp_of
from ..formats.open import open_weights
from ..formats.weight_reader import WeightReader
from .alpha import read_alpha
from .layer import LayerReader, LoraLayer

log = logging.getLogger(__name__)

DISTILLED_RANK = 64  # of every published Lightning LoRA
# Names of the published files, whole: Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16. Only a hint,
# and only the name: titles and comments are prose ("Porsche 911 Turbo").
_PUBLISHED = re.compile(
    r"(?:\w+-)?Qwen-Image(?:-Edit|-Layered|-\d{4}|-fp8-e4m3fn(?:-scaled)?)*"
    r"-(?:Lightning|Turbo)(?:-LoRA)?-(\d)-?steps?(?:-V\d[\w.]*)?(?:-(?:bf16|fp16|fp32))?",
    re.IGNORECASE,
)
_serials = itertools.count(1)
_loaded: weakref.WeakValueDictionary[tuple[object, ...], Lora] = weakref.WeakValueDictionary()
# distilled LoRAs of 2.1: (the file's name, its schedule)
_HEAD = r"(?:\w+-)?qwen-image-2[.-]?1(?:-edit|-base)?"
_TAIL = r"(?:-lora|-rank-?\d+|-r\d+|-v\d[\w.]*|-bf16|-fp16|-fp32)*"
_NEWER = (
    (re.compile(rf"{_HEAD}-lightning(?:-lora)?-(\d)-?steps?{_TAIL}"), LIGHTNING_21),
    (re.compile(rf"{_HEAD}-turbo(?:-\d-?steps?)?{_TAIL}"), TURBO_21),
)


@dataclass(frozen=True, eq=False)
class Lora:
    """A file. `unknown_modules` are not ours, spelled as in the file."""

    path: Path = field(repr=False)  # not for the page: ComfyUI shows what a wire carries
    model: Mapping[str, LoraLayer]  # our name of a layer or norm of the MMDiT -> its change
    text: Mapping[str, LoraLayer]  # the same for the text encoder
    unknown_modules: tuple[str, ...] = ()
    distilled: Distilled | None = None
    serial: int = field(default_factory=lambda: next(_serials))  # identifies the file, never reused

    def layers(self, role: str) -> Mapping[str, LoraLayer]:
        """The layers of a role, "model" or "text"."""
        return self.model if role == "model" else self.text


def load_lora(path: str | Path, source: WeightReader | None = None) -> Lora:
    """Reads and checks a .safetensors file. InkstoneError when it is damaged or for another
    model. source: the file where it is open already; the caller closes it.
    """
    path = Path(path)
    key = _identity(path)
    loaded = _loaded.get(key)
    if loaded is not None:
        return loaded
    if source is not None:
        lora = _read(source)
    else:
        with open_weights(path) as opened:
            lora = _read(opened)
    _loaded[key] = lora
    return lora


def _identity(path: Path) -> tuple[object, ...]:
    try:
        stamp = stamp_of(path.stat())
    except OSError:
        return (str(path),)  # opening it raises the error
    return str(path.resolve()), stamp


def _read(source: WeightReader) -> Lora:
    groups, unknown = _grouped(source)
    layers: dict[str, dict[str, LoraLayer]] = {"model": {}, "text": {}}
    scales = {role: read_alpha(source.metadata, source.path, role) for role in layers}
    for (role, ours), parts in groups.items():
        beat()
        reader = LayerReader(source, parts, scales[role], ours[0])
        layers[role] |= zip(ours, reader.layers(len(ours)))
    return Lora(
        path=source.path,
        model=layers["model"],
        text=layers["text"],
        unknown_modules=unknown,
        distilled=_distilled(layers["model"], groups, source.path.stem),
    )


_Groups = dict[tuple[str, tuple[str, ...]], dict[str, str]]


def _grouped(source: WeightReader) -> tuple[_Groups, tuple[str, ...]]:
    """((role, our modules) -> part -> name in the file, unknown modules)."""
    groups: _Groups = {}
    unknown: dict[str, None] = {}
    names = {name: named for name in source.entries if (named := understand(name))}
    if not names:
        require(describe(view_of(source)), "lora")
        raise InkstoneError(
            f"{source.path}: no tensor in it is part of a LoRA. Choose another file from "
            "models/loras."
        )
    _refuse_other_models(source.path, names)
    for name in source.entries:
        named = names.get(name)
        if named is None or not named.ours:
            unknown[named.module if named else name] = None
            continue
        if named.part == "other":
            part = name[len(named.module) + 1 :]
            raise InkstoneError(
                f"{source.path}: {name} is {other_words(part)}, which this version cannot apply "
                "as a side branch. Use a LoRA, LoKr, LoHa or DoRA file."
            )
        if is_norm(named.ours[0]) and named.part != "diff":
            unknown[f"{name} (norms take plain differences of their weight only)"] = None
            continue
        parts = groups.setdefault((named.role, named.ours), {})
        if named.part in parts:
            raise InkstoneError(
                f"{source.path}: {parts[named.part]} and {name} are the same part of one layer: "
                "the file holds two adapters. Save them as two files."
            )
        parts[named.part] = name
    return groups, tuple(unknown)


def _refuse_other_models(path: Path, names: Mapping[str, Named]) -> None:
    """FLUX and Qwen-Image share names of attention layers: marks of others decide."""
    ours = {name: named for name, named in names.items() if named.ours}
    others = [name for name in names if name not in ours]
    seems = seems_for(others)
    qwen = any(QWEN_LORA_MARK.search(name) for name in ours)
    qwen = qwen or all(named.role == "text" for named in ours.values())
    other = any(OTHER_LORA_MARK.search(name) for name in others)
    if ours and (qwen or not other):
        return
    what = f"it seems to be for {seems}" if seems else "its names are of no known model"
    first = ", ".join(list(names)[:3])
    raise InkstoneError(
        f"{path}: 0 of {len({named.module for named in names.values()})} modules of this LoRA "
        f"belong to Qwen-Image, {what} ({first} ...). Choose a LoRA that was trained for "
        "Qwen-Image."
    )


def _distilled(layers: Mapping[str, LoraLayer], groups: _Groups, stem: str) -> Distilled | None:
    """The distillation, detected by a published file's name, else by the common traits of the
    published Lightning files: rank 64 on every layer of every block but modulation, an alpha tensor
    each, names without a prefix. Metadata is prose and decides nothing.
    """
    published = _PUBLISHED.fullmatch(stem.replace("_", "-"))
    if layers and published:
        return Distilled(int(published[1]), "it has the name of a published one")
    bare = stem.replace("_", "-").lower()
    newer = next(((how, m) for p, how in _NEWER if (m := p.fullmatch(bare))), None)
    if layers and newer:
        schedule, match = newer
        steps = int(match[1]) if match.lastindex else len(schedule.levels)
        return Distilled(steps, "by its name", schedule)
    blocks: dict[str, set[str]] = {}
    for name in layers:
        _, number, module = (*name.split(".", 2), "", "")[:3]
        blocks.setdefault(number, set()).add(module)
    plain = all(
        parts.keys() == {"down", "up", "alpha"} and parts["down"].startswith("transformer_blocks.")
        for parts in groups.values()
    )
    ranks = {layer.rank for layer in layers.values()}
    whole = len(blocks) > 1 and all(b == DISTILLED_MODULES for b in blocks.values())
    if not (plain and whole and ranks == {DISTILLED_RANK}):
        return None
    return Distilled(None, f"rank {DISTILLED_RANK} on every layer but modulation, bare names")
