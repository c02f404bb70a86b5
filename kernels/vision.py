"""The vision tower of Qwen2.5-VL for still images: patches -> rows that replace `<|image_pad|>`.

Unusual: windows are sorted by size, so each size is one batch of attention and no mask exists; the
order is undone at the end (`DeepVisionTower` of Qwen3-VL has none of this). A still image fills
both frames of the patch kernel, so the two slices are added and 588 numbers are read instead of
1176. Reference: transformers `Qwen2_5_VisionTransformerPretrainedModel`. Names are the published
ones without `visual.`.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .block_streaming import BlockStream
from .configs import QWEN_VL_VISION, DeepVisionConfig, VisionConfig
from .interrupt import beat
from .linear import Linear
from .text_encoder import GatedMLP, RMSNorm

Rope = tuple[Tensor, Tensor]  # cos and (-sin, sin) [N,1,1,d] float32
Groups = tuple[tuple[int, int], ...]  # (windows, patches of each), in the order of the patches


def window_order(rows: int, columns: int, side: int) -> tuple[Tensor, Groups]:
    """Cells of a grid in the order of windows, and ((windows, cells of each), ...) of equal sizes.

    Whole windows come first, then those that the right, the bottom and both edges cut.
    """
    cells = torch.arange(rows * columns).view(rows, columns)
    order: list[Tensor] = []
    groups: list[tuple[int, int]] = []
    for down, height in _bands(rows, side):
        for across, width in _bands(columns, side):
            part = cells[down, across]
            part = part.unflatten(1, (-1, width)).unflatten(0, (-1, height)).transpose(1, 2)
            order.append(part.reshape(-1))
            windows, size = part.shape[0] * part.shape[1], height * width
            if groups and groups[-1][1] == size:
                windows += groups.pop()[0]
            groups.append((windows, size))
    return torch.cat(order), tuple(groups)


def _bands(length: int, side: int) -> list[tuple[slice, int]]:
    """(part of the axis, window length there): whole windows, then the rest."""
    whole = length // side * side
    bands = [(slice(0, whole), side)] if whole else []
    return bands + ([(slice(whole, length), length - whole)] if whole < length else [])


@functools.lru_cache(maxsize=8)
def patch_geometry(c: VisionConfig, rows: int, columns: int) -> tuple[Tensor, Groups, Tensor]:
    """(order of the cells, groups of windows in patches, angles [N,d/2]) of a grid of cells."""
    with torch.inference_mode(False), torch.device("cpu"):
        order, groups = window_order(rows, columns, c.side)
        angles = patch_angles(c, order, columns)
    return order, tuple((n, size * c.merge**2) for n, size in groups), angles


def patch_angles(c: VisionConfig | DeepVisionConfig, cells: Tensor, columns: int) -> Tensor:
    """Angles [N,d/2] of the patches of these cells of a grid with `columns` cells in a row."""
    inner = torch.arange(c.merge)
    down = (cells // columns * c.merge)[:, None] + inner.repeat_interleave(c.merge)
    across = (cells % columns * c.merge)[:, None] + inner.repeat(c.merge)
    half = c.head_dim // 2
    f = 1.0 / c.theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    return torch.cat([place.reshape(-1, 1).float() * f for place in (down, across)], dim=1)


def rope_of(angles: Tensor, device: torch.device) -> Rope:
    """cos and (-sin, sin) of angles [N,d/2], on a device."""
    cos, sin = angles.cos(), angles.sin()
    return _doubled(cos, cos).to(device), _doubled(-sin, sin).to(device)


def _doubled(first: Tensor, second: Tensor) -> Tensor:
    """[N,d/2] twice -> [N,1,1,d]."""
    return torch.cat([first, second], dim=1)[:, None, None]


def _rotate(x: Tensor, rope: Rope) -> Tensor:
    """x [N,2,H,d] with pairs (i, i + d/2), rotated in float32.

    Written into one buffer: joining rotated halves costs 4 times as much (3 % of a block).
    """
    cos, sin = rope
    x, half = x.float(), x.shape[-1] // 2
    out = torch.empty(x.shape, device=x.device)
    torch.mul(x[..., half:], sin[..., :half], out=out[..., :half])
    torch.mul(x[..., :half], sin[..., half:], out=out[..., half:])
    return out.addcmul_(x, cos)


class VisionAttention(nn.Module):
    """Attention inside each window."""

    def __init__(self, config: VisionConfig | DeepVisionConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor, rope: Rope, groups: Groups) -> Tensor:
        """x [N,W], windows one after the other."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [N,3,H,d]
        (q, k), v = _rotate(qkv[:, :2], rope).to(x.dtype).unbind(1), qkv[:, 2]
        parts, at = [], 0
        for windows, size in groups:
            part = slice(at, at + windows * size)
            batch = (t[part].unflatten(0, (windows, size)).transpose(1, 2) for t in (q, k, v))
            parts.append(attention(*batch).transpose(1, 2).reshape(windows * size, -1))
            at = part.stop
        return self.proj(parts[0] if len(parts) == 1 else torch.cat(parts))


class VisionBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1, self.attn = RMSNorm(config.width, config.eps), VisionAttention(config)
        self.norm2 = RMSNorm(config.width, config.eps)
        self.mlp = GatedMLP(config.width, config.ff, bias=True)

    def forward(self, x: Tensor, rope: Rope, groups: Groups) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, groups)
        return x + self.mlp(self.norm2(x))


class _PatchKernel(nn.Module):
    """The kernel of a 3-D convolution without overlap."""

    bias: nn.Parameter | None

    def __init__(self, config: VisionConfig | DeepVisionConfig, bias: bool) -> None:
        super().__init__()
        shape = (config.width, config.channels, config.frames, config.patch, config.patch)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.register_parameter("bias", nn.Parameter(torch.zeros(config.width)) if bias else None)


class PatchEmbed(nn.Module):
    """Pixels of a patch -> its vector; both frames see the same still image."""

    def __init__(self, config: VisionConfig | DeepVisionConfig, bias: bool = False) -> None:
        super().__init__()
        self.proj = _PatchKernel(config, bias)

    def forward(self, patches: Tensor) -> Tensor:
        """patches [N, channels * patch * patch] float32 -> [N,W] in the type of the weight.

        In float32: the sum of two half-type slices would be rounded, the reference rounds once.
        """
        kernel = self.proj.weight.float().sum(2).flatten(1)
        bias = None if self.proj.bias is None else self.proj.bias.float()
        return F.linear(patches.float(), kernel, bias).to(self.proj.weight.dtype)


class Merger(nn.Module):
    """The patches of a cell joined and mapped to the width of the language model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.joined = config.width * config.merge**2
        self.ln_q = RMSNorm(config.width, config.eps)
        self.mlp = nn.Sequential(
            Linear(self.joined, self.joined), nn.GELU(), Linear(self.joined, config.out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N,W] -> [cells, out]."""
        return self.mlp(self.ln_q(x).view(-1, self.joined))


class VisionTower(nn.Module):
    """Patches of one still image -> one row per cell, row-major."""

    def __init__(self, config: VisionConfig = QWEN_VL_VISION) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)
        self.stream: BlockStream | None = None  # loads weights that are not resident

    @torch.no_grad()
    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """patches [N, channels * patch * patch] cell by cell; grid: rows and columns of patches.

        Returns [rows / merge * columns / merge, out], without gradients: the tower is not trained.
        """
        c = self.config
        order, groups, angles = patch_geometry(c, grid[0] // c.merge, grid[1] // c.merge)
        order = order.to(patches.device)
        x = patches.unflatten(0, (-1, c.merge**2))[order].flatten(0, 1)  # [N, pixels]
        x = self.patch_embed(x)  # [N,W]
        rope = rope_of(angles, x.device)
        whole: Groups = ((1, x.shape[0]),)
        for i, block in enumerate(self.blocks):
            beat("vision tower, block", i, len(self.blocks))
            if self.stream is not None:
                self.stream.enter(i)
            x = block(x, rope, whole if i in c.full else groups)
        return self.merger(x)[order.argsort()]

    def levels(self, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """What the language model gets of a picture, level by level: here the rows alone."""
        return (self(patches, grid),)

    @property
    def row_numbers(self) -> int:
        """Numbers of a cell at all levels."""
        return self.config.out

    def activation_bytes(self, patches: int, dtype: torch.dtype) -> int:
        """Peak bytes of a forward over this number of patches."""
        return activation_bytes(self.config, patches, dtype)


def activation_bytes(c: VisionConfig, patches: int, dtype: torch.dtype) -> int:
    """Peak bytes of a forward: the stream, q, k, v, rotated copies, the gated hidden state."""
    numbers = patches * (5 * c.width + max(3 * c.ff, 6 * c.width))
    rotated = patches * 4 * c.width * torch.float32.itemsize
    return numbers * dtype.itemsize + rotated
