"""A LoRA file, read whole and checked: what it does to which layer, by our names.

Every method that stands beside a linear layer is read (layer.py), in every spelling of
loaders/arch/key_maps_lora.py. Whether it fits a model is asked later
(adapters.py), so one file serves several models; it is read once as long as someone holds it.
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
from ..arch.identify import describe, require, view_of
from ..arch.key_maps_lora import DISTILLED_MODULES, Named, other_words, seems_for, understand
from ..arch.marks import OTHER_LORA_MARK, QWEN_LORA_MARK
from ..formats.open import Weights, open_weights
from .alpha import said
from .layer import LayerReader, LoraLayer

log = logging.getLogger(__name__)

DISTILLED_RANK = 64  # of every published Lightning LoRA
_DISTILLED_WORD = re.compile(r"lightning|distill|\bturbo\b", re.IGNORECASE)
_STEPS = re.compile(r"\b(\d{1,2})[ _-]?steps?\b", re.IGNORECASE)
_serials = itertools.count(1)
_loaded: weakref.WeakValueDictionary[tuple, Lora] = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Lora:
    """A file. `strangers` are modules, as the file spells them, that are none of ours."""

    path: Path
    model: Mapping[str, LoraLayer]  # our name of a layer of the MMDiT -> what is done to it
    text: Mapping[str, LoraLayer]  # the same of the text encoder
    strangers: tuple[str, ...] = ()
    distilled: Distilled | None = None
    serial: int = field(default_factory=lambda: next(_serials))  # tells files apart, never reused

    def layers(self, role: str) -> Mapping[str, LoraLayer]:
        """Of "model" or "text"."""
        return self.model if role == "model" else self.text


def load_lora(path: str | Path) -> Lora:
    """Reads and checks a .safetensors file. InkstoneError when it is damaged or not for us."""
    path = Path(path)
    key = _identity(path)
    held = _loaded.get(key)
    if held is not None:
        return held
    with open_weights(path) as source:
        lora = _read(source)
    _loaded[key] = lora
    return lora


def _identity(path: Path) -> tuple:
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)  # opening it says why
    return str(path.resolve()), stat.st_mtime_ns, stat.st_size


def _read(source: Weights) -> Lora:
    groups, strangers = _grouped(source)
    layers: dict[str, dict[str, LoraLayer]] = {"model": {}, "text": {}}
    scales = {role: said(source.metadata, source.path, role) for role in layers}
    for (role, ours), parts in groups.items():
        beat()
        reader = LayerReader(source, parts, scales[role], ours[0])
        layers[role] |= zip(ours, reader.layers(len(ours)))
    return Lora(
        source.path,
        layers["model"],
        layers["text"],
        strangers,
        _distilled(layers["model"], groups, source.metadata),
    )


_Groups = dict[tuple[str, tuple[str, ...]], dict[str, str]]


def _grouped(source: Weights) -> tuple[_Groups, tuple[str, ...]]:
    """((role, our modules) -> part -> name in the file, modules that are none of ours)."""
    groups: _Groups = {}
    strangers: dict[str, None] = {}
    named = {name: understand(name) for name in source.entries}
    if not any(n for n in named.values()):
        require(describe(view_of(source)), "lora")
        raise InkstoneError(
            f"{source.path}: no tensor in it is part of a LoRA. Choose another file from "
            "models/loras."
        )
    _refuse_other_models(source.path, [n for n, known in named.items() if known], named)
    for name, known in named.items():
        if known is None or not known.ours:
            strangers[known.module if known else name] = None
            continue
        if known.part == "other":
            part = name[len(known.module) + 1 :]
            raise InkstoneError(
                f"{source.path}: {name} is {other_words(part)}, which this version cannot apply "
                "beside a layer. Use a LoRA, LoKr, LoHa or DoRA file."
            )
        parts = groups.setdefault((known.role, known.ours), {})
        if known.part in parts:
            raise InkstoneError(
                f"{source.path}: {parts[known.part]} and {name} are the same part of one layer: "
                "the file holds two adapters. Save them as two files."
            )
        parts[known.part] = name
    return groups, tuple(strangers)


def _refuse_other_models(path: Path, names: list[str], named: Mapping[str, Named | None]) -> None:
    """FLUX and Qwen-Image share names of attention layers: marks of others decide."""
    ours = [n for n in names if named[n].ours]
    seems = seems_for([n for n in names if n not in ours])
    qwen = any(QWEN_LORA_MARK.search(n) for n in ours) or all(named[n].role == "text" for n in ours)
    other = any(OTHER_LORA_MARK.search(n) for n in names if not named[n].ours)
    if ours and (qwen or not other) and seems != "Qwen-Image 2.1":
        return
    what = f"it seems to be for {seems}" if seems else "its names are of no kind that is known"
    some = ", ".join(names[:3])
    raise InkstoneError(
        f"{path}: 0 of {len({named[n].module for n in names})} modules of this LoRA belong to "
        f"Qwen-Image, {what} ({some} ...). Choose a LoRA that was trained for Qwen-Image."
    )


def _distilled(
    layers: Mapping[str, LoraLayer], groups: _Groups, metadata: Mapping[str, str]
) -> Distilled | None:
    """Told by the metadata, else by what the published Lightning files have in common: rank 64 on
    every layer of every block but modulation, an alpha tensor each, bare names.
    """
    words = " ".join(value[:4096] for value in metadata.values())
    if layers and _DISTILLED_WORD.search(words):
        steps = _STEPS.search(words)
        return Distilled(int(steps[1]) if steps else None, "its metadata says so")
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
