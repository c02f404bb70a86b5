"""Every tensor name and shape of a published VAE file, as expected_tensors.py has the others.

Counts for the published configs: Qwen-Image 194 tensors and 126,892,531 parameters, Qwen-Image-2.1
238 and 337,740,404. Names are diffusers'. Shapes are those of its files: 3-D convolutions of the
first family unfolded, 2-D ones of 2.1.
"""

from __future__ import annotations

from ...kernels.configs import ResidualVAEConfig, VAEConfig
from .dims import Shapes
from .expected_tensors import Layout


def _conv3(name: str, out: int, into: int, size: int = 3) -> Layout:
    return {f"{name}.weight": (out, into, size, size, size), f"{name}.bias": (out,)}


def _conv2(name: str, out: int, into: int, size: int) -> Layout:
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def _time_conv(at: str, out: int, into: int) -> Layout:
    return {f"{at}.time_conv.weight": (out, into, 3, 1, 1), f"{at}.time_conv.bias": (out,)}


def _resnet(at: str, into: int, out: int) -> Layout:
    layout: Layout = {f"{at}.norm1.gamma": (into, 1, 1, 1), f"{at}.norm2.gamma": (out, 1, 1, 1)}
    layout |= _conv3(f"{at}.conv1", out, into) | _conv3(f"{at}.conv2", out, out)
    return layout | (_conv3(f"{at}.conv_shortcut", out, into, 1) if into != out else {})


def _middle(at: str, width: int) -> Layout:
    layout = _resnet(f"{at}.resnets.0", width, width) | _resnet(f"{at}.resnets.1", width, width)
    layout[f"{at}.attentions.0.norm.gamma"] = (width, 1, 1)
    layout |= _conv2(f"{at}.attentions.0.to_qkv", 3 * width, width, 1)
    return layout | _conv2(f"{at}.attentions.0.proj", width, width, 1)


def _encoder(config: VAEConfig) -> Layout:
    """Stages of res_blocks blocks and one stride-2 step; time_conv from the second step on."""
    layout = _conv3("encoder.conv_in", config.base * config.mult[0], config.channels)
    width, number = config.base * config.mult[0], 0
    for stage, mult in enumerate(config.mult):
        for _ in range(config.res_blocks):
            layout |= _resnet(f"encoder.down_blocks.{number}", width, config.base * mult)
            width, number = config.base * mult, number + 1
        if stage < len(config.mult) - 1:
            at = f"encoder.down_blocks.{number}"
            layout |= _conv2(f"{at}.resample.1", width, width, 3)
            layout |= _time_conv(at, width, width) if stage else {}
            number += 1
    layout |= _middle("encoder.mid_block", width)
    layout["encoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("encoder.conv_out", 2 * config.z, width)


def _decoder(config: VAEConfig) -> Layout:
    """Mirror of the encoder with one block more per stage; each upsampling halves the width."""
    width, last = config.base * config.mult[-1], len(config.mult) - 1
    layout = _conv3("decoder.conv_in", width, config.z) | _middle("decoder.mid_block", width)
    for stage, mult in enumerate(reversed(config.mult)):
        at = f"decoder.up_blocks.{stage}"
        for number in range(config.res_blocks + 1):
            layout |= _resnet(f"{at}.resnets.{number}", width, config.base * mult)
            width = config.base * mult
        if stage < last:
            layout |= _conv2(f"{at}.upsamplers.0.resample.1", width // 2, width, 3)
            layout |= _time_conv(f"{at}.upsamplers.0", 2 * width, width) if stage < last - 1 else {}
            width //= 2
    layout["decoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("decoder.conv_out", config.channels, width)


def vae_layout(config: VAEConfig) -> Layout:
    """The VAE file in diffusers names, with the time_convs that one frame never needs."""
    layout = _conv3("quant_conv", 2 * config.z, 2 * config.z, 1)
    layout |= _conv3("post_quant_conv", config.z, config.z, 1)
    if isinstance(config, ResidualVAEConfig):
        return folded(layout | _residual_encoder(config) | _residual_decoder(config))
    return layout | _encoder(config) | _decoder(config)


def folded(shapes: Shapes) -> Layout:
    """3-D kernels as the 2-D ones that one frame needs."""
    return {n: (*s[:2], *s[3:]) if len(s) == 5 else tuple(s) for n, s in shapes.items()}


def _residual_encoder(config: ResidualVAEConfig) -> Layout:
    """A block per level; time_conv where its step halves time."""
    width = config.widths[0]
    layout = _conv3("encoder.conv_in", width, config.channels)
    for stage, out in enumerate(config.widths):
        at = f"encoder.down_blocks.{stage}"
        for number in range(config.res_blocks):
            layout |= _resnet(f"{at}.resnets.{number}", width, out)
            width = out
        if stage < len(config.temporal):
            layout |= _conv2(f"{at}.downsampler.resample.1", out, out, 3)
            layout |= _time_conv(f"{at}.downsampler", out, out) if config.temporal[stage] else {}
    layout |= _middle("encoder.mid_block", width)
    layout["encoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("encoder.conv_out", 2 * config.z, width)


def _residual_decoder(config: ResidualVAEConfig) -> Layout:
    """Its mirror with one ResBlock more per level; an upsampling keeps the channels."""
    width, temporal = config.decoder_widths[0], config.temporal[::-1]
    layout = _conv3("decoder.conv_in", width, config.z) | _middle("decoder.mid_block", width)
    for stage, (_, out, _) in enumerate(config.levels):
        at = f"decoder.up_blocks.{stage}"
        for number in range(config.res_blocks + 1):
            layout |= _resnet(f"{at}.resnets.{number}", width, out)
            width = out
        if stage < len(temporal):
            layout |= _conv2(f"{at}.upsampler.resample.1", out, out, 3)
            layout |= _time_conv(f"{at}.upsampler", 2 * out, out) if temporal[stage] else {}
    layout["decoder.norm_out.gamma"] = (width, 1, 1, 1)
    return layout | _conv3("decoder.conv_out", config.channels, width)
