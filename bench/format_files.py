"""The embedded diffusion model in the formats of other tools, for benchmarks.

`inkstone quantize` writes GGUF and scaled fp8; the encoders of the tests write the rest, and GGUF
types without an encoder get random blocks.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.loaders.formats.gguf_metadata import ARCHITECTURE
from inkstone.loaders.formats.gguf_writer import gguf_layout
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.pipeline.weight_rows import Matrices
from inkstone.quant.gguf_dequantizer import dequantize
from inkstone.quant.gguf_types import BY_NAME, BlockType
from tests.support.packers import FOUR, PACKERS, matrix_layers

WEIGHTS = "diffusion_pytorch_model.safetensors"
_F32 = BY_NAME["F32"]


def write_packed(folder: Path, form: str) -> Path:
    """Writes the matrices of all blocks in a format of PACKERS, the other matrices in bfloat16 and
    vectors as they are; config.json goes next to them.
    """
    with Matrices(EMBEDDED_FOLDER) as model:
        tensors = {name: model.whole(name) for name in model.shapes}
        metadata = dict(model.file.source.metadata)
    config = json.loads((EMBEDDED_FOLDER / "transformer" / "config.json").read_text("utf-8"))
    if form == "DFloat11":
        config["dfloat11_config"] = {"pattern_dict": _streams(tensors)}
    PACKERS[form](tensors, matrix_layers(tensors))
    plain = {n for n, t in tensors.items() if t.dtype in (torch.float16, torch.float32)}
    outside = {n for n in plain if tensors[n].dim() == 2 and n.endswith(".weight")}
    tensors |= {n: tensors[n].bfloat16() for n in outside}
    save_safetensors(folder / WEIGHTS, tensors, metadata)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def _streams(tensors: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Pattern of a block -> its matrices in the order of its stream; the last block has fewer."""
    blocks = {n[: n.index(".", 19)] for n in tensors if n.startswith("transformer_blocks.")}
    return {
        block.replace(".", r"\."): [n for n in FOUR if f"{block}.{n}.weight" in tensors]
        for block in sorted(blocks)
    }


def write_random(folder: Path, kind_name: str, deviation: float = 0.03) -> Path:
    """Writes a GGUF file with random blocks of one type where the rows of a matrix fit it, and the
    embedded model's own weights elsewhere; config.json goes next to it.
    """
    kind = BY_NAME[kind_name]
    with Matrices(EMBEDDED_FOLDER) as model:
        tensors = {name: model.whole(name) for name in model.shapes}
        metadata = dict(model.file.source.metadata)
    packed = {n + ".weight" for n in matrix_layers(tensors)}
    packed = {n for n in packed if tensors[n].shape[1] % kind.block == 0}
    plan = {n: (tuple(t.shape), kind if n in packed else _F32) for n, t in tensors.items()}
    head, slots, total = gguf_layout({ARCHITECTURE: "qwen_image", **metadata}, plan)
    with open(folder / "model.gguf", "wb") as out:
        out.write(head)
        for slot in slots:
            out.write(bytes(slot.begin - out.tell()))
            tensor = tensors[slot.name]
            if slot.name in packed:
                tensor = random_blocks(kind, tensor.numel() // kind.block, deviation)
            out.write(tensor.contiguous().numpy().tobytes())
        out.write(bytes(total - out.tell()))
    shutil.copy(EMBEDDED_FOLDER / "transformer" / "config.json", folder)
    return folder


def random_blocks(kind: BlockType, count: int, deviation: float) -> torch.Tensor:
    """Random blocks [count, bytes] whose weights have about this deviation."""
    dice = torch.Generator().manual_seed(kind.id)
    raw = torch.randint(0, 256, (count, kind.bytes), dtype=torch.uint8, generator=dice)

    def spread(value: float) -> float:
        _set_scales(raw, kind, value)
        return dequantize(raw[:256], kind).std().item()

    choices = [2.0**n for n in range(-16, 3)] if kind.scales else range(1, 127)
    best = min(choices, key=lambda value: abs(spread(value) - deviation))
    _set_scales(raw, kind, best)
    return raw


def _set_scales(raw: torch.Tensor, kind: BlockType, value: float) -> None:
    """All scales of these blocks: a float, or the code of one where scales are bytes."""
    for at in kind.scales:
        raw[:, at : at + 2] = torch.tensor([value]).half().view(torch.uint8)
    for at in kind.byte_scales:
        raw[:, at] = int(value)
