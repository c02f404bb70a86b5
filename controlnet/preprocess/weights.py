"""A network's tensors from a file of the user, checked against the expected shapes.

Files are identified by their keys, never by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.paths import kind_of
from ...loaders.formats.open import open_weights
from ...loaders.memory.param_slots import require_finite

_MOST = 5  # names in a message
_CONVERT = (
    'In Python, for a .pth: x = torch.load("net.pth", weights_only=True); '
    'safetensors.torch.save_file(x, "net.safetensors").'
)


def read_network(path: str, network: str) -> dict[str, Tensor]:
    """Every tensor of a .safetensors file or a folder that holds one, in float32."""
    place = Path(path)
    if not kind_of(place):
        raise InkstoneError(f"{path}: no such file or folder. Expected {network}.")
    if place.suffix.lower() in (".pth", ".pt", ".ckpt", ".bin", ".onnx"):
        raise InkstoneError(
            f"{path}: only .safetensors files are read, since other formats can run code. Expected "
            f"{network}: convert the file once, its keys unchanged. {_CONVERT}"
        )
    with open_weights(place) as file:
        tensors = {name: file.read(name, dtype=torch.float32) for name in file.entries}
        for name, tensor in tensors.items():
            require_finite(file, name, tensor)
    return tensors


def check_shapes(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: str, network: str
) -> None:
    """Raises unless the tensors are exactly those of `shapes`."""
    missing = [name for name in shapes if name not in tensors]
    other = [name for name in tensors if name not in shapes]
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    for what, names in (("lacks", missing), ("has unknown", other), ("has wrong shapes:", wrong)):
        if names:
            raise InkstoneError(
                f"{path} is not {network}: it {what} {', '.join(names[:_MOST])} "
                f"({len(names)} in all). Choose a file of that network."
            )
