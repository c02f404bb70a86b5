"""Depth-Anything V2 from a file or folder of the user: relative depth, near is large.

DINOv2 with a DPT head that fuses four of its layers. Three spellings of the same weights are read:
the original file's, the published transformers folder's, and the one transformers has in memory.
All sizes come from tensor shapes; heads are 64 wide as in every published size (S, B, L).
Measured against transformers: 1e-5 at the same input (test_preprocess_networks.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.attention import attention
from ...loaders.formats.hf_folder import read_json
from ...sampling.geometry import cells_size
from ...sampling.pixel_lock import resized, size_of
from .filters import planes
from .weights import check_shapes, read_network

NETWORK = "a Depth-Anything V2 model (.safetensors, keys backbone.* or pretrained.*)"
SIDE, CELL, HEAD = 518, 14, 64  # shorter side of its input, pixels per patch, width of a head
TAPS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}  # layers in all -> those that the head reads
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_EPS = 1e-6
_LAYER, _NECK, _FUSE = "backbone.encoder.layer", "neck.reassemble_stage.layers", "neck.fusion_stage"

# other spellings -> that of the published folders, in this order
_NAMES = (
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"^pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (r"^pretrained\.patch_embed\.proj", "backbone.embeddings.patch_embeddings.projection"),
    (r"^pretrained\.norm\.", "backbone.layernorm."),
    (r"^pretrained\.blocks\.", "backbone.encoder.layer."),
    (r"^pretrained\.", "backbone.embeddings."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma", r".layer_scale\1.lambda1"),
    (r"^depth_head\.projects\.(\d)", r"neck.reassemble_stage.layers.\1.projection"),
    (r"^depth_head\.resize_layers\.(\d)", r"neck.reassemble_stage.layers.\1.resize"),
    (r"^depth_head\.scratch\.output_conv1", "head.conv1"),
    (r"^depth_head\.scratch\.output_conv2\.0", "head.conv2"),
    (r"^depth_head\.scratch\.output_conv2\.2", "head.conv3"),
    (r"\.out_conv\.", ".projection."),
    (r"\.resConfUnit([12])\.conv([12])", r".residual_layer\1.convolution\2"),
    *((rf"^depth_head\.scratch\.layer{k}_rn", f"neck.convs.{k - 1}") for k in range(1, 5)),
    *((rf"^depth_head\.scratch\.refinenet{k}\.", f"{_FUSE}.layers.{4 - k}.") for k in range(1, 5)),
)


@torch.inference_mode()
def depth_anything(picture: Tensor, model: str) -> Tensor:
    """[B,H,W,3] 0..1 -> inverse depth [B,H,W], without a scale; one picture at a time."""
    tensors = {name: x.to(picture.device) for name, x in load(model).items()}
    size = size_of(picture)
    inputs = resized(picture, cells_size(*size, SIDE, CELL))
    mean, std = (picture.new_tensor(v) for v in (_MEAN, _STD))
    depths = [forward(tensors, planes((x - mean) / std)) for x in inputs.split(1)]
    maps = F.interpolate(torch.stack(depths), (size[1], size[0]), mode="bilinear")
    return maps[:, 0].clone()


def load(path: str) -> dict[str, Tensor]:
    """The tensors under the names of the published folders, their shapes checked."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config = read_json(folder / "config.json")
    if config.get("depth_estimation_type", "relative") != "relative":
        raise InkstoneError(
            f"{path} is a metric Depth-Anything model (distances in metres): expected the relative "
            "one, which ControlNets were trained on. Use Depth-Anything-V2-Small, -Base or -Large."
        )
    tensors = rename(read_network(path, NETWORK))
    check_shapes(tensors, shapes(tensors, path), path, NETWORK)
    return tensors


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of the three spellings -> the published folders' one; splits a joint q, k, v."""
    published = {}
    for name, x in tensors.items():
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), x.chunk(3)):
                published[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = third
        else:
            published[name] = x
    return published


def shapes(tensors: Mapping[str, Tensor], path: str) -> dict[str, tuple[int, ...]]:
    """Name -> expected shape of every tensor, for a model of this width and depth."""
    try:
        wide, patches = (tensors[f"backbone.embeddings.{n}"].shape for n in _EMBEDDED)
        neck = [tensors[f"{_NECK}.{i}.projection.weight"].shape[0] for i in range(4)]
        fused, last = (tensors[f"head.conv{i}.weight"].shape[1] for i in (1, 3))
    except (KeyError, IndexError):
        raise InkstoneError(
            f"{path} is not {NETWORK}: it has {len(tensors)} tensors, such as "
            f"{', '.join(sorted(tensors)[:5])}. Choose a file of that network."
        ) from None
    h, layers = (
        wide[-1],
        sum(bool(re.fullmatch(_LAYER + r"\.\d+\.norm1\.bias", n)) for n in tensors),
    )
    if layers not in TAPS or h % HEAD:
        raise InkstoneError(
            f"{path} has {layers} layers of width {h}: expected 12 or 24 of a multiple of {HEAD} "
            "(Depth-Anything V2 Small, Base or Large)."
        )
    expected = {"backbone.embeddings." + n: s for n, s in _embeddings(h, patches[1]).items()}
    expected |= {"backbone.layernorm.weight": (h,), "backbone.layernorm.bias": (h,)}
    for i in range(layers):
        expected |= {f"{_LAYER}.{i}.{n}": s for n, s in _layer(h).items()}
    return expected | _head(h, neck, fused, last)


_EMBEDDED = ("cls_token", "position_embeddings")


def _embeddings(h: int, places: int) -> dict[str, tuple[int, ...]]:
    return {
        "cls_token": (1, 1, h),
        "mask_token": (1, h),
        "position_embeddings": (1, places, h),
        "patch_embeddings.projection.weight": (h, 3, CELL, CELL),
        "patch_embeddings.projection.bias": (h,),
    }


def _both(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _layer(h: int) -> dict[str, tuple[int, ...]]:
    expected = _both("norm1", h) | _both("norm2", h)
    for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
        expected |= _both(f"attention.{name}", h, h)
    expected |= _both("mlp.fc1", 4 * h, h) | _both("mlp.fc2", h, 4 * h)
    return expected | {"layer_scale1.lambda1": (h,), "layer_scale2.lambda1": (h,)}


def _head(h: int, neck: list[int], fused: int, last: int) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    for i, c in enumerate(neck):
        expected |= _both(f"{_NECK}.{i}.projection", c, h, 1, 1)
        expected[f"neck.convs.{i}.weight"] = (fused, c, 3, 3)
        expected |= _both(f"{_FUSE}.layers.{i}.projection", fused, fused, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2):
                name = f"{_FUSE}.layers.{i}.residual_layer{unit}.convolution{conv}"
                expected |= _both(name, fused, fused, 3, 3)
    for i, side in ((0, 4), (1, 2), (3, 3)):  # the third keeps its size
        expected |= _both(f"{_NECK}.{i}.resize", neck[i], neck[i], side, side)
    expected |= _both("head.conv1", fused // 2, fused, 3, 3)
    return (
        expected | _both("head.conv2", last, fused // 2, 3, 3) | _both("head.conv3", 1, last, 1, 1)
    )


class _Net:
    """Weights by name, with the operations on them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def pair(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, *self.pair(name))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self.pair(name), eps=_EPS)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.pair(name)
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)


def forward(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[1,3,H,W] normalised, sides multiples of 14 -> [1,H,W]"""
    net, grid = _Net(tensors), (x.shape[2] // CELL, x.shape[3] // CELL)
    fused: Tensor | None = None
    levels = [
        net.conv(f"neck.convs.{i}", _level(net, i, tap, grid))
        for i, tap in enumerate(_taps(net, x, grid))
    ]
    for i, level in enumerate(reversed(levels)):
        name = f"{_FUSE}.layers.{i}"
        if fused is not None:
            level = fused + _unit(net, f"{name}.residual_layer1", level)
        level = _unit(net, f"{name}.residual_layer2", level)
        size = levels[2 - i].shape[2:] if i < 3 else [2 * n for n in level.shape[2:]]
        level = F.interpolate(level, size, mode="bilinear", align_corners=True)
        fused = net.conv(f"{name}.projection", level)
    assert fused is not None, "there are four levels"
    out = net.conv("head.conv1", fused)
    out = F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=True)
    out = F.relu(net.conv("head.conv2", out))
    return F.relu(net.conv("head.conv3", out))[:, 0]


def _taps(net: _Net, x: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """The four layers that the head reads: [1,1+rows*columns,h] each."""
    name = "backbone.embeddings."
    weight, bias = net.pair(f"{name}patch_embeddings.projection")
    x = F.conv2d(x, weight, bias, CELL).flatten(2).transpose(1, 2)  # [1,rows*columns,h]
    x = torch.cat([net.tensors[f"{name}cls_token"], x], dim=1)
    x = x + _positions(net.tensors[f"{name}position_embeddings"], grid)
    count = sum(n.startswith(_LAYER) and n.endswith("norm1.bias") for n in net.tensors)
    taps = []
    for i in range(count):
        x = _block(net, f"{_LAYER}.{i}", x)
        taps += [net.norm("backbone.layernorm", x)] if i in TAPS[count] else []
    return taps


def _positions(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[1,1+n*n,h] -> [1,1+rows*columns,h]"""
    side = round((x.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return x
    places = x[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    places = F.interpolate(places, grid, mode="bicubic")
    return torch.cat([x[:, :1], places.flatten(2).transpose(1, 2)], dim=1)


def _block(net: _Net, name: str, x: Tensor) -> Tensor:
    y = net.norm(f"{name}.norm1", x)
    q, k, v = (
        net.linear(f"{name}.attention.attention.{n}", y).unflatten(-1, (-1, HEAD)).transpose(1, 2)
        for n in ("query", "key", "value")
    )
    y = attention(q, k, v).transpose(1, 2).flatten(2)
    y = net.linear(f"{name}.attention.output.dense", y)
    x = x + y * net.tensors[f"{name}.layer_scale1.lambda1"]
    y = net.linear(f"{name}.mlp.fc1", net.norm(f"{name}.norm2", x))
    y = net.linear(f"{name}.mlp.fc2", F.gelu(y))
    return x + y * net.tensors[f"{name}.layer_scale2.lambda1"]


def _level(net: _Net, i: int, tap: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens -> a map at 4, 2, 1 and 1/2 times the grid's size."""
    x = tap[:, 1:].transpose(1, 2).unflatten(2, grid)
    x, name = net.conv(f"{_NECK}.{i}.projection", x), f"{_NECK}.{i}.resize"
    if i < 2:
        weight, bias = net.pair(name)
        return F.conv_transpose2d(x, weight, bias, stride=weight.shape[-1])
    return x if i == 2 else net.conv(name, x, stride=2)


def _unit(net: _Net, name: str, x: Tensor) -> Tensor:
    y = net.conv(f"{name}.convolution1", F.relu(x))
    return x + net.conv(f"{name}.convolution2", F.relu(y))
