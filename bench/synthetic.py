"""Models of the real width from small files: three layers on disk, as many as wanted in the model.

A file holds a first, a middle and a last layer of valid random weights; `Repeated` shows it to the
loaders as a file of any number of layers. Every layer is read from the file (from the system's
cache of it) and has memory of its own, so time and memory are those of a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.full_size_files import write_gguf
from inkstone.kernels.configs import MMDiTConfig, SingleStreamConfig
from inkstone.loaders.arch.expected_tensors import Layout, mmdit_layout, single_stream_layout
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.formats.safetensors_header import TensorEntry
from inkstone.loaders.formats.weight_reader import WeightReader
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.gguf_recipes import mix_named, types_of

ON_DISK = 3
KINDS = ("Q4_K_M", "fp8", "bf16", "int8_convrot")
_LAYER = re.compile(r"(transformer_blocks\.)(\d+)(\..*)")
_NOISE = 1 << 22  # floats that are repeated
_CONVROT = b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}'
_E4M3 = torch.float8_e4m3fn


class Repeated(WeightReader):
    """An open file of three layers as one of `layers`."""

    def __init__(self, file: WeightReader, layers: int) -> None:
        self._file, self.path = file, file.path
        self.metadata: Mapping[str, str] = file.metadata
        self._names = {ours: theirs for ours, theirs in self._all(layers)}
        self.entries: Mapping[str, TensorEntry] = {
            ours: file.entries[theirs] for ours, theirs in self._names.items()
        }

    def _all(self, layers: int):
        """(name shown, name in the file)"""
        for name in self._file.entries:
            match = _LAYER.fullmatch(name)
            if match is None:
                yield name, name
                continue
            number = int(match[2])
            last = ON_DISK - 1
            shown = {0: [0], last: [layers - 1]}.get(number, range(1, layers - 1))
            yield from ((f"{match[1]}{n}{match[3]}", name) for n in shown)

    def close(self) -> None:
        self._file.close()

    def raw(self, name: str) -> Tensor:
        """See GGUFFile.raw."""
        return self._file.raw(self._names[name])  # type: ignore[attr-defined]  # of GGUF files only

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        return self._file.read(self._names[name], out, dtype)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        return self._file.read_rows(self._names[name], start, stop, dtype)


def config_20b(tiny: bool) -> MMDiTConfig:
    """Qwen-Image, or a small network of its kind, with the layers of a file."""
    if tiny:
        return MMDiTConfig(layers=ON_DISK, heads=2, head_dim=128, joint=256, ff=512)
    return replace(MMDiTConfig(), layers=ON_DISK)


def config_21(tiny: bool) -> SingleStreamConfig:
    """Qwen-Image-2.1, or a small network of its kind, with the layers of a file."""
    if tiny:
        return SingleStreamConfig(layers=ON_DISK, heads=2, head_dim=128, joint=256, ff=512)
    return replace(SingleStreamConfig(), layers=ON_DISK)


def file_of(folder: Path, kind: str, config: MMDiTConfig | SingleStreamConfig) -> Path:
    """The file of three layers in one of KINDS, written where it is not there yet."""
    newer = isinstance(config, SingleStreamConfig)
    layout = single_stream_layout(config) if newer else mmdit_layout(config)
    arch = "qwen_image21" if newer else "qwen_image"
    suffix = "gguf" if kind == "Q4_K_M" else "safetensors"
    path = folder / f"{arch}-{config.width}-{kind}.{suffix}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "Q4_K_M":
        types, _ = types_of(layout, mix_named(kind))
        write_gguf(path, arch, layout, lambda name, shape: types[name].name)
    else:
        save_safetensors(path, _tensors(layout, kind), {"format": "pt"})
    return path


def _tensors(layout: Layout, kind: str) -> dict[str, Tensor]:
    """Random weights; those of one shape are one tensor."""
    noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(3)).mul_(0.02)
    pool: dict[tuple[int, ...], Tensor] = {}
    codes: dict[tuple[int, ...], Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, shape in layout.items():
        if shape not in pool:
            count = torch.Size(shape).numel()
            flat = noise.bfloat16().repeat(-(-count // _NOISE))[:count]
            pool[shape] = (flat.add_(0.5) if len(shape) == 1 else flat).view(shape)
        tensors[name] = pool[shape]
        if kind == "fp8" and _LAYER.match(name) and len(shape) == 2:
            if shape not in codes:
                codes[shape] = (pool[shape].float() / 0.001).to(_E4M3)
            tensors[name] = codes[shape]
            tensors[name.removesuffix("weight") + "scale_weight"] = torch.tensor(0.001)
        if kind == "int8_convrot" and _LAYER.match(name) and len(shape) == 2:
            if shape not in codes:
                codes[shape] = (pool[shape].float() / 0.0008).round().clamp(-127, 127).char()
            layer = name.removesuffix(".weight")
            tensors[name] = codes[shape]
            tensors[f"{layer}.weight_scale"] = torch.full((shape[0], 1), 0.0008)
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(_CONVROT), dtype=torch.uint8)
    if kind == "fp8":
        tensors["scaled_fp8"] = torch.zeros(0, dtype=_E4M3)
    return tensors


def model_of(path: Path, layers: int, options: LoadOptions) -> DiffusionModel:
    """The model of a file of three layers, with this many."""
    return load_diffusion_model(path, options, Repeated(open_weights(path), layers))
