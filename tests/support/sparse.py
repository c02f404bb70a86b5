"""Weight files of the real size that take no room on the disk: a header and a hole."""

from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path

from inkstone.loaders.arch.expected_tensors import Layout


def sparse_file(path: Path, shapes: Layout, metadata: dict[str, str] | None = None) -> Path:
    """A bf16 safetensors file of these tensors, all zeros."""
    at, table = 0, {"__metadata__": metadata or {"format": "pt"}}
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + at)
    return path
