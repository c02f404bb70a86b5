"""The control branch of InstantX (Union, Inpainting): a short MMDiT next to the base model.

It reads the same noisy latents and a control image, and gives one residual per block, which is
added to the image stream of the base model. What is unusual: it is built of the base model's own
blocks, its modulation is a table too (see `modulation.py`), and of the last block, whose text
nobody reads, only the image is computed. Reference: diffusers `QwenImageControlNetModel`.

Module names are the published key names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .block_streaming import Asking, BlockStream, in_step
from .configs import MMDiTConfig
from .forward import NO_HOOKS, ForwardHooks, PassContext, pass_context
from .linear import Linear
from .mmdit import Block, embed_text
from .modulation import Modulation
from .norm import RMSWeight
from .rope import Grid

ControlWalk = Asking[list[Tensor]]
"""A forward that stops before each block and returns the samples (see `MMDiT.walk`)."""


@dataclass(frozen=True)
class ControlInputs:
    """Inputs of one forward of a branch."""

    img: Tensor  # [B,S,64] packed latents of the target
    picture: Tensor  # [n,S,condition] features of the control image, n = 1 or B
    txt: Tensor  # [B,L,J] text states
    modulation: Modulation
    grid: Grid


class ControlBlocks(nn.Module):
    """Blocks of a control branch, each with a layer that gives its sample: what InstantX's branch
    and Fun's (control_fun.py) have in common."""

    config: MMDiTConfig
    stream: BlockStream | None = None  # loads weights that are not resident

    def add_blocks(self) -> None:
        """Builds the blocks of `config`, and their layers for samples."""
        config, last = self.config, self.config.layers - 1
        self.transformer_blocks = nn.ModuleList(
            Block(config, i == last) for i in range(config.layers)
        )
        self.controlnet_blocks = nn.ModuleList(
            Linear(config.width, config.width) for _ in range(config.layers)
        )

    def samples(
        self, img: Tensor, txt: Tensor, mod: Modulation, ctx: PassContext, hooks: ForwardHooks
    ) -> ControlWalk:
        """Streams img [B,S,D] and txt [B,L,D] through the blocks, with a stop before each."""
        samples = []
        for i, (block, out) in enumerate(zip(self.transformer_blocks, self.controlnet_blocks)):
            hooks.on_block(i)
            yield None
            block_ctx = replace(ctx, probe=hooks.probe_of(i))
            img, txt = yield from block(img, txt, mod.block(i, ctx.tokens), ctx.tokens, block_ctx)
            samples.append(out(img.to(ctx.dtype)))
        return samples


class ControlBranch(ControlBlocks):
    """The network without its modulation.

    condition: features of one token of the control image, those of its latent (as many as the base
    model has channels) and of a mask where there is one.
    """

    def __init__(self, config: MMDiTConfig, condition: int) -> None:
        super().__init__()
        self.config, self.condition = config, condition
        self.img_in = Linear(config.channels, config.width)
        self.controlnet_x_embedder = Linear(condition, config.width)
        self.txt_norm, self.txt_in = RMSWeight(config.joint), Linear(config.joint, config.width)
        self.add_blocks()

    borrows = False  # embeddings of the base model

    @property
    def masked(self) -> bool:
        """Takes a mask of what is kept, in addition to the control image."""
        return self.condition > self.config.channels

    def forward(self, inputs: ControlInputs) -> list[Tensor]:
        """One sample [B,S,D] per block."""
        return in_step(self, [self.walk(inputs)])[0]

    def walk(self, inputs: ControlInputs, hooks: ForwardHooks = NO_HOOKS) -> ControlWalk:
        """`forward` with a stop before each block."""
        ctx = pass_context(self.config, inputs.img, inputs.txt, [inputs.grid])
        txt = embed_text(self, inputs.txt)
        condition = self.controlnet_x_embedder(inputs.picture).float()
        img = self.img_in(inputs.img).float() + condition
        return (yield from self.samples(img, txt, inputs.modulation, ctx, hooks))


@dataclass(frozen=True)
class Spread:
    """n samples over the blocks of a base model: sample i // ceil(layers / n) after block i, on the
    first tokens of the stream; references stand behind them.

    scale: of the samples, a number or [n,S,1].
    """

    samples: Sequence[Tensor]  # [B,S,D] each
    scale: Tensor | float = 1.0

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream x [B,S',D] after block `index`, with its sample; in place without gradients"""
        sample = self.samples[index // math.ceil(layers / len(self.samples))]
        tokens = sample.shape[1]
        if torch.is_grad_enabled():
            head = x[:, :tokens] + sample * self.scale
            return torch.cat([head, x[:, tokens:]], dim=1)
        if isinstance(self.scale, Tensor):
            sample = sample * self.scale
            x[:, :tokens].add_(sample)
        else:
            x[:, :tokens].add_(sample, alpha=self.scale)
        return x


def sample_bytes(config: MMDiTConfig, tokens: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of the samples of one control image, which stay while the base model works."""
    return batch * config.layers * tokens * config.width * dtype.itemsize
