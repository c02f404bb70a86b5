"""The two bundled pose networks in plain torch: a person detector, and one person's keypoints.

pose_net.safetensors (see pose_net.md for origin and licence) holds their weights in fp16 and, as
metadata, each network as a list of operations [kind, output, inputs, options] that `run`
executes. Pruned weights are stored as one bit per weight and the nonzero values. Measured against
TensorFlow Lite on the original files: see tests/controlnet/test_pose_people.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loaders.formats.open import open_weights
from ...loaders.formats.weight_reader import WeightReader

FILE = Path(__file__).with_name("pose_net.safetensors")
DETECT_SIDE, MARKS_SIDE = 224, 256  # sides of their inputs in pixels
_ACTS: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6}


class OperationOptions(TypedDict):
    """Options of an operation; each kind has some of them."""

    weight: str
    pad: list[int]  # left, right, top, bottom
    stride: int
    groups: int
    act: str
    size: list[int]
    width: int


@dataclass(frozen=True)
class PoseNet:
    """Operations in order, and the weights that they name, float32."""

    steps: list[tuple[str, int, list[int], OperationOptions]]
    weights: dict[str, Tensor]


def load(name: str, device: torch.device) -> PoseNet:
    """`detect`: [B,3,224,224] -1..1 -> boxes [B,2254,12], logits [B,2254,1];
    `marks`: [B,3,256,256] 0..1 -> points [B,1,195], presence [B,1,1].
    """
    with open_weights(FILE) as file:
        metadata = file.metadata
        shapes = json.loads(metadata[f"{name}.shapes"])
        weights = {n: _weight(file, f"{name}.{n}", s).to(device) for n, s in shapes.items()}
    return PoseNet(json.loads(metadata[name]), weights)


def _weight(file: WeightReader, name: str, shape: list[int]) -> Tensor:
    if name in file.entries:
        return file.read(name, dtype=torch.float32)
    rows = file.read(f"{name}.bits")  # [first side, bytes], the highest bit first
    bits = (rows[..., None] >> torch.arange(7, -1, -1)) & 1
    nonzero = bits.flatten(1)[:, : math.prod(shape[1:])].bool().view(shape)
    return torch.zeros(shape).masked_scatter_(nonzero, file.read(f"{name}.values").float())


@torch.inference_mode()
def run(net: PoseNet, x: Tensor) -> list[Tensor]:
    """[B,3,H,W] -> the network's outputs."""
    values = {0: x}
    for kind, out, sources, options in net.steps:
        inputs = [values[i] for i in sources]
        if kind == "output":
            return inputs
        values[out] = _KINDS[kind](net, inputs, options)
    raise AssertionError("the list of operations ends with its outputs")


def _conv(net: PoseNet, inputs: list[Tensor], options: OperationOptions) -> Tensor:
    name, pad = options["weight"], options["pad"]
    left, right, top, bottom = pad
    x, symmetric = inputs[0], left == right and top == bottom
    x = x if symmetric else F.pad(x, pad)
    weight, bias = net.weights[f"{name}.weight"], net.weights[f"{name}.bias"]
    padding = (top, left) if symmetric else (0, 0)
    x = F.conv2d(x, weight, bias, options["stride"], padding, 1, options["groups"])
    return _ACTS[options["act"]](x)


def _resize(net: PoseNet, inputs: list[Tensor], options: OperationOptions) -> Tensor:
    return F.interpolate(inputs[0], tuple(options["size"]), mode="bilinear")


def _shuffle(net: PoseNet, inputs: list[Tensor], options: OperationOptions) -> Tensor:
    """Four channels to 2 x 2 pixels; the position is the outer part of a channel's index, while in
    torch's pixel_shuffle it is the inner one.
    """
    x = inputs[0]
    b, c, h, w = x.shape
    x = x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // 4, 2 * h, 2 * w)


def _rows(net: PoseNet, inputs: list[Tensor], options: OperationOptions) -> Tensor:
    """[B,C,H,W] -> [B,positions,width], channels last."""
    return inputs[0].permute(0, 2, 3, 1).reshape(len(inputs[0]), -1, options["width"])


_KINDS: dict[str, Callable[[PoseNet, list[Tensor], OperationOptions], Tensor]] = {
    "conv": _conv,
    "add": lambda net, inputs, options: _ACTS[options["act"]](inputs[0] + inputs[1]),
    "pool": lambda net, inputs, options: F.max_pool2d(inputs[0], 2),
    "resize": _resize,
    "shuffle": _shuffle,
    "rows": _rows,
    "join": lambda net, inputs, options: torch.cat(inputs, 1),
    "sigmoid": lambda net, inputs, options: inputs[0].sigmoid(),
}
