"""ViTPose from a file or folder of the user: COCO's 17 keypoints per person, as 18.

The published transformers folders (VitPoseForPoseEstimation): a plain ViT over 256 x 192 pixels of
one person, and a head that makes a heat map per keypoint. All sizes come from tensor shapes; heads
are 64 wide as in every published size. The bundled detector locates people (it knows whole bodies);
if it detects nobody, the whole picture is read as one person, if enough keypoints score well. Every
crop is also evaluated mirrored. Measured against transformers: see the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.attention import attention
from .filters import planes
from .keypoints import MISSING, Person, in_order
from .people import Place, crop, in_picture, places
from .pose_net import load as load_bundled
from .weights import check_shapes, read_network

NETWORK = "a ViTPose model of transformers (.safetensors, keys backbone.* and head.*)"
POINTS, HEAD, PATCH = 17, 64, 16
CROP = (256, 192)  # height and width of a person's crop
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_EPS, _BATCH_EPS = 1e-12, 1e-5
_SURE = 0.3  # minimum score of a point
_ENOUGH = 5  # points that make the whole picture one person
_LAYER = "backbone.encoder.layer"
_EMBED = "backbone.embeddings.patch_embeddings.projection"
_PLACES = "backbone.embeddings.position_embeddings"
_MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
_OTHER = "experts"  # ViTPose+ has experts for several data sets


@torch.inference_mode()
def find_people(picture: Tensor, model: str) -> list[list[Person]]:
    """[B,H,W,3] 0..1 -> the people of each picture, highest score first."""
    tensors = {name: x.to(picture.device) for name, x in load(model).items()}
    detect = load_bundled("detect", picture.device)
    return [_people(tensors, x, places(detect, x)) for x in planes(picture.float()).split(1)]


def _people(tensors: Mapping[str, Tensor], x: Tensor, located: list[Place]) -> list[Person]:
    if located:
        return [_person(tensors, x, place) for place in located]
    height, width = x.shape[2:]
    side = max(height, width * CROP[0] / CROP[1])
    whole = _person(tensors, x, Place(width / 2, height / 2, side, 0.0))
    return [whole] if sum(point[2] > 0 for point in whole.body) >= _ENOUGH else []


def _person(tensors: Mapping[str, Tensor], x: Tensor, place: Place) -> Person:
    upright = Place(place.x, place.y, place.side, 0.0)
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    person = (crop(x, upright, CROP) - mean) / std
    maps = forward(tensors, torch.cat([person, person.flip(3)]))  # [2,17,64,48]
    maps = (maps[:1] + maps[1:].flip(3)[:, list(_MIRRORED)]) / 2
    at, scores = peaks(maps[0])
    at = in_picture(at * (CROP[0] / maps.shape[2]), upright, CROP)
    height, width = x.shape[2:]
    points = [
        (px, py, s) if s > _SURE and 0 <= px <= width - 1 and 0 <= py <= height - 1 else MISSING
        for (px, py), s in zip(at.tolist(), scores.clamp(0, 1).tolist())
    ]
    return Person(in_order(tuple(points)))


def peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """[17,h,w] -> positions [17,2] (x, y from pixel centres, by a parabola through the logarithms
    of each peak's neighbours) and scores [17].
    """
    scores, index = maps.flatten(1).max(1)
    h, w = maps.shape[1:]
    logs = F.pad(maps.clamp(min=1e-6).log()[None], (1, 1, 1, 1), mode="replicate")[0]
    y, x = index // w + 1, index % w + 1
    row = torch.arange(len(maps), device=maps.device)
    here = logs[row, y, x]
    offsets = []
    for before, after in (
        (logs[row, y, x - 1], logs[row, y, x + 1]),
        (logs[row, y - 1, x], logs[row, y + 1, x]),
    ):
        bend = 2 * here - before - after
        step = (after - before) / (2 * bend.clamp(min=1e-6))
        offsets.append(torch.where(bend > 1e-6, step.clamp(-0.5, 0.5), 0.0))
    return torch.stack([x - 0.5 + offsets[0], y - 0.5 + offsets[1]], -1), scores


def load(path: str) -> dict[str, Tensor]:
    """The tensors of a file or folder, their shapes checked."""
    tensors = read_network(path, NETWORK)
    if any(f".{_OTHER}." in name for name in tensors):
        raise InkstoneError(
            f"{path} is a ViTPose+ with experts for several data sets: expected the plain network. "
            "Use ViTPose-base-simple, ViTPose-base or another without the plus."
        )
    tensors = {n: x for n, x in tensors.items() if not n.endswith("num_batches_tracked")}
    check_shapes(tensors, shapes(tensors, path), path, NETWORK)
    return tensors


def shapes(tensors: Mapping[str, Tensor], path: str) -> dict[str, tuple[int, ...]]:
    """Name -> expected shape of every tensor, for a model of this width and depth."""
    layers = sum(n.startswith(_LAYER) and n.endswith("layernorm_before.bias") for n in tensors)
    wide, head = tensors.get(f"{_EMBED}.bias"), tensors.get("head.conv.bias")
    if wide is None or head is None or not layers:
        raise InkstoneError(
            f"{path} is not {NETWORK}: it has {len(tensors)} tensors, such as "
            f"{', '.join(sorted(tensors)[:5])}. Choose a file of that network."
        )
    h = len(wide)
    if h % HEAD or len(head) != POINTS:
        raise InkstoneError(
            f"{path} has width {h} and {len(head)} points: expected a multiple of {HEAD} and "
            f"COCO's {POINTS} points. Use ViTPose-base-simple or another of the body."
        )
    cells = CROP[0] // PATCH * (CROP[1] // PATCH)
    expected = {f"{_EMBED}.weight": (h, 3, PATCH, PATCH), f"{_EMBED}.bias": (h,)}
    expected |= {_PLACES: (1, cells + 1, h)} | _both("backbone.layernorm", h)
    for i in range(layers):
        expected |= _layer(f"{_LAYER}.{i}", h)
    return expected | _head(h, simple="head.deconv1.weight" not in tensors)


def _both(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _layer(name: str, h: int) -> dict[str, tuple[int, ...]]:
    expected = _both(f"{name}.layernorm_before", h) | _both(f"{name}.layernorm_after", h)
    for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
        expected |= _both(f"{name}.attention.{part}", h, h)
    return expected | _both(f"{name}.mlp.fc1", 4 * h, h) | _both(f"{name}.mlp.fc2", h, 4 * h)


def _head(h: int, simple: bool) -> dict[str, tuple[int, ...]]:
    if simple:
        return _both("head.conv", POINTS, h, 3, 3)
    expected: dict[str, tuple[int, ...]] = _both("head.conv", POINTS, 256, 1, 1)
    for i, before in ((1, h), (2, 256)):
        expected[f"head.deconv{i}.weight"] = (before, 256, 4, 4)
        expected |= _both(f"head.batchnorm{i}", 256)
        expected |= {f"head.batchnorm{i}.running_{n}": (256,) for n in ("mean", "var")}
    return expected


def forward(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[B,3,256,192] normalised -> heat maps [B,17,64,48]"""

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    x = F.conv2d(x, *pair(_EMBED), stride=PATCH, padding=2)
    grid, at = x.shape[2:], tensors[_PLACES]
    x = x.flatten(2).transpose(1, 2) + at[:, 1:] + at[:, :1]
    for i in range(sum(n.endswith("layernorm_before.bias") for n in tensors)):
        x = _block(pair, f"{_LAYER}.{i}", x)
    x = _norm(pair, "backbone.layernorm", x)
    x = x.transpose(1, 2).unflatten(2, grid)
    if "head.deconv1.weight" not in tensors:
        x = F.interpolate(F.relu(x), scale_factor=4, mode="bilinear")
        return F.conv2d(x, *pair("head.conv"), padding=1)
    for i in (1, 2):
        x = F.conv_transpose2d(x, tensors[f"head.deconv{i}.weight"], stride=2, padding=1)
        mean, var = (tensors[f"head.batchnorm{i}.running_{n}"] for n in ("mean", "var"))
        x = F.relu(F.batch_norm(x, mean, var, *pair(f"head.batchnorm{i}"), eps=_BATCH_EPS))
    return F.conv2d(x, *pair("head.conv"))


Pair = Callable[[str], tuple[Tensor, Tensor]]


def _norm(pair: Pair, name: str, x: Tensor) -> Tensor:
    weight, bias = pair(name)
    return F.layer_norm(x, x.shape[-1:], weight, bias, _EPS)


def _block(pair: Pair, name: str, x: Tensor) -> Tensor:
    y = _norm(pair, f"{name}.layernorm_before", x)
    q, k, v = (
        F.linear(y, *pair(f"{name}.attention.attention.{n}"))
        .unflatten(-1, (-1, HEAD))
        .transpose(1, 2)
        for n in ("query", "key", "value")
    )
    y = attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + F.linear(y, *pair(f"{name}.attention.output.dense"))
    y = _norm(pair, f"{name}.layernorm_after", x)
    return x + F.linear(F.gelu(F.linear(y, *pair(f"{name}.mlp.fc1"))), *pair(f"{name}.mlp.fc2"))
