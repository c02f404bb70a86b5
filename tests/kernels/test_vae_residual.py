"""The VAE of Qwen-Image-2.1, whole and in strips, against diffusers, float32, random weights."""

import math
import sys
from functools import partial

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import ResidualVAEConfig
from inkstone.kernels.vae_memory import EncodeFootprint, Footprint
from inkstone.kernels.vae_residual import ResidualVAE
from inkstone.kernels.vae_strips import decode_rows, moments_rows

from ..support.oracle import fill, library, relative
from ..support.slow import slow_where
from .test_vae import fold, near, needs_what_the_plan_says

CONFIGS = {
    "as published, narrow": ResidualVAEConfig(base=8, decoder_base=12, z=8),
    "as many channels at every level": ResidualVAEConfig(
        base=16, decoder_base=20, mult=(1, 1, 1, 1), z=6, res_blocks=1, temporal=(True, False, True)
    ),
    "RGB, two steps": ResidualVAEConfig(
        base=8, decoder_base=8, mult=(1, 2, 2), z=4, channels=3, temporal=(True, True)
    ),
    "64 wide, fast convolutions": ResidualVAEConfig(
        base=64, decoder_base=72, mult=(1, 1, 1), z=8, res_blocks=1, temporal=(False, True)
    ),
}
SIZES = [(5, 3), (4, 6), (1, 1), (13, 9)]  # latent height and width


def reference(config: ResidualVAEConfig):
    """diffusers' VAE of the same shape."""
    return library("diffusers").AutoencoderKLQwenImage21(
        base_dim=config.base,
        decoder_base_dim=config.decoder_base,
        z_dim=config.z,
        dim_mult=list(config.mult),
        num_res_blocks=config.res_blocks,
        temperal_downsample=list(config.temporal),
        in_channels=config.channels,
        out_channels=config.channels,
        latents_mean=[0.0] * config.z,
        latents_std=[1.0] * config.z,
    )


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    torch.manual_seed(7)
    ref, ours = fill(reference(CONFIGS[request.param])), ResidualVAE(CONFIGS[request.param])
    ours.load_state_dict(fold(ref.state_dict()))
    return ref, ours.eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(8)
    config = CONFIGS["as published, narrow"]
    return fill(ResidualVAE(config)).to(memory_format=torch.channels_last)


def inputs(config: ResidualVAEConfig, batch: int, h: int, w: int):
    """Pixels in -1..1 and a latent of their size."""
    s = config.scale
    pixels = torch.rand(batch, config.channels, s * h, s * w) * 2 - 1
    return pixels, torch.randn(batch, config.z, h, w)


@pytest.mark.parametrize("size", slow_where(lambda size: size == (13, 9), SIZES), ids=str)
def test_parity(pair, size):
    """A batch of two, in inference and with gradients, which take other paths."""
    ref, ours = pair
    pixels, z = inputs(ours.config, 2, *size)
    with torch.no_grad():
        posterior = ref.encode(pixels[:, :, None]).latent_dist
        want = ref.decode(z[:, :, None]).sample[:, :, 0]
    for grad, mode in ((False, "inference"), (True, "training")):
        with torch.set_grad_enabled(grad):
            mean, logvar = ours.moments(pixels)
            got = ours.decode(z).clamp(-1, 1)
        near(mean, posterior.mean[:, :, 0], f"mean, {mode}")
        near(logvar, posterior.logvar[:, :, 0], f"logvar, {mode}")
        near(got, want, f"pixels, {mode}")


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_rows_against_the_reference(pair, rows):
    ref, ours = pair
    pixels, z = inputs(ours.config, 2, 5, 7)
    with torch.no_grad():
        want = ref.decode(z[:, :, None]).sample[:, :, 0]
        moments = ref.encode(pixels[:, :, None]).latent_dist
    near(decode_rows(ours, z, rows).clamp(-1, 1), want, "pixels")
    mean, logvar = moments_rows(ours, pixels, rows)
    near(mean, moments.mean[:, :, 0], "mean")
    near(logvar, moments.logvar[:, :, 0], "logvar")


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 37, 1000])
@pytest.mark.parametrize("size", slow_where(lambda size: size == (13, 9), SIZES), ids=str)
def test_rows_equal_whole(small, rows, size):
    pixels, z = inputs(small.config, 1, *size)
    with torch.no_grad():
        near(decode_rows(small, z, rows), small.decode(z), "pixels")
        whole, strips = small.moments(pixels), moments_rows(small, pixels, rows)
    near(strips[0], whole[0], "mean")
    near(strips[1], whole[1], "logvar")


def test_published_size_on_the_meta_device():
    """Weights of a still: all but the 12 convolutions over time (6,753,216)."""
    with torch.device("meta"):
        vae = ResidualVAE()
        pixels, z = torch.empty(1, 4, 64, 96), torch.empty(1, 64, 4, 6)
    counts = {
        part: sum(math.prod(p.shape) for p in getattr(vae, part).parameters())
        for part in ("encoder", "decoder", "quant_conv", "post_quant_conv")
    }
    assert sum(counts.values()) == 337_740_404 - 6_753_216, counts
    assert (counts["quant_conv"], counts["post_quant_conv"]) == (16_512, 4_160), counts
    assert len(dict(vae.named_parameters())) == 238 - 12
    with torch.no_grad():
        assert vae.decode(z).shape == decode_rows(vae, z, 16).shape == pixels.shape
        assert vae.moments(pixels)[0].shape == moments_rows(vae, pixels, 16)[0].shape == z.shape


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", [Footprint, EncodeFootprint])
def test_strips_need_less_memory(kind):
    """With the rows that wait for shortcuts."""
    peaks = needs_what_the_plan_says(ResidualVAEConfig(base=16, decoder_base=24), kind)
    assert peaks[16] < 0.35 * peaks[0], peaks


def test_batch_equals_singles(small):
    pixels, z = inputs(small.config, 3, 4, 5)
    for run, x in (
        (partial(decode_rows, small, rows=5), z),
        (lambda x: moments_rows(small, x, 5)[0], pixels),
    ):
        assert torch.equal(run(x), torch.cat([run(item) for item in x.split(1)]))


def test_gradients_reach_every_parameter(small):
    mean, logvar = small.moments(inputs(small.config, 1, 2, 1)[0])
    small.decode(mean + logvar).square().mean().backward()
    without = [name for name, p in small.named_parameters() if p.grad is None]
    small.zero_grad(set_to_none=True)
    assert not without, without


@pytest.mark.parametrize("rows", [None, 8])
def test_bfloat16(small, rows):
    half = ResidualVAE(small.config).to(torch.bfloat16).to(memory_format=torch.channels_last)
    half.load_state_dict(small.state_dict())
    pixels, z = inputs(small.config, 1, 4, 3)
    with torch.no_grad():
        y = half.decode(z.bfloat16()) if rows is None else decode_rows(half, z.bfloat16(), rows)
        x = pixels.bfloat16()
        mean = (half.moments(x) if rows is None else moments_rows(half, x, rows))[0]
        assert y.dtype == mean.dtype == torch.bfloat16
        near(y, small.decode(z), "pixels in bfloat16", 0.04)
        near(mean, small.moments(pixels)[0], "mean in bfloat16", 0.04)
        assert relative(y, small.decode(z)) > 1e-5, "it computed in float32"


@pytest.mark.parametrize(
    "config, words",
    [
        (ResidualVAEConfig(mult=(1, 4, 4, 8, 8)), "no shortcut leads from 96 to 384 channels"),
        (ResidualVAEConfig(mult=(1, 2, 4, 8, 16)), "no shortcut leads from 768 to 1536 channels"),
        (ResidualVAEConfig(mult=(1, 2, 4)), "3 levels with 4 steps between them"),
    ],
)
def test_shapes_without_shortcuts_are_refused(config, words):
    with pytest.raises(InkstoneError, match=words):
        ResidualVAE(config)
