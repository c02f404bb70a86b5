"""The two bundled pose networks, in plain torch: a person detector and the points of one person.

pose_net.safetensors (see pose_net.md for origin and licence) holds their weights in fp16 and, as
metadata, each network as a list of operations [kind, output, inputs, options] that `run` goes
through. Pruned weights are stored as a bit per weight and the values that are not 0. Measured
against TensorFlow Lite on the original files: see test_pose_network.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loaders.formats.open import open_weights

FILE = Path(__file__).with_name("pose_net.safetensors")
DETECT_SIDE, MARKS_SIDE = 224, 256  # pixels that they see
_ACTS: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x, "relu": F.relu, "relu6": F.relu6}


@dataclass(frozen=True)
class PoseNet:
    """Operations in order, and the weights that they name, float32."""

    steps: list[list[Any]]
    weights: dict[str, Tensor]


def load(name: str, device: torch.device) -> PoseNet:
    """`detect`: [B,3,224,224] -1..1 -> boxes [B,2254,12], logits [B,2254,1];
    `marks`: [B,3,256,256] 0..1 -> points [B,1,195], presence [B,1,1].
    """
    with open_weights(FILE) as file:
        said = file.metadata
        shapes = json.loads(said[f"{name}.shapes"])
        weights = {n: _weight(file, f"{name}.{n}", s).to(device) for n, s in shapes.items()}
    return PoseNet(json.loads(said[name]), weights)


def _weight(file: Any, name: str, shape: list[int]) -> Tensor:
    if name in file.entries:
        return file.read(name, dtype=torch.float32)
    rows = file.read(f"{name}.bits")  # [first side, bytes], the highest bit first
    bits = (rows[..., None] >> torch.arange(7, -1, -1)) & 1
    there = bits.flatten(1)[:, : math.prod(shape[1:])].bool().view(shape)
    return torch.zeros(shape).masked_scatter_(there, file.read(f"{name}.values").float())


@torch.inference_mode()
def run(net: PoseNet, x: Tensor) -> list[Tensor]:
    """[B,3,H,W] -> the network's outputs."""
    held = {0: x}
    for kind, out, sources, options in net.steps:
        given = [held[i] for i in sources]
        if kind == "output":
            return given
        held[out] = _KINDS[kind](net, given, options)
    raise AssertionError("the list of operations ends with its outputs")


def _conv(net: PoseNet, given: list[Tensor], options: dict[str, Any]) -> Tensor:
    name, pad = options["weight"], options["pad"]
    left, right, top, bottom = pad
    x, even = given[0], left == right and top == bottom
    x = x if even else F.pad(x, pad)
    weight, bias = net.weights[f"{name}.weight"], net.weights[f"{name}.bias"]
    padding = (top, left) if even else 0
    x = F.conv2d(x, weight, bias, options["stride"], padding, 1, options["groups"])
    return _ACTS[options["act"]](x)


def _resize(net: PoseNet, given: list[Tensor], options: dict[str, Any]) -> Tensor:
    return F.interpolate(given[0], tuple(options["size"]), mode="bilinear")


def _shuffle(net: PoseNet, given: list[Tensor], options: dict[str, Any]) -> Tensor:
    """Four channels to 2 x 2 pixels; the place is the outer part of a channel's number, where
    torch's pixel_shuffle has it as the inner one.
    """
    x = given[0]
    b, c, h, w = x.shape
    x = x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // 4, 2 * h, 2 * w)


def _rows(net: PoseNet, given: list[Tensor], options: dict[str, Any]) -> Tensor:
    """[B,C,H,W] -> [B,places,width], channels of one place together."""
    return given[0].permute(0, 2, 3, 1).reshape(len(given[0]), -1, options["width"])


_KINDS: dict[str, Callable[[PoseNet, list[Tensor], dict[str, Any]], Tensor]] = {
    "conv": _conv,
    "add": lambda net, given, options: _ACTS[options["act"]](given[0] + given[1]),
    "pool": lambda net, given, options: F.max_pool2d(given[0], 2),
    "resize": _resize,
    "shuffle": _shuffle,
    "rows": _rows,
    "join": lambda net, given, options: torch.cat(given, 1),
    "sigmoid": lambda net, given, options: given[0].sigmoid(),
}
