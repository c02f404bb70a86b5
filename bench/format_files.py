"""The embedded diffusion model in the formats of other tools, for benchmarks.

`inkstone quantize` writes GGUF and scaled fp8; the encoders of the tests write the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.pipeline.weight_rows import Matrices
from tests.support.packers import FOUR, PACKERS, matrix_layers

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
