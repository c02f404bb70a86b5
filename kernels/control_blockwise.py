"""The blockwise control of DiffSynth-Studio: a small patch behind every block of the base model.

A patch sees the block's image tokens and the embedded picture, nothing else: no text, no time, no
attention. What is unusual: the picture is embedded and normed once per run,
and all patches of one block see the same stream (reference: DiffSynth-Studio
`BlockWiseControlBlock`, `QwenImageBlockwiseMultiControlNet`), so that their order does not matter.

Module names are the published key names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block_streaming import BlockStream
from .configs import BlockwiseConfig
from .linear import Linear
from .mmdit import RMSWeight

_EPS = 1e-6
_SLABS = 4  # [tokens, D] float32 alive in a patch: normed sum, hidden, result, what is added


class Patch(nn.Module):
    """output(GELU(input(norm(x) + norm(y)))), the GELU in its exact form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms, self.y_rms = RMSWeight(width), RMSWeight(width)
        self.input_proj, self.output_proj = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Image stream x [B,S,D] float32, picture y [n,S,D] of unit mean square -> [B,S,D]."""
        seen = F.rms_norm(x, x.shape[-1:], self.x_rms.weight.float(), _EPS)
        seen = seen + y * self.y_rms.weight.float()
        return self.output_proj(F.gelu(self.input_proj(seen.to(dtype))))


class BlockwiseBranch(nn.Module):
    """One patch per block. condition: features of one token of the picture, and of a mask."""

    def __init__(self, config: BlockwiseConfig, condition: int) -> None:
        super().__init__()
        self.config, self.condition = config, condition
        self.img_in = Linear(condition, config.width)
        self.controlnet_blocks = nn.ModuleList(Patch(config.width) for _ in range(config.layers))
        self.stream: BlockStream | None = None  # brings in weights that are not resident

    borrows = False  # embeddings of the base model

    @property
    def masked(self) -> bool:
        """Takes a mask of what is kept, beside the picture."""
        return self.condition > self.config.channels

    def embed(self, picture: Tensor) -> Tensor:
        """[n,S,condition] -> [n,S,D] float32 of unit mean square, the same in all steps."""
        y = self.img_in(picture).float()
        return F.rms_norm(y, y.shape[-1:], None, _EPS)

    def patch(self, index: int) -> Patch:
        """The patch behind block `index`, with its weights in place."""
        if self.stream is not None:
            self.stream.enter(index)
        return self.controlnet_blocks[index]


@dataclass(frozen=True)
class Patched:
    """One picture of a branch in a step. y: see `BlockwiseBranch.embed`; scale: by which it counts,
    a number or [n,S,1]."""

    branch: BlockwiseBranch
    y: Tensor
    dtype: torch.dtype
    scale: Tensor | float = 1.0


@dataclass(frozen=True)
class Patches:
    """All pictures that act behind a block, on the first tokens of the stream; references stand
    behind them."""

    parts: Sequence[Patched]
    look: Callable[[Patched, int, Tensor], None] | None = None  # sees what each patch gives

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream x [B,S',D] after block `index` with what all patches add; in place without
        gradients."""
        tokens = self.parts[0].y.shape[1]
        head, added = x[:, :tokens], None
        for part in self.parts:
            more = part.branch.patch(index)(head, part.y, part.dtype).float()
            if self.look is not None:
                self.look(part, index, more)
            more = more * part.scale
            added = more if added is None else added.add_(more)
        if torch.is_grad_enabled():
            return torch.cat([head + added, x[:, tokens:]], dim=1)
        head.add_(added)
        return x


def patch_bytes(config: BlockwiseConfig, tokens: int, batch: int) -> int:
    """Bytes of a patch at work."""
    return batch * tokens * config.width * 4 * _SLABS
