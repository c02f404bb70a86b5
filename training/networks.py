"""The embedded model's networks as they are trained: MMDiT, modulation weights and text encoder.

Modulation is computed with gradients here; everywhere else it is a table made once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.configs import MMDiTConfig, TextConfig
from ..kernels.forward import Inputs
from ..kernels.linear import Linear
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation, modulation
from ..kernels.text_encoder import TextEncoder

CONFIG = MMDiTConfig(layers=6, heads=4, head_dim=32, joint=128, ff=512, axes=(8, 12, 12))
TEXT = TextConfig(layers=2, width=128, heads=4, kv_heads=2, head_dim=32, ff=256, vocab=512)


class _Time(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.Module()
        self.timestep_embedder.linear_1 = Linear(256, d)
        self.timestep_embedder.linear_2 = Linear(d, d)


class ModulationWeights(nn.Module):
    """The weights that the modulation table is computed from, under their published names."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        d = config.width
        self.time_text_embed = _Time(d)
        blocks = []
        for _ in range(config.layers):
            block = nn.Module()
            block.img_mod = nn.ModuleList([nn.Identity(), Linear(d, 6 * d)])
            block.txt_mod = nn.ModuleList([nn.Identity(), Linear(d, 6 * d)])
            blocks.append(block)
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_out = nn.Module()
        self.norm_out.linear = Linear(d, 2 * d)
        for name, p in self.named_parameters():
            if "time_text" not in name:
                nn.init.zeros_(p)

    def forward(self, sigma: Tensor, layers: int) -> Modulation:
        """Rows for sigma [n], with gradients."""
        return modulation(dict(self.named_parameters()).__getitem__, sigma, layers)


class FlowModel(nn.Module):
    """MMDiT, its modulation weights and the text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.mmdit = MMDiT(CONFIG)
        self.mod = ModulationWeights(CONFIG)
        self.text = TextEncoder(TEXT)
        nn.init.zeros_(self.mmdit.proj_out.weight)
        nn.init.zeros_(self.mmdit.proj_out.bias)
        nn.init.normal_(self.text.embed_tokens.weight, std=0.5)

    def forward(
        self, x: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """x [B,S,64], sigma [B], ids and mask [B,L] -> velocity [B,S,64]."""
        txt = self.text(ids)
        mod = self.mod(sigma, CONFIG.layers)
        padding = None if bool(torch.all(mask)) else mask
        return self.mmdit(Inputs(x, txt, mod, [(1, *grid)], padding))
