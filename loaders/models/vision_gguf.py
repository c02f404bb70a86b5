"""The vision tower of a GGUF text encoder: a file of its own, called mmproj, and the search for it.

Unusual: some of our tensors are several in the file (q, k and v; two frames of a kernel). A
VisionFile lists them under our names and joins them while reading, so a loader sees one plain file.
It is identified by content, not by name; the name only decides between several that fit.
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import DeepVisionConfig
from ...quant.gguf_types import BY_NAME
from ..arch import key_maps_gguf
from ..arch.dims import vision_sizes
from ..arch.encoder_models import ENCODER_MODELS, QWEN25_VL, EncoderModel, tower_model
from ..formats.file_reader import AGAIN
from ..formats.gguf import GGUFFile
from ..formats.gguf_header import GGUFEntry
from ..formats.gguf_parts import architecture_of
from ..formats.weight_reader import WeightReader, find_entry

log = logging.getLogger(__name__)

_MOST_FILES = 200  # GGUF files of a folder that are looked into
_QUANT = re.compile(r"[-._]((ud[-._])?i?q\d\w*|bf16|f16|f32|fp16|mxfp4\w*|tq\d\w*)$", re.IGNORECASE)


class VisionFile(WeightReader):
    """An mmproj file under our `visual.` names.

    An entry whose parts have one type keeps it and can be read raw; one of mixed types is float32.
    """

    entries: dict[str, GGUFEntry]

    def __init__(self, path: str | Path) -> None:
        self._file = GGUFFile(path)
        self.path, self.metadata = self._file.path, self._file.metadata
        try:
            self._table, strange = key_maps_gguf.vision_parts(self._file.entries)
            if strange or not self._table:
                models = " or ".join(model.full for model in ENCODER_MODELS.values())
                raise InkstoneError(
                    f"{self.path}: {len(strange)} tensors are not part of a vision tower that "
                    f"Qwen-Image uses ({', '.join(strange[:5])}). Use the mmproj file of {models}."
                )
            self.entries = {ours: self._entry(ours) for ours in self._table}
        except BaseException:
            self.close()
            raise

    @property
    def tapped(self) -> tuple[int, ...] | None:
        """The blocks that deeper levels come from; None where the tower has none."""
        return key_maps_gguf.tapped_blocks(self._file.entries) or None

    def close(self) -> None:
        self._file.close()

    def _read_into(self, name: str, out: Tensor) -> None:
        parts, at = self._table[name], 0
        if len(parts.names) == 1:
            self._file.read(parts.names[0], out)
            return
        with torch.no_grad():
            for part in parts.names:
                if parts.stack:
                    self._file.read(part, out.select(parts.axis, at))
                    at += 1
                    continue
                n = self._file.entries[part].shape[parts.axis]
                self._file.read(part, out.narrow(parts.axis, at, n))
                at += n

    def raw(self, name: str) -> Tensor:
        """The bytes of a matrix, uint8 [rows, bytes of a row]; parts below each other."""
        entry, parts = find_entry(self.path, self.entries, name), self._table[name]
        if entry.kind is not self._file.entries[parts.names[0]].kind or parts.stack or parts.axis:
            raise InkstoneError(f"{self.path}: {name} is not of one type. Read it as floats.")
        return torch.cat([self._file.raw(part) for part in parts.names])

    def _entry(self, ours: str) -> GGUFEntry:
        parts = self._table[ours]
        entries = [self._file.entries[name] for name in parts.names]
        rest = parts.axis + (not parts.stack)
        if len({e.shape[: parts.axis] + e.shape[rest:] for e in entries}) > 1:
            shapes = ", ".join(f"{n} {list(e.shape)}" for n, e in zip(parts.names, entries))
            raise InkstoneError(f"{self.path}: {shapes} cannot be joined to {ours}. {AGAIN}")
        shape, first = parts.shape(e.shape for e in entries), entries[0]
        if len(entries) > 1 and any(e.kind is not first.kind or e.factor != 1 for e in entries):
            first = replace(first, kind=BY_NAME["F32"], dtype=torch.float32, factor=1.0)
        size = sum(e.nbytes for e in entries)
        return replace(first, shape=shape, begin=0, end=size)


@dataclass(frozen=True)
class Mmproj:
    """The vision tower next to a text encoder, or None, and a sentence about it."""

    path: Path | None
    words: str


def find_mmproj(encoder: Path, width: int, model: EncoderModel = QWEN25_VL) -> Mmproj:
    """Looks for the vision tower of a GGUF text encoder of this model and width in its folder.

    Damaged files there do not raise: text to image does not need them.
    """
    encoder = Path(encoder)
    stem = _stem(encoder)
    fitting = [p for p in _towers(encoder) if _fits(p, width, model)]
    named = [p for p in fitting if stem in _plain(p.stem)]
    chosen = fitting if len(fitting) == 1 else named
    if len(chosen) == 1:
        return Mmproj(chosen[0], f"vision tower {chosen[0].name}")
    if fitting:
        names = ", ".join(p.name for p in (named or fitting)[:5])
        return Mmproj(
            None,
            f"{len(named or fitting)} vision towers fit ({names}): text-to-image "
            "only; keep one of them next to the encoder for edits",
        )
    return Mmproj(
        None,
        f"no vision tower next to it: text-to-image only; an edit needs "
        f"mmproj-{encoder.name} (the mmproj file that its publisher offers with "
        f"it) in {encoder.parent}",
    )


def _plain(name: str) -> str:
    return re.sub(r"[-._ ]+", "-", name.lower())


def _stem(encoder: Path) -> str:
    """The model's name without its quantization: qwen2.5-vl-7b-instruct."""
    name = re.sub(r"-\d{5}-of-\d{5}$", "", encoder.stem)
    return _plain(_QUANT.sub("", name))


def _towers(encoder: Path) -> list[Path]:
    """GGUF files of the encoder's folder whose architecture is that of a vision tower."""
    folder = encoder if encoder.is_dir() else encoder.parent
    files = sorted(p for p in folder.glob("*.gguf") if p.is_file() and p != encoder)
    files.sort(key=lambda p: "mmproj" not in p.name.lower())  # the limit must not hide these
    return [p for p in files[:_MOST_FILES] if architecture_of(p) == "clip"]


def _fits(path: Path, width: int, model: EncoderModel) -> bool:
    try:
        with VisionFile(path) as file:
            shapes = {name: entry.shape for name, entry in file.entries.items()}
    except InkstoneError as error:
        log.debug("not a vision tower of ours: %s", error)
        return False
    sizes = vision_sizes(shapes)
    if sizes is None or sizes.out != width or tower_model(sizes) is not model:
        return False
    return not isinstance(sizes, DeepVisionConfig) or bool(sizes.taps)  # Qwen3.5 has none
