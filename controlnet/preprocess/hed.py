"""HED, the usual network for soft edges, from a file of the user (keys of ControlNetHED).

VGG16's convolutions with a side output at each of five sizes; their mean is the edge. 37 tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import planes, to_bytes
from .weights import check_shapes, read_network

NETWORK = "a HED network (ControlNetHED as .safetensors: norm, block1.convs.0.weight, ...)"
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor."""
    expected: dict[str, tuple[int, ...]] = {"norm": (1, 3, 1, 1)}
    before = 3
    for k, (convs, channels) in enumerate(_BLOCKS, 1):
        for i in range(convs):
            expected[f"block{k}.convs.{i}.weight"] = (channels, before, 3, 3)
            expected[f"block{k}.convs.{i}.bias"] = (channels,)
            before = channels
        expected[f"block{k}.projection.weight"] = (1, channels, 1, 1)
        expected[f"block{k}.projection.bias"] = (1,)
    return expected


@torch.inference_mode()
def hed(picture: Tensor, model: str) -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W] 0..1, not thinned; one picture at a time."""
    tensors = read_network(model, NETWORK)
    check_shapes(tensors, shapes(), model, NETWORK)
    tensors = {name: x.to(picture.device) for name, x in tensors.items()}
    pictures = planes(to_bytes(picture)).split(1)
    return torch.stack([forward(tensors, x)[0, 0] for x in pictures]).clone()


def forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """[1,3,H,W] RGB 0..255 -> [1,1,H,W] 0..1"""
    total = x.new_zeros(1, 1, *x.shape[2:])
    x = x - tensors["norm"]
    for k, (convs, _) in enumerate(_BLOCKS, 1):
        if k > 1 and min(x.shape[2:]) > 1:
            x = F.max_pool2d(x, 2)
        for i in range(convs):
            name = f"block{k}.convs.{i}"
            x = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1).relu_()
        name = f"block{k}.projection"
        side = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        total = total + F.interpolate(side, total.shape[2:], mode="bilinear")
    return torch.sigmoid(total / len(_BLOCKS))
