"""The lineart generator (informative drawings) from a file of the user: `sk_model` for fine lines,
`sk_model2` for coarse ones, the same network.

Convolutions down to a quarter, three residual blocks, and up again, with instance norms that have
no weights. It draws black on white; the map is its negative. Any size: sides are padded to
multiples of 4 by repeating the border, and cropped again. 24 tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import planes
from .weights import check_shapes, read_network

NETWORK = "a lineart generator (sk_model or sk_model2 as .safetensors: model0.1.weight, ...)"
_RESIDUAL = 3
_STEP, _LEAST = 4, 8  # sides: multiple of, minimum; reflecting needs 2 pixels at a quarter
_EPS = 1e-5


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor."""
    expected: dict[str, tuple[int, ...]] = {
        "model0.1.weight": (64, 3, 7, 7),
        "model1.0.weight": (128, 64, 3, 3),
        "model1.3.weight": (256, 128, 3, 3),
        "model3.0.weight": (256, 128, 3, 3),  # transposed: in, out
        "model3.3.weight": (128, 64, 3, 3),
        "model4.1.weight": (1, 64, 7, 7),
    }
    for i in range(_RESIDUAL):
        for j in (1, 5):
            expected[f"model2.{i}.conv_block.{j}.weight"] = (256, 256, 3, 3)
    channels = {"model3.0": 128, "model3.3": 64}
    biases = {n.removesuffix(".weight"): s[0] for n, s in expected.items()} | channels
    return expected | {f"{name}.bias": (c,) for name, c in biases.items()}


@torch.inference_mode()
def lineart_net(picture: Tensor, model: str) -> Tensor:
    """[B,H,W,3] 0..1 -> [B,H,W], lines bright; one picture at a time."""
    tensors = read_network(model, NETWORK)
    tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    check_shapes(tensors, shapes(), model, NETWORK)
    tensors = {name: x.to(picture.device) for name, x in tensors.items()}
    height, width = picture.shape[1:3]
    more = [max(_LEAST, -(-s // _STEP) * _STEP) - s for s in (width, height)]
    maps = []
    for x in planes(picture.float()).split(1):
        padded = F.pad(x, (0, more[0], 0, more[1]), mode="replicate")
        maps.append(1 - forward(tensors, padded)[0, 0, :height, :width])
    return torch.stack(maps).clone()


def forward(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[1,3,H,W] RGB 0..1, sides multiples of 4 -> [1,1,H,W] 0..1, lines dark"""

    def conv(name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.conv2d(x, weight, bias, stride, padding)

    def up(name: str, x: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, 2, 1, 1)

    x = _normed(conv("model0.1", _reflected(x, 3))).relu_()
    for name in ("model1.0", "model1.3"):
        x = _normed(conv(name, x, 2, 1)).relu_()
    for i in range(_RESIDUAL):
        name = f"model2.{i}.conv_block"
        y = _normed(conv(f"{name}.1", _reflected(x, 1))).relu_()
        x = x + _normed(conv(f"{name}.5", _reflected(y, 1)))
    for name in ("model3.0", "model3.3"):
        x = _normed(up(name, x)).relu_()
    return conv("model4.1", _reflected(x, 3)).sigmoid_()


def _reflected(x: Tensor, by: int) -> Tensor:
    return F.pad(x, (by,) * 4, mode="reflect")


def _normed(x: Tensor) -> Tensor:
    return F.instance_norm(x, eps=_EPS)
