"""Every tensor of a weight file as rows of floats, whatever the format that it is stored in.

What a converter needs: names and shapes as if nothing were packed, and float rows on demand. One
tensor is in memory at a time, in the form that it has in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InkstoneError
from ..loaders.arch.family import family_of
from ..loaders.arch.folder_config import pipeline_of
from ..loaders.arch.identify import identify, require
from ..loaders.arch.key_maps import MMDIT_UNUSED, mmdit_names, text_names
from ..loaders.arch.recognizers import FAMILY_KEY
from ..loaders.arch.variant import VARIANT_KEY, told
from ..loaders.formats.hf_folder import config_of, part_of
from ..loaders.formats.open import Weights, open_weights
from ..quant.registry import find_packed
from ..quant.storage import PackedWeight

Rows = Callable[[int, int], Tensor]  # (start, stop) -> float tensor [stop - start, columns]
PARTS = {"diffusion_model": "transformer", "text_encoder": "text_encoder"}


class Matrices:
    """An open diffusion model or text encoder. `shapes` has our names and plain shapes."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.role = _part(Path(path))
        self.source: Weights = open_weights(self.path)
        try:
            self._look()
        except BaseException:
            self.source.close()
            raise

    def __enter__(self) -> Matrices:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def _look(self) -> None:
        find = mmdit_names if self.role == "diffusion_model" else text_names
        names = find(self.source.entries)
        self.names = names.table
        self.config = config_of(self.path)
        self.found: dict[str, PackedWeight] = find_packed(self.source, self.names, self.config)
        packed = {part for weight in self.found.values() for part in weight.parts}
        self.shapes = {
            ours: self.found[ours].shape if ours in self.found else self._stored(ours)
            for ours in dict.fromkeys([*self.names, *self.found])
            if ours in self.found or ours not in packed
        }
        self.marks = {
            theirs.rpartition(".")[2]: theirs
            for theirs in names.unused
            if theirs.rpartition(".")[2] in MMDIT_UNUSED
        }
        self.left_out = tuple(n for n in names.unused if n not in self.marks.values())
        self.said = self._said()

    def _said(self) -> dict[str, str]:
        """Metadata with which a copy says what it is: without a folder around it, nothing else
        may."""
        family = self.source.metadata.get(FAMILY_KEY)
        said = {FAMILY_KEY: family} if family else {}
        if self.role == "diffusion_model":
            mark = identify(self.source).variant
            variant = told(family_of(self.source.metadata).name, mark, pipeline_of(self.path))
            said |= {VARIANT_KEY: variant.name} if variant else {}
        return said

    def _stored(self, name: str) -> tuple[int, ...]:
        return tuple(self.source.entries[self.names[name]].shape)

    def bits(self, name: str) -> float:
        """Bits per weight in the file."""
        if name in self.found:
            rows, columns = self.shapes[name]
            return 8 * self.found[name].nbytes / (rows * columns)
        return 8.0 * self.dtype(name).itemsize

    def dtype(self, name: str) -> torch.dtype:
        """The type of a plain tensor in the file; float32 of a packed one."""
        if name in self.found:
            return torch.float32
        return self.source.entries[self.names[name]].dtype

    def form(self, name: str) -> str:
        """The format of a tensor in words."""
        return self.found[name].format if name in self.found else str(self.dtype(name))[6:]

    def whole(self, name: str) -> Tensor:
        """One tensor as float32; for small ones."""
        if name in self.found:
            return self.found[name].load().dequantize()
        return self.source.read(self.names[name], dtype=torch.float32)

    def rows(self, name: str) -> Rows:
        """The rows of a matrix. What is in memory is freed with the function that is returned."""
        columns = self.shapes[name][1]
        if name not in self.found:
            tensor = self.source.read(self.names[name])
            return lambda start, stop: tensor[start:stop].float()
        storage = self.found[name].load()
        return lambda start, stop: storage.rows_into(start, torch.empty(stop - start, columns))


def _part(path: Path) -> tuple[Path, str]:
    """(file or folder of the weights, role), of a whole model folder the diffusion model's."""
    part = part_of(path, PARTS["diffusion_model"])
    facts = identify(part, want=None if part == path else "diffusion_model")
    if facts.role not in PARTS and part == path:
        inner = [p for p in PARTS.values() if (path / p).is_dir()]
        if inner:
            raise InkstoneError(f"{path} is a folder of models: name {' or '.join(inner)} in it.")
    role = facts.role if facts.role in PARTS else "diffusion_model"
    require(facts, role)
    return part, role
