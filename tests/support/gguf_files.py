"""GGUF files as the gguf package writes them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inkstone.quant.gguf_types import BY_NAME

from ..quant.test_gguf_blocks import ISSUE, blocks

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType


def finish(writer: "gguf.GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_type(path: Path, **more) -> dict[str, np.ndarray]:
    """A file by the package with a matrix of every type; the bytes of each."""
    writer = gguf.GGUFWriter(path, "qwen_image", **more)
    matrices = {}
    for name in ISSUE:
        kind = BY_NAME[name]
        matrices[name] = blocks(kind, 6, 512 // kind.block)
        if not kind.packed:
            matrices[name] = torch.randn(6, 512).to(kind.dtype).view(torch.uint8).numpy()
        writer.add_tensor(name, matrices[name], raw_dtype=Q(kind.id))
    finish(writer)
    return matrices
