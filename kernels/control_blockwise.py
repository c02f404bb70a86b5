"""The blockwise control of DiffSynth-Studio: a small patch behind every block of the base model.

A patch sees the block's image tokens and the embedded control image, nothing else: no text, no
time, no attention. What is unusual: the control image is embedded and normed once per run, and all
patches of one block see the same stream (reference: DiffSynth-Studio `BlockWiseControlBlock`,
`QwenImageBlockwiseMultiControlNet`), so that their order does not matter.

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
from .norm import RMSWeight

_EPS = 1e-6
_SLABS = 4  # [tokens, D] float32 alive in a patch: normed sum, hidden, result, sum of the results


class Patch(nn.Module):
    """output(GELU(input(norm(x) + norm(y)))), the GELU in its exact form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms, self.y_rms = RMSWeight(width), RMSWeight(width)
        self.input_proj, self.output_proj = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Image stream x [B,S,D] float32, image y [n,S,D] of unit mean square -> [B,S,D]."""
        total = F.rms_norm(x, x.shape[-1:], self.x_rms.weight.float(), _EPS)
        total = total + y * self.y_rms.weight.float()
        return self.output_proj(F.gelu(self.input_proj(total.to(dtype))))


class BlockwiseBranch(nn.Module):
    """One patch per block. condition: features of one token of the control image, and of a mask."""

    def __init__(self, config: BlockwiseConfig, condition: int) -> None:
        super().__init__()
        self.config, self.condition = config, condition
        self.img_in = Linear(condition, config.width)
        self.controlnet_blocks = nn.ModuleList(Patch(config.width) for _ in range(config.layers))
        self.stream: BlockStream | None = None  # loads weights that are not resident

    borrows = False  # embeddings of the base model

    @property
    def masked(self) -> bool:
        """Takes a mask of what is kept, in addition to the control image."""
        return self.condition > self.config.channels

    def embed(self, picture: Tensor) -> Tensor:
        """[n,S,condition] -> [n,S,D] float32 of unit mean square, the same in all steps."""
        y = self.img_in(picture).float()
        return F.rms_norm(y, y.shape[-1:], None, _EPS)

    def patch(self, index: int) -> Patch:
        """The patch behind block `index`, with its weights in place."""
        if self.stream is not None:
            self.stream.enter(index)
        patch = self.controlnet_blocks[index]
        assert isinstance(patch, Patch)
        return patch


@dataclass(frozen=True)
class Patched:
    """One control image of a branch in a step.

    y: see `BlockwiseBranch.embed`; scale: of what its patches add, a number or [n,S,1].
    """

    branch: BlockwiseBranch
    y: Tensor
    dtype: torch.dtype
    scale: Tensor | float = 1.0


@dataclass(frozen=True)
class Patches:
    """All control images that act behind a block, on the first tokens of the stream; references
    stand behind them."""

    parts: Sequence[Patched]
    look: Callable[[Patched, int, Tensor], None] | None = None  # sees the result of each patch

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream x [B,S',D] after block `index` plus the results of all patches; in place
        without gradients."""
        tokens = self.parts[0].y.shape[1]
        head, total = x[:, :tokens], None
        for part in self.parts:
            result = part.branch.patch(index)(head, part.y, part.dtype).float()
            if self.look is not None:
                self.look(part, index, result)
            result = result * part.scale
            total = result if total is None else total.add_(result)
        assert total is not None, "a step without control images has no Patches"
        if torch.is_grad_enabled():
            return torch.cat([head + total, x[:, tokens:]], dim=1)
        head.add_(total)
        return x


def patch_bytes(config: BlockwiseConfig, tokens: int, batch: int) -> int:
    """Bytes of a patch at work."""
    return batch * tokens * config.width * 4 * _SLABS
