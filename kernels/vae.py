"""The Qwen-Image VAE (Wan 2.1 shape) for single images, as a 2-D network.

What is unusual: a causal 3-D convolution on one frame pads two empty frames in front, so it equals
a 2-D convolution with the last temporal slice of its kernel. The whole network is therefore 2-D
here: a third of the weights and 2.4 times fewer operations than the reference
(diffusers `AutoencoderKLQwenImage`), with equal numbers. `vae_strips.py` runs the same modules in
strips of rows, which is exact because every norm is per pixel.

Names of modules are the diffusers key names, so a state dict needs no renaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from .configs import QWEN_IMAGE_VAE, VAEConfig
from .vae_parts import Middle, Norm, Resample, ResBlock, channels_last, conv3


class Encoder(nn.Module):
    """Pixels [B,C,H,W] in -1..1 -> moments before `quant_conv` [B,2z,H/s,W/s], s = config.scale."""

    def __init__(self, config: VAEConfig, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        first, last = config.widths[0], config.widths[-1]
        self.conv_in = conv3(config.channels, first)
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = Middle(last)
        self.norm_out, self.conv_out = Norm(last), conv3(last, 2 * config.z)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.head(self.mid_block(x))

    def head(self, x: Tensor) -> Tensor:
        """Norm, SiLU and the last convolution; `x` is used up."""
        return self.conv_out(self.norm_out(x, out=x))


class UpBlock(nn.Module):
    """ResBlocks, then (all but the last block) an upsampling convolution to half the channels."""

    def __init__(self, cin: int, cout: int, blocks: int, up: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResBlock(cin if i == 0 else cout, cout) for i in range(blocks)]
        )
        self.upsamplers = nn.ModuleList([Resample(cout, True, cout // 2)] if up else [])

    def layers(self) -> Iterator[nn.Module]:
        """The layers in order."""
        yield from (*self.resnets, *self.upsamplers)


class Decoder(nn.Module):
    """Latent after `post_quant_conv` [B,z,h,w] -> pixels [B,C,sh,sw], not clamped."""

    def __init__(self, config: VAEConfig, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        first, last = config.decoder_widths[0], config.decoder_widths[-1]
        self.conv_in = conv3(config.z, first)
        self.mid_block = Middle(first)
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out, self.conv_out = Norm(last), conv3(last, config.channels)

    def layers(self) -> Iterator[nn.Module]:
        """Layers after the middle, flat: loops over blocks would keep a block's input alive."""
        for block in self.up_blocks:
            yield from block.layers() if isinstance(block, UpBlock) else (block,)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for layer in self.layers():
            x = layer(x)
        return self.conv_out(self.norm_out(x, out=x))


class VAE(nn.Module):
    """Encoder and decoder with their 1x1 convolutions.

    Latents here are raw (not normalised by mean and std); pixels are in -1..1.
    """

    def __init__(self, config: VAEConfig = QWEN_IMAGE_VAE) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, self.down_blocks())
        self.decoder = Decoder(config, self.up_blocks())
        self.quant_conv = nn.Conv2d(2 * config.z, 2 * config.z, 1)
        self.post_quant_conv = nn.Conv2d(config.z, config.z, 1)

    def down_blocks(self) -> Iterator[nn.Module]:
        """The encoder's layers before the middle, flat as in the published keys."""
        widths, blocks = self.config.widths, self.config.res_blocks
        for stage, (cin, cout) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            for i in range(blocks):
                yield ResBlock(cout if i else cin, cout)
            if stage < len(widths) - 1:
                yield Resample(cout, up=False)

    def up_blocks(self) -> Iterator[nn.Module]:
        """The decoder's blocks behind the middle."""
        *levels, (into, width, _) = self.config.levels
        for cin, cout, _ in levels:
            yield UpBlock(cin, cout, self.config.res_blocks + 1, up=True)
        yield UpBlock(into, width, self.config.res_blocks + 1, up=False)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B,C,H,W] in -1..1 -> mean, log variance (clamped to -30..20), [B,z,h,w] each."""
        return self.split(self.quant_conv(self.encoder(channels_last(pixels))))

    def split(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """[B,2z,h,w] -> mean and clamped log variance."""
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """Raw latent [B,z,h,w] -> pixels [B,C,sh,sw], s = config.scale, not clamped."""
        return self.decoder(self.post_quant_conv(channels_last(z)))
