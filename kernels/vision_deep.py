"""The vision tower of Qwen3-VL for still images: patches -> rows for `<|image_pad|>`, and the rows
of deeper levels that the language model adds after its first layers (DeepStack).

Plain where that of Qwen2.5-VL is not: LayerNorm with bias, an MLP of two layers, attention over the
whole picture, so patches keep the order in which they come. A learned table of positions, resized
to the grid of each picture, is added beside the rotation. Reference: transformers
`Qwen3VLVisionModel`. Names are the published ones without `visual.`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block_streaming import BlockStream
from .configs import QWEN3_VL_VISION, DeepVisionConfig
from .interrupt import beat
from .linear import Linear
from .text_encoder import Embedding
from .vision import PatchEmbed, Rope, VisionAttention, patch_angles, rope_of


class _TwoLayers(nn.Module):
    """fc2(GELU_tanh(fc1(x)))."""

    def __init__(self, width: int, ff: int) -> None:
        super().__init__()
        self.linear_fc1, self.linear_fc2 = Linear(width, ff), Linear(ff, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(self.linear_fc1.gelu(x))


class DeepVisionBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: DeepVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.mlp = _TwoLayers(config.width, config.ff)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, ((1, x.shape[0]),))
        return x + self.mlp(self.norm2(x))


class DeepMerger(nn.Module):
    """The patches of a cell joined and mapped to the width of the language model. The last level is
    normalised patch by patch, the others after joining (`joined`)."""

    def __init__(self, config: DeepVisionConfig, joined: bool) -> None:
        super().__init__()
        self.width = config.width * config.merge**2
        self.norm = nn.LayerNorm(self.width if joined else config.width, config.eps)
        self.linear_fc1 = Linear(self.width, self.width)
        self.linear_fc2 = Linear(self.width, config.out)

    def forward(self, x: Tensor) -> Tensor:
        """[N,W] -> [cells, out]."""
        x = self.norm(x.view(-1, *self.norm.normalized_shape)).view(-1, self.width)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


def resized(table: Tensor, rows: int, columns: int) -> Tensor:
    """[side,side,W] -> [rows,columns,W] float32, bilinear, corners on corners."""
    table = table.float()
    for axis, length in enumerate((rows, columns)):
        last = table.shape[axis] - 1
        at = torch.linspace(0, last, length)
        low = at.long()
        part = (at - low).view([-1, 1, 1] if axis == 0 else [1, -1, 1]).to(table.device)
        low = low.to(table.device)
        high = (low + 1).clamp(max=last)
        table = torch.lerp(table.index_select(axis, low), table.index_select(axis, high), part)
    return table


class DeepVisionTower(nn.Module):
    """Patches of one still image -> one row per cell for each level, row-major."""

    def __init__(self, config: DeepVisionConfig = QWEN3_VL_VISION) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, bias=True)
        self.pos_embed = Embedding(config.places, config.width)
        self.blocks = nn.ModuleList(DeepVisionBlock(config) for _ in range(config.depth))
        self.merger = DeepMerger(config, joined=False)
        self.deepstack_merger_list = nn.ModuleList(
            DeepMerger(config, joined=True) for _ in config.taps
        )
        self.stream: BlockStream | None = None  # loads weights that are not resident

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """The rows that replace `<|image_pad|>`, [cells, out]; see `levels`."""
        return self.levels(patches, grid)[0]

    @torch.no_grad()
    def levels(self, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """patches [N, channels * patch * patch] cell by cell; grid: rows and columns of patches.

        Returns the rows, then those of the tapped blocks in their order: [rows / merge * columns /
        merge, out] each, without gradients: the tower is not trained.
        """
        c = self.config
        x = self.patch_embed(patches)  # [N,W]
        x = (x.float() + self._positions(grid)).to(x.dtype)
        cells = torch.arange(x.shape[0] // c.merge**2)
        rope = rope_of(patch_angles(c, cells, grid[1] // c.merge), x.device)
        deep: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            beat("vision tower, block", i, len(self.blocks))
            if self.stream is not None:
                self.stream.enter(i)
            x = block(x, rope)
            if i in c.taps:
                deep[i] = self.deepstack_merger_list[c.taps.index(i)](x)
        return self.merger(x), *(deep[i] for i in c.taps)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """[N,W] float32 of a grid of patches, cell by cell."""
        c, side = self.config, math.isqrt(self.config.places)
        device = self.patch_embed.proj.weight.device
        table = self.pos_embed(torch.arange(c.places, device=device)).view(side, side, c.width)
        x = resized(table, *grid)
        x = x.unflatten(1, (-1, c.merge)).unflatten(0, (-1, c.merge))  # [h,m,w,m,W]
        return x.transpose(1, 2).reshape(-1, c.width)

    @property
    def row_numbers(self) -> int:
        """Numbers of a cell at all levels."""
        return self.config.out * (1 + len(self.config.taps))

    def activation_bytes(self, patches: int, dtype: torch.dtype) -> int:
        """Peak bytes of a forward: the pixels, the stream with q, k, v and their rotated copies or
        with the hidden state of the MLP, and the rows of all levels."""
        c, size = self.config, dtype.itemsize
        turned = 6 * c.width * size + 4 * c.width * torch.float32.itemsize
        hidden = (3 * c.width + c.ff) * size
        pixels = c.channels * c.patch**2 * torch.float32.itemsize
        rows = patches // c.merge**2 * self.row_numbers * size
        return patches * (max(turned, hidden) + pixels) + rows
