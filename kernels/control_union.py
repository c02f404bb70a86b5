"""The control branch of VideoX-Fun for Qwen-Image-2.1: 16 single-stream blocks, one behind every
second block of the base model.

As Fun's branch of the first family (control_fun.py) it has no embeddings: text, references and the
noisy latents go through the base model's, and the modulation is the base model's too. It reads the
control image, a mask of what is kept and the image that is inpainted: 129 features of a token, all
of the target; the tokens of text and references get none. Its samples are added to all tokens, so
that text and references depend on it: their keys and values are not kept while it acts.

Our module names: `controlnet_x_embedder` (the file's `control_img_in`), `before_proj`,
`transformer_blocks.K` (`control_blocks.K`), `controlnet_blocks.K` (`control_blocks.K.after_proj`).
Reference: VideoX-Fun `QwenImage21ControlTransformer2DModel`, where references get control features
too; ComfyUI fills those of the target only, as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .block_streaming import Asking, BlockStream
from .configs import SingleStreamConfig
from .control_fun import Placed
from .forward import NO_HOOKS, ForwardHooks, ForwardSize, Inputs
from .linear import Linear
from .shared_modulation import SharedModulation, SharedRows
from .single_block import SingleBlock
from .single_stream import SingleStream
from .stream_context import stream_context

Hints = list[tuple[Tensor, Tensor]]
"""Samples of each block: of the prefix [n,P,D] and of the target [B,S,D]."""
UnionWalk = Asking[Hints]


class UnionBranch(nn.Module):
    """The network. condition: features of one token of what it reads."""

    borrows = True  # embeddings of the base model
    masked = False  # its mask is a choice: see controlnet/control_picture.py

    def __init__(self, config: SingleStreamConfig, condition: int) -> None:
        super().__init__()
        self.config, self.condition = config, condition
        self.controlnet_x_embedder = Linear(condition, config.width)
        self.before_proj = Linear(config.width, config.width)
        self.transformer_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.layers))
        self.controlnet_blocks = nn.ModuleList(
            Linear(config.width, config.width) for _ in range(config.layers)
        )
        self.stream: BlockStream | None = None  # loads weights that are not resident

    def walk(
        self, inputs: Inputs, picture: Tensor, base: SingleStream, hooks: ForwardHooks = NO_HOOKS
    ) -> UnionWalk:
        """A forward that stops before each block and returns the samples of all blocks.

        inputs: those of the base model; picture [n,S,condition], n = 1 or B, in this branch's type.
        """
        mod, dtype = inputs.modulation, picture.dtype
        assert isinstance(mod, SharedModulation), "the base has one modulation for all blocks"
        rows, still = SharedRows.of(mod.target), SharedRows.of(mod.prefix)
        ctx = replace(stream_context(base.config, inputs), dtype=dtype)
        prefix = base.prefix(inputs, ctx)
        nothing = prefix.new_zeros(1, 1, prefix.shape[-1], dtype=dtype)
        prefix = prefix + self.before_proj(nothing).float()
        features = self.before_proj(self.controlnet_x_embedder(picture)).float()
        x = base.img_in(inputs.img).float() + features
        hints: Hints = []
        for i, (block, out) in enumerate(zip(self.transformer_blocks, self.controlnet_blocks)):
            hooks.on_block(i)
            yield None
            assert isinstance(block, SingleBlock)
            block_ctx = replace(ctx, probe=hooks.probe_of(i))
            prefix, own = yield from block.prefix(prefix, still, block_ctx)
            x = yield from block(x, own, rows, block_ctx)
            hints.append((out(prefix.to(dtype)), out(x.to(dtype))))
        return hints

    def sample_bytes(self, size: ForwardSize, dtype: torch.dtype) -> int:
        """Bytes of the samples, which stay while the base model works."""
        return self.config.layers * size.tokens * self.config.width * dtype.itemsize


@dataclass(frozen=True)
class PlacedOnBoth:
    """Samples on both streams of a base model, see `Placed`.

    scale: of those of the target, a number or [n,S,1]; strength: of those of the prefix.
    """

    hints: Sequence[tuple[Tensor, Tensor]]
    scale: Tensor | float = 1.0
    strength: float = 1.0

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The target's stream x [B,S,D] after block `index`."""
        return Placed([target for _, target in self.hints], self.scale)(index, layers, x)

    def prefix(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The prefix's stream x [n,P,D] after block `index`."""
        return Placed([prefix for prefix, _ in self.hints], self.strength)(index, layers, x)
