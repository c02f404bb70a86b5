"""The VAE of Qwen-Image-2.1 (Wan 2.2 shape) for single images: RGBA, 64 channels at 1/16 size.

Against the first VAE (vae.py): every block has a shortcut around it that needs no weights, the
decoder is wider than the encoder, and the convolutions behind an upsampling keep the channels.
What is unusual: the shortcuts are those of a video. A step that halves time (`temporal`) pads an
empty frame in front of the only one, so of the channels that it makes every second one gets
nothing; on the way up the frame before the first is cut off, so only every second channel is read.
With one frame both are a mean or a copy of some channels, which is what runs here.

The same pieces as in vae.py, strips (vae_strips.py) included. Names of modules are the diffusers
key names. Source: diffusers `AutoencoderKLQwenImage21`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InkstoneError
from . import vae
from .configs import QWEN_IMAGE_21_VAE, ResidualVAEConfig
from .vae import VAE
from .vae_parts import Resample, ResBlock


class ShortcutBlock(nn.Module):
    """ResBlocks, a resampling where the block has one, and a shortcut around both."""

    def __init__(self, cin: int, cout: int, blocks: int) -> None:
        super().__init__()
        widths = [cin] + [cout] * blocks
        self.resnets = nn.ModuleList(ResBlock(*pair) for pair in zip(widths, widths[1:]))

    def layers(self) -> Iterator[nn.Module]:
        """The layers that the shortcut leads around, in order."""
        yield from self.resnets

    def rows(self, count: int) -> int:
        """Rows of the block's input that make `count` rows of its result."""
        return count

    def join(self, y: Tensor, x: Tensor) -> Tensor:
        """Adds the block's input x to what its layers made of it; without gradients in place."""
        return y + x

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers():
            y = layer(y)
        return self.join(y, x)


class DownBlock(ShortcutBlock):
    """Halves both sides; its shortcut is the mean of 2x2 pixels.

    The last of `cout / cin` channels gets it, the others nothing; where a step of two frames has as
    many channels as before, the empty frame counts in the mean.
    """

    def __init__(self, cin: int, cout: int, blocks: int, frames: int) -> None:
        super().__init__(cin, cout, blocks)
        self.step, self.frames = cout // cin, frames
        self.downsampler = Resample(cout, up=False)

    def layers(self) -> Iterator[nn.Module]:
        yield from (*self.resnets, self.downsampler)

    def rows(self, count: int) -> int:
        return 2 * count

    def join(self, y: Tensor, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, 2)
        y[:, self.step - 1 :: self.step] += mean * (self.step / self.frames)
        return y


class UpBlock(ShortcutBlock):
    """Doubles both sides; its shortcut spreads channels over 2x2 pixels.

    With as many channels in as out it is the nearest neighbour. With twice as many, a step of two
    frames reads the odd ones, a step of one frame fills the upper row from the even and the lower
    row from the odd ones.
    """

    def __init__(self, cin: int, cout: int, blocks: int, frames: int) -> None:
        super().__init__(cin, cout, blocks)
        self.step, self.frames = cin // cout, frames
        self.upsampler = Resample(cout, True, cout)

    def layers(self) -> Iterator[nn.Module]:
        yield from (*self.resnets, self.upsampler)

    def rows(self, count: int) -> int:
        return count // 2

    def join(self, y: Tensor, x: Tensor) -> Tensor:
        for place in range(4):  # of the pixel in its 2x2
            row, column = divmod(place, 2)
            first = (4 * self.frames - 4 + place) * self.step // (4 * self.frames)
            y[:, :, row::2, column::2] += x[:, first :: self.step]
        return y


class ResidualVAE(VAE):
    """The network of Qwen-Image-2.1's VAE; called as the first one (vae.py). Pixels are RGBA with
    straight alpha, in -1..1.
    """

    config: ResidualVAEConfig

    def __init__(self, config: ResidualVAEConfig = QWEN_IMAGE_21_VAE) -> None:
        if config.fault:
            raise InkstoneError(
                f"The VAE cannot be built: {config.fault}. Its file is of another model or "
                "damaged: check it with `inkstone inspect`."
            )
        super().__init__(config)

    def down_blocks(self) -> Iterator[nn.Module]:
        c = self.config
        *steps, last = zip((c.widths[0], *c.widths), c.widths, c.frames, strict=False)
        for cin, cout, frames in steps:
            yield DownBlock(cin, cout, c.res_blocks, frames)
        yield ShortcutBlock(last[0], last[1], c.res_blocks)

    def up_blocks(self) -> Iterator[nn.Module]:
        blocks, frames = self.config.res_blocks + 1, self.config.frames[-2::-1]
        *levels, (into, width, _) = self.config.levels
        for (cin, cout, _), step in zip(levels, frames, strict=True):
            yield UpBlock(cin, cout, blocks, step)
        yield vae.UpBlock(into, width, blocks, up=False)
