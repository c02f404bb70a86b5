"""Rotary positions of the joint sequence (MSRoPE, Qwen-Image paper section 2) and the rotation.

Adjacent pairs of a head are rotated as complex numbers in float32. One function serves the base
model and its control branches. Tables are built on the CPU in float32 and moved: bf16 holds whole
numbers only up to 256.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

Grid = tuple[int, int, int]  # frames, rows, columns of tokens (one token is 16 x 16 pixels)
Place = tuple[int, int, int]  # a position: frame, row, column


def _frequencies(dim: int, theta: float) -> Tensor:
    """[dim/2] angular frequencies theta^(-2j/dim)."""
    return 1.0 / torch.pow(theta, torch.arange(0, dim, 2).to(torch.float32).div(dim))


def _freqs_cis(positions: Tensor, axes: Sequence[int], theta: float) -> Tensor:
    """positions [N,3] float32 -> unit complex [N, sum(axes)/2]."""
    angles = [positions[:, i : i + 1] * _frequencies(d, theta) for i, d in enumerate(axes)]
    angle = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(angle), angle)


def image_positions(grid: Grid, index: int) -> Tensor:
    """Positions [f*h*w, 3] of one image: frame index + n, rows and columns centred.

    Rows run from -(h - h//2) to h//2 - 1, so the extra row of an odd grid is negative.
    """
    f, h, w = grid
    frame = torch.arange(f) + index
    rows = torch.arange(h) - (h - h // 2)
    columns = torch.arange(w) - (w - w // 2)
    mesh = torch.meshgrid(frame, rows, columns, indexing="ij")
    return torch.stack(mesh, dim=-1).reshape(-1, 3).float()


def joint_rope(
    grids: Sequence[Grid],
    text: int,
    axes: Sequence[int],
    theta: float = 10000.0,
    device: torch.device | str = "cpu",
    layers: int = 0,
) -> tuple[Tensor, Tensor]:
    """freqs_cis of all image tokens [S, d/2] and of `text` text tokens [L, d/2], complex64.

    grids[0] is the target, the others are references, in token units. Text starts at the largest
    half side over all images. layers > 0 (layered variant): the first `layers` images are drawn,
    the one behind them is their condition at frame -1, and text starts at `layers` at least.
    The last few tables are cached, since every step of a run uses the same ones: never change them
    in place.
    """
    return _tables(tuple(map(tuple, grids)), text, tuple(axes), theta, str(device), layers)


@functools.lru_cache(maxsize=8)
def _tables(
    grids: tuple[Grid, ...],
    text: int,
    axes: tuple[int, ...],
    theta: float,
    device: str,
    layers: int,
) -> tuple[Tensor, Tensor]:
    # cached tables serve training too, whichever context came first
    with torch.inference_mode(False), torch.device("cpu"):
        frames = [-1 if layers and i >= layers else i for i in range(len(grids))]
        img = torch.cat([image_positions(grid, f) for grid, f in zip(grids, frames)])
        start = max(layers, *(max(h // 2, w // 2) for _, h, w in grids))
        txt = (torch.arange(text) + start).float()[:, None].expand(-1, 3)
        return _freqs_cis(img, axes, theta).to(device), _freqs_cis(txt, axes, theta).to(device)


@functools.lru_cache(maxsize=8)
def prompt_rope(
    places: tuple[Place, ...],
    texts: tuple[int, ...],
    axes: tuple[int, ...],
    theta: float = 10000.0,
    device: str = "cpu",
) -> Tensor:
    """freqs_cis [L,d/2] of several prompts in a row: each counts its `texts` tokens from its own
    place, on all three axes. Cached as those of `joint_rope`.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        counts = [torch.arange(n)[:, None] + torch.tensor([p]) for n, p in zip(texts, places)]
        return _freqs_cis(torch.cat(counts).float(), axes, theta).to(device)


def sequence_rope(
    grids: Sequence[Grid],
    text: int,
    slots: Sequence[int],
    axes: Sequence[int],
    theta: float = 10000.0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """freqs_cis of a sequence in reading order (Qwen-Image-2.1): of its prefix [P, d/2], which is
    text and references, and of the target [S, d/2], complex64.

    grids[0] is the target, the others are references; slots: for each of these, the text tokens
    before it. One position runs through the sequence: a text token takes one on all three axes; the
    frame of an image is the position that it meets, its rows and columns are centred, and it takes
    as many positions as its longer side. Cached as those of `joint_rope`.
    """
    order = tuple(map(tuple, grids)), text, tuple(slots)
    return _sequence_tables(*order, tuple(axes), theta, str(device))


@functools.lru_cache(maxsize=8)
def _sequence_tables(
    grids: tuple[Grid, ...],
    text: int,
    slots: tuple[int, ...],
    axes: tuple[int, ...],
    theta: float,
    device: str,
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.device("cpu"):
        parts, read, position = [], 0, 0
        for grid, slot in zip((*grids[1:], grids[0]), (*slots, text), strict=True):
            words = torch.arange(position, position + slot - read)
            position, read = position + slot - read, slot
            parts += [words.float()[:, None].expand(-1, 3), image_positions(grid, position)]
            position += max(grid[1:])
        prefix, target = torch.cat(parts[:-1]), parts[-1]
        return (
            _freqs_cis(prefix, axes, theta).to(device),
            _freqs_cis(target, axes, theta).to(device),
        )


def rotate(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """x [B,N,H,D] float32, freqs_cis [N,D/2] complex -> rotated x (in place without gradients)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # [B,N,H,D/2]
    freqs_cis = freqs_cis[:, None, :]
    pairs = pairs * freqs_cis if torch.is_grad_enabled() else pairs.mul_(freqs_cis)
    return torch.view_as_real(pairs).flatten(-2)
