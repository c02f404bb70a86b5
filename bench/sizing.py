"""The sizing table of docs/serving.md: memory by model format and picture size, by the memory plan.

Writes files of the real layouts that hold a header and a hole (no weight is ever read), opens them
as a draw does, and asks the plan that a draw follows. Of each cell: everything stays in memory, as
in a server that has room; and the least, streamed block by block (`--memory`). One picture,
computed in bf16, with the model's own guidance. Takes seconds and no disk.

python bench/sizing.py
python bench/sizing.py --sizes 1024x1024,2752x1536 --cfg 1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench.full_size_files import gguf_text_name, mmdit_type, text_type
from inkstone.kernels.configs import (
    DeepVisionConfig,
    MMDiTConfig,
    ResidualVAEConfig,
    SingleStreamConfig,
    TextConfig,
    VAEConfig,
    VisionConfig,
)
from inkstone.loaders.arch import expected_tensors, key_maps_vae
from inkstone.loaders.arch.encoder_models import QWEN3_VL
from inkstone.loaders.arch.expected_tensors import Layout
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.formats.gguf_metadata import ARCHITECTURE
from inkstone.loaders.formats.gguf_writer import gguf_layout
from inkstone.loaders.memory import residency
from inkstone.loaders.models.bundle import Bundle
from inkstone.loaders.models.load import (
    EMBEDDED_FOLDER,
    load_diffusion_model,
    load_text_encoder,
    load_vae,
)
from inkstone.loaders.models.weight_file import LoadOptions, parameter_bytes
from inkstone.pipeline import memory_plan
from inkstone.pipeline.memory_plan import Plan, PlanRequest, plan
from inkstone.quant.gguf_types import BY_NAME

FORMATS = ("Q4_K_M", "Q8_0", "fp8", "bf16")
SIZES = ("512x512", "1024x1024", "1328x1328", "2048x2048")
PROGRAM = 500_000_000  # bytes of Python and torch, about
ENDLESS = 1 << 40
_BYTES = {"BF16": 2, "F8_E4M3": 1}


@dataclass(frozen=True)
class Published:
    """A family as it is published: the layouts of its three files."""

    title: str
    mmdit: Layout
    text: TextConfig
    tower: VisionConfig | DeepVisionConfig
    architectures: tuple[str, str]  # of GGUF: diffusion model, text encoder
    vae: Layout
    steps: int
    cfg: float


def families() -> list[Published]:
    """Qwen-Image, which edits and layers share sizes with, and Qwen-Image-2.1."""
    wan, residual = key_maps_vae.wan_vae_table(), key_maps_vae.residual_vae_table()
    return [
        Published(
            "Qwen-Image",
            expected_tensors.mmdit_layout(MMDiTConfig()),
            TextConfig(),
            VisionConfig(),
            ("qwen_image", "qwen2vl"),
            _named(vae_layout(VAEConfig()), wan),
            50,
            4.0,
        ),
        Published(
            "Qwen-Image-2.1",
            expected_tensors.single_stream_layout(SingleStreamConfig()),
            QWEN3_VL.config,
            DeepVisionConfig(),
            ("qwen_image21", "qwen3vl"),
            _named(vae_layout(ResidualVAEConfig()), residual),
            40,
            1.0,
        ),
    ]


def _named(shapes: Layout, table: Mapping[str, str]) -> Layout:
    ours = {mine: theirs for theirs, mine in table.items()}
    return {ours[name]: shape for name, shape in shapes.items() if name in ours}


def kind_of(format: str, name: str, shape: Sequence[int], text: bool) -> str:
    """The type of a tensor in a file of this format."""
    if format == "Q4_K_M":
        return text_type(name, tuple(shape)) if text else mmdit_type(name, tuple(shape))
    inside = len(shape) == 2 and ("blk." in name or "_blocks." in name or ".layers." in name)
    if format == "Q8_0":
        return "F32" if len(shape) == 1 else "Q8_0" if inside or text else "BF16"
    return "F8_E4M3" if format == "fp8" and inside else "BF16"


def hollow(path: Path, format: str, shapes: Layout, architecture: str, text: bool = False) -> Path:
    """A file with these tensors: its header, and zeros that take no room."""
    kinds = {name: kind_of(format, name, shape, text) for name, shape in shapes.items()}
    if format.startswith("Q"):
        slots = {name: (shape, BY_NAME[kinds[name]]) for name, shape in shapes.items()}
        values = {ARCHITECTURE: architecture, "general.quantization_version": 2}
        head, _, total = gguf_layout(values, slots)
    else:
        head, total = _safetensors(shapes, kinds)
    path = path.with_suffix(".gguf" if format.startswith("Q") else ".safetensors")
    path.write_bytes(head)
    os.truncate(path, total)
    return path


def _safetensors(shapes: Layout, kinds: Mapping[str, str]) -> tuple[bytes, int]:
    at, table = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        end = at + _BYTES[kinds[name]] * math.prod(shape)
        table[name] = {"dtype": kinds[name], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + at


def opened(family: Published, format: str, folder: Path) -> Bundle:
    """The three models, waiting."""
    if format.startswith("Q"):  # the tower is a file of its own, which only edits open
        ours = expected_tensors.text_layout(family.text)
        text = {gguf_text_name(name): shape for name, shape in ours.items()}
    else:
        ours = expected_tensors.text_layout(family.text, family.tower)
        tower = {name: shape for name, shape in ours.items() if name.startswith("visual.")}
        text = tower | {f"model.{n}": shape for n, shape in ours.items() if n not in tower}
    model, encoder = family.architectures
    options = LoadOptions(torch.bfloat16, wait=True)
    files = [
        hollow(folder / "model", format, family.mmdit, model),
        hollow(folder / "text", format, text, encoder, text=True),
        hollow(folder / "vae", "bf16", family.vae, ""),
    ]
    return Bundle(
        load_diffusion_model(files[0], options),
        load_text_encoder(files[1], options, EMBEDDED_FOLDER / "tokenizer"),
        load_vae(files[2], options),
    )


@contextmanager
def endless_memory(vae: int) -> Iterator[None]:
    """Plans as on a machine with memory for everything. vae: bytes of the VAE, which is loaded."""
    before = residency.free_bytes, residency.used_bytes, memory_plan.used_bytes
    residency.free_bytes = lambda device: ENDLESS
    residency.used_bytes = memory_plan.used_bytes = lambda device: PROGRAM + vae
    try:
        yield
    finally:
        residency.free_bytes, residency.used_bytes, memory_plan.used_bytes = before


def planned(models: Bundle, size: str, family: Published, cfg: float | None) -> Plan:
    """The plan of one picture."""
    step = models.model.latents.step
    width, height = (-(-int(side) // step) * step for side in size.split("x"))  # 2.1: 1328 -> 1344
    request = PlanRequest((width, height), family.steps, cfg=family.cfg if cfg is None else cfg)
    return plan(models, request)


def rows(
    sizes: Sequence[str], cfg: float | None = None, formats: Sequence[str] = FORMATS
) -> list[tuple[str, str, list[Plan]]]:
    """(family, format, a plan for each size)."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for family in families():
            for format in formats:
                models = opened(family, format, Path(folder))
                with endless_memory(parameter_bytes(models.vae.network)):
                    plans = [planned(models, size, family, cfg) for size in sizes]
                found.append((family.title, format, plans))
    return found


def table(sizes: Sequence[str], found: Sequence[tuple[str, str, list[Plan]]]) -> str:
    """Markdown: GB, all in memory / least."""
    lines = [f"| | weights | {' | '.join(size.replace('x', ' x ') for size in sizes)} |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    for title, format, plans in found:
        whole = plans[0].text_encoder + plans[0].diffusion_model + plans[0].vae
        cells = [f"{p.peak / 1e9:.1f} / {p.least / 1e9:.1f}" for p in plans]
        lines.append(f"| {title}, {format} | {whole / 1e9:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--cfg", type=float, help="guidance; default: the model's own")
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
    print(table(sizes, rows(sizes, arguments.cfg)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
