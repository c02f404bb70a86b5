"""Scenes whose edges are known exactly: overlapping shapes of training/render.py, plain or filled
with texture, and how well a map finds those edges.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.training.render import shape_mask

KINDS = ("circle", "square", "triangle", "star")


def scene(
    seed: int, width: int, height: int, texture: int = 0, apart: int = 60
) -> tuple[Tensor, Tensor]:
    """(picture [1,H,W,3] 0..1, edges [H,W] bool). texture: amplitude in grey levels of noise or
    stripes in every shape and on the ground; their colours differ by `apart` at least.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int64)
    colour = rng.integers(30, 226, 3)
    picture = np.broadcast_to(_filled(rng, colour, height, width, texture), (height, width, 3))
    picture, colours = picture.astype(np.float32), [colour]
    for number in range(1, 8):
        d = int(rng.integers(min(width, height) // 5, min(width, height) // 2))
        mask = shape_mask(str(rng.choice(KINDS)), d)
        x, y = int(rng.integers(0, width - d)), int(rng.integers(0, height - d))
        colour = _apart(rng, colours, apart)
        colours.append(colour)
        part = picture[y : y + d, x : x + d]
        part += mask[..., None] * (_filled(rng, colour, d, d, texture) - part)
        labels[y : y + d, x : x + d][mask >= 0.5] = number
    image = torch.from_numpy(picture.round().clip(0, 255) / 255)[None].float()
    return image, borders(torch.from_numpy(labels))


def _apart(rng: np.random.Generator, others: list, by: int) -> np.ndarray:
    while True:
        colour = rng.integers(30, 226, 3)
        if all(np.abs(colour - other).max() >= by for other in others):
            return colour


def _filled(
    rng: np.random.Generator, colour: np.ndarray, height: int, width: int, texture: int
) -> np.ndarray:
    """[height,width,3] of a colour, with noise or slanted stripes where there is texture."""
    grain = np.zeros((height, width))
    if texture and rng.random() < 0.5:
        grain = rng.uniform(-texture, texture, (height, width))
    elif texture:
        y, x = np.mgrid[:height, :width]
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 9)
        grain = texture * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return colour + grain[..., None]


def borders(labels: Tensor) -> Tensor:
    """[H,W] numbers -> where the next pixel to the right or below has another one."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def f_score(drawn: Tensor, edges: Tensor, within: int = 3) -> float:
    """F of drawn and true edges [H,W] bool, with that many pixels of tolerance."""
    if not drawn.any():
        return 0.0
    precision = (drawn & grown(edges, within)).sum() / drawn.sum()
    recall = (edges & grown(drawn, within)).sum() / edges.sum()
    return float(2 * precision * recall / (precision + recall).clamp(min=1e-9))


def best_f(soft: Tensor, edges: Tensor, within: int = 3) -> float:
    """The best F over thresholds of a soft map [H,W], thinned to its ridges first: a thick line
    is not counted against it.
    """
    ridges = thin(soft)
    return max(f_score(ridges > t, edges, within) for t in torch.linspace(0.05, 0.95, 19).tolist())


def thin(soft: Tensor) -> Tensor:
    """Keeps what is largest across itself, in one of four directions [H,W]."""
    x = F.pad(soft[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    h, w = soft.shape
    at = lambda dy, dx: x[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]  # noqa: E731
    keep = torch.zeros_like(soft, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        keep |= (soft > at(dy, dx)) & (soft >= at(-dy, -dx))
    return torch.where(keep, soft, 0)


def grown(x: Tensor, by: int) -> Tensor:
    """[H,W] bool, `by` pixels wider on every side."""
    return F.max_pool2d(x[None, None].float(), 2 * by + 1, 1, by)[0, 0] > 0
