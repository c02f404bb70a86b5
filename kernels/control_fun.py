"""The control branch of VideoX-Fun (Fun Union for Qwen-Image-2512): five blocks and no embeddings.

It differs from InstantX's branch (control_instantx.py) in three ways. It has no embeddings of its
own: the noisy latents, the text and the time go through the base model's. It reads the control
image together with a mask and the image that is inpainted: 33 latent channels. And its samples are
added behind some blocks only (0, 12, 24 ... of 60), and each half of CFG needs a forward.

Our module names: `controlnet_x_embedder` (the file's `control_img_in`), `before_proj`,
`transformer_blocks.K` (`control_blocks.K`), `controlnet_blocks.K` (`control_blocks.K.after_proj`).
Reference: VideoX-Fun `QwenImageControlTransformer2DModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .configs import MMDiTConfig
from .control_instantx import ControlBlocks, ControlInputs, ControlWalk
from .forward import NO_HOOKS, ForwardHooks, pass_context
from .linear import Linear
from .mmdit import MMDiT, embed_text


class FunBranch(ControlBlocks):
    """The network without its modulation. condition: features of one token of what it reads."""

    def __init__(self, config: MMDiTConfig, condition: int) -> None:
        super().__init__()
        self.config, self.condition = config, condition
        self.controlnet_x_embedder = Linear(condition, config.width)
        self.before_proj = Linear(config.width, config.width)
        self.add_blocks()

    borrows = True  # embeddings of the base model
    masked = False  # its mask is a choice: see controlnet/control_picture.py

    def walk(
        self, inputs: ControlInputs, base: MMDiT, hooks: ForwardHooks = NO_HOOKS
    ) -> ControlWalk:
        """A forward that stops before each block and returns one sample [B,S,D] per block."""
        ctx = pass_context(self.config, inputs.img, inputs.txt, [inputs.grid])
        txt = embed_text(base, inputs.txt)
        condition = self.before_proj(self.controlnet_x_embedder(inputs.picture)).float()
        img = base.img_in(inputs.img).float() + condition
        return (yield from self.samples(img, txt, inputs.modulation, ctx, hooks))


@dataclass(frozen=True)
class Placed:
    """n samples of a base model's blocks: sample k behind block k * (layers // n), on the first
    tokens of the stream; references stand behind them.

    scale: of the samples, a number or [n,S,1].
    """

    samples: Sequence[Tensor]  # [B,S,D] each
    scale: Tensor | float = 1.0

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The stream x [B,S',D] after block `index`, with its sample where there is one."""
        number, rest = divmod(index, max(1, layers // len(self.samples)))
        if rest or number >= len(self.samples):
            return x
        sample = self.samples[number] * self.scale
        if torch.is_grad_enabled():
            head = x[:, : sample.shape[1]] + sample
            return torch.cat([head, x[:, sample.shape[1] :]], dim=1)
        x[:, : sample.shape[1]].add_(sample)
        return x
