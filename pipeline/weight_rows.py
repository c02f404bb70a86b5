"""Every tensor of a weight file as rows of floats, in whatever format it is stored.

The interface that a converter needs: names and shapes as if nothing were packed, and float rows on
demand. One tensor is in memory at a time, in the form that it has in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InkstoneError
from ..loaders.arch.dims import Shapes
from ..loaders.arch.family import family_of
from ..loaders.arch.file_facts import FAMILY_KEY, FileFacts
from ..loaders.arch.folder_config import ModelFolder
from ..loaders.arch.header_view import HeaderView
from ..loaders.arch.identify import open_as
from ..loaders.arch.key_maps import (
    FP8_MARK,
    FUSED_ROWS,
    MMDIT_UNUSED,
    fused_parts,
    head_names,
    mmdit_names,
)
from ..loaders.arch.variant import VARIANT_KEY, detect_variant
from ..loaders.formats.weight_reader import Closable, WeightReader
from ..loaders.models.weight_file import weight_file

Rows = Callable[[int, int], Tensor]  # (start, stop) -> float tensor [stop - start, columns]
PARTS = {"diffusion_model": "transformer", "text_encoder": "text_encoder"}


class Matrices(Closable):
    """An open diffusion model or text encoder. `shapes` has our names and plain shapes, those that
    programs write to one matrix joined (`joined`: its name -> those of its parts, see FUSED_ROWS).
    """

    def __init__(self, path: str | Path) -> None:
        folder = ModelFolder(path, PARTS["diffusion_model"])
        self.path, self.config = folder.part, folder.config
        source, view, facts = _open(folder)
        self.source, self.role = source, facts.role
        try:
            names = view.names(mmdit_names if self.role == "diffusion_model" else head_names)
            self.file = weight_file(source, view, names, cut=False)
        except BaseException:
            source.close()
            raise
        self.names, self.packed = self.file.names, self.file.packed
        parts = view.packed(names).parts
        own = {  # in the order of the file
            name: self.file.shapes[name]
            for name in dict.fromkeys([*self.names, *self.packed])
            if name in self.packed or name not in parts
        }
        self.joined = joined_parts(own)
        self.shapes = _as_written(own, self.joined)
        self.beside = len(names.outside)  # tensors of other models in the same file
        unused = [n for n in names.unused if n.rpartition(".")[2] != FP8_MARK]
        self.marks = {  # of the model; that of fp8 says how the source is stored
            theirs.rpartition(".")[2]: theirs
            for theirs in unused
            if theirs.rpartition(".")[2] in MMDIT_UNUSED
        }
        self.left_out = tuple(n for n in unused if n not in self.marks.values())
        self.metadata = _metadata(source, facts, folder)

    def close(self) -> None:
        self.source.close()

    def parts(self, name: str) -> tuple[str, ...]:
        """The names under which a tensor is in the file: one, or those that are joined to it."""
        return self.joined.get(name, (name,))

    def bits(self, name: str) -> float:
        """Bits per weight in the file."""
        name = self.parts(name)[0]
        if name in self.packed:
            rows, columns = self.packed[name].shape
            return 8 * self.packed[name].nbytes / (rows * columns)
        return 8.0 * self.dtype(name).itemsize

    def dtype(self, name: str) -> torch.dtype:
        """The type of a plain tensor in the file; float32 of a packed one."""
        name = self.parts(name)[0]
        if name in self.packed:
            return torch.float32
        return self.source.entries[self.names[name]].dtype

    def form(self, name: str) -> str:
        """The format of a tensor, for people."""
        name = self.parts(name)[0]
        return self.packed[name].format if name in self.packed else str(self.dtype(name))[6:]

    def whole(self, name: str) -> Tensor:
        """One tensor as float32; for small ones."""
        if name in self.packed:
            return self.packed[name].load().dequantize()
        return self.source.read(self.names[name], dtype=torch.float32)

    def rows(self, name: str) -> Rows:
        """The rows of a matrix, which stays in memory as long as the function that is returned."""
        if name in self.joined:
            return self._rows_of_parts(self.joined[name])
        columns = self.file.shapes[name][1]
        if name not in self.packed:
            tensor = self.source.read(self.names[name])
            return lambda start, stop: tensor[start:stop].float()
        storage = self.packed[name].load()
        return lambda start, stop: storage.rows_into(start, torch.empty(stop - start, columns))

    def _rows_of_parts(self, names: tuple[str, ...]) -> Rows:
        """The rows of several matrices, one below the other."""
        parts, ends = [self.rows(name) for name in names], [0]
        for name in names:
            ends.append(ends[-1] + self.file.shapes[name][0])

        def rows(start: int, stop: int) -> Tensor:
            spans = [
                (part, max(start, first) - first, min(stop, last) - first)
                for part, first, last in zip(parts, ends, ends[1:])
            ]
            return torch.cat([part(a, b) for part, a, b in spans if a < b])

        return rows


def joined_parts(shapes: Shapes) -> dict[str, tuple[str, ...]]:
    """The matrices that programs write as one: its name -> those of its parts in the file."""
    wholes = {
        name.removesuffix(f"{parts[0]}.weight") + f"{whole}.weight"
        for name in shapes
        for whole, parts in FUSED_ROWS.items()
        if name.endswith(f".{parts[0]}.weight")
    }
    return {whole: p for whole, p in fused_parts(wholes).items() if all(n in shapes for n in p)}


def _as_written(shapes: Shapes, joined: Mapping[str, tuple[str, ...]]) -> Shapes:
    """The shapes with joined matrices where their first part in the file is."""
    whole_of = {part: whole for whole, parts in joined.items() for part in parts}
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        whole = whole_of.get(name)
        if whole is None:
            out[name] = shape
        elif whole not in out:
            out[whole] = (sum(shapes[part][0] for part in joined[whole]), *shape[1:])
    return out


def _open(folder: ModelFolder) -> tuple[WeightReader, HeaderView, FileFacts]:
    """The open weights, of a whole model folder the diffusion model's."""
    if folder.part != folder.root:
        return open_as(folder.part, folder.config, "diffusion_model")
    try:
        return open_as(folder.part, folder.config, *PARTS)
    except InkstoneError:
        inner = [part for part in PARTS.values() if (folder.root / part).is_dir()]
        if not inner:
            raise
        raise InkstoneError(
            f"{folder.root} is a folder of models: name {' or '.join(inner)} in it."
        ) from None


def _metadata(source: WeightReader, facts: FileFacts, folder: ModelFolder) -> dict[str, str]:
    """Metadata that lets a copy name its family and variant: there may be no folder around it."""
    family = source.metadata.get(FAMILY_KEY)
    metadata = {FAMILY_KEY: family} if family else {}
    if facts.role == "diffusion_model":
        name = family_of(source.metadata, facts.family).name
        variant = detect_variant(name, facts.variant, folder.pipeline)
        metadata |= {VARIANT_KEY: variant.name} if variant else {}
    return metadata
