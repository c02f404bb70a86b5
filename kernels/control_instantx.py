"""The control branch of InstantX (Union, Inpainting): a short MMDiT beside the long one.

It reads the same noisy latents and a picture, and gives one sample per block, which is added to the
image stream of the base model. What is unusual: it is built of the base model's own blocks, its
modulation is a table too (see `modulation.py`), and of the last block, whose text nobody reads,
only the image is computed. Reference: diffusers `QwenImageControlNetModel`.

Module names are the published key names.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .adaln import ImgRows
from .block_streaming import BlockStream, in_step
from .configs import MMDiTConfig
from .linear import Linear
from .mmdit import Block, ForwardHooks, Pass, RMSWeight, embed_text, shared_pass
from .modulation import Modulation
from .rope import Grid

ControlWalk = Generator[None, None, list[Tensor]]
"""A pass that stops before each block and returns the samples."""


class ControlBlocks(nn.Module):
    """Blocks beside a base model, each with a layer that gives its sample: what InstantX's branch
    and Fun's (control_fun.py) have in common."""

    config: MMDiTConfig
    stream: BlockStream | None = None  # brings in weights that are not resident

    def add_blocks(self) -> None:
        """The blocks of `config`, and their layers for samples."""
        config, last = self.config, self.config.layers - 1
        self.transformer_blocks = nn.ModuleList(
            Block(config, i == last) for i in range(config.layers)
        )
        self.controlnet_blocks = nn.ModuleList(
            Linear(config.width, config.width) for _ in range(config.layers)
        )

    def together(self, walks: Sequence[ControlWalk]) -> list[list[Tensor]]:
        """Passes for several pictures: streamed weights are read once for all of them."""
        return in_step(walks, len(self.transformer_blocks), self.stream)

    def samples(
        self, x: Tensor, y: Tensor, at: Pass, mod: Modulation, watch: ForwardHooks
    ) -> ControlWalk:
        """Streams x [B,S,D] and y [B,L,D] through the blocks, with a stop before each."""
        samples = []
        for i, (block, out) in enumerate(zip(self.transformer_blocks, self.controlnet_blocks)):
            watch.on_block(i)
            yield
            rows = ImgRows(mod.img[i], None, at.tokens)
            at_block = replace(at, probe=watch.probe_of(i))
            x, y = block(x, y, (rows, mod.txt[i]), at.tokens, at_block)
            samples.append(out(x.to(at.dtype)))
        return samples


class ControlBranch(ControlBlocks):
    """The network without its modulation. condition: features of one token of the picture, those of
    its latent (as many as the base model has channels) and of a mask where there is one.
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
        """Takes a mask of what is kept, beside the picture."""
        return self.condition > self.config.channels

    def forward(
        self, img: Tensor, picture: Tensor, txt: Tensor, mod: Modulation, grid: Grid
    ) -> list[Tensor]:
        """One sample [B,S,D] per block.

        img [B,S,64] packed latents; picture [n,S,condition], n = 1 or B; txt [B,L,J] text states.
        """
        return self.together([self.walk(img, picture, txt, mod, grid)])[0]

    def walk(
        self,
        img: Tensor,
        picture: Tensor,
        txt: Tensor,
        mod: Modulation,
        grid: Grid,
        watch: ForwardHooks | None = None,
    ) -> ControlWalk:
        """What `forward` computes, with a stop before each block."""
        watch = watch or ForwardHooks()
        at = shared_pass(self.config, img, txt, [grid])
        y = embed_text(self, txt)
        x = self.img_in(img).float() + self.controlnet_x_embedder(picture).float()
        return (yield from self.samples(x, y, at, mod, watch))


@dataclass(frozen=True)
class Spread:
    """n samples over the blocks of a base model: sample i // ceil(layers / n) after block i, on the
    first tokens of the stream; references stand behind them.

    scale: [n,S,1] or a number, by which they count.
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
    """Bytes of the samples of one picture, which stay while the base model works."""
    return batch * config.layers * tokens * config.width * dtype.itemsize
