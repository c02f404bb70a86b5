"""The 2-D VAE and its strips against diffusers' 3-D one, float32, random weights everywhere."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels import winograd
from inkstone.kernels.configs import VAEConfig
from inkstone.kernels.vae import VAE
from inkstone.kernels.vae_memory import EncodeFootprint, Footprint, plan_rows
from inkstone.kernels.vae_parts import norm_silu
from inkstone.kernels.vae_strips import decode_rows, moments_rows
from inkstone.loaders.models.vae import VAEModel

from ..conftest import ROOT
from ..support.oracle import fill, measured
from ..support.slow import slow_where

CONFIGS = {
    "base 8": VAEConfig(base=8, res_blocks=1),
    "base 12": VAEConfig(base=12, res_blocks=2),
    "base 16 RGBA": VAEConfig(base=16, res_blocks=1, channels=4),
    "base 64, fast convolutions": VAEConfig(base=64, mult=(1, 1, 1, 1), res_blocks=1),
}
SIZES = [(26, 38), (5, 3), (8, 8)]  # latent height and width


def fold(state: dict) -> dict:
    """The reference's weights for one picture: last temporal slice, flat gammas, no time_conv."""
    folded = {}
    for name, tensor in state.items():
        if ".time_conv." in name:
            continue
        if name.endswith(".gamma"):
            tensor = tensor.flatten()
        folded[name] = tensor[:, :, -1] if tensor.dim() == 5 else tensor
    return folded


def reference(config: VAEConfig):
    """diffusers' VAE with the decoder's output channels as the configuration says."""
    from diffusers import AutoencoderKLQwenImage

    return fill(
        AutoencoderKLQwenImage(
            base_dim=config.base,
            z_dim=config.z,
            dim_mult=list(config.mult),
            num_res_blocks=config.res_blocks,
            input_channels=config.channels,
        )
    )


@pytest.fixture(scope="module", params=slow_where(lambda name: name != "base 8", CONFIGS))
def pair(request):
    torch.manual_seed(7)
    config = CONFIGS[request.param]
    ref = reference(config)
    ours = VAE(config)
    ours.load_state_dict(fold(ref.state_dict()))
    return ref, ours.eval().to(memory_format=torch.channels_last)


@pytest.fixture(
    scope="module",
    params=slow_where(lambda name: "64" in name, ["base 12", "base 64, fast convolutions"]),
)
def small(request):
    torch.manual_seed(8)
    return fill(VAE(CONFIGS[request.param])).to(memory_format=torch.channels_last)


def near(got: torch.Tensor, want: torch.Tensor, what: str, limit: float = 1e-5) -> None:
    assert got.shape == want.shape, f"{what}: {list(got.shape)}, expected {list(want.shape)}"
    error = measured(got, want)
    assert error <= limit, f"{what}: relative error {error:.2e}, limit {limit:.0e}"


@pytest.mark.parametrize("size", slow_where(lambda size: size == (26, 38), SIZES), ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_parity(pair, size, batch):
    """In inference and with gradients, which take other paths."""
    ref, ours = pair
    h, w = size
    pixels, z = (
        torch.rand(batch, ours.config.channels, 8 * h, 8 * w) * 2 - 1,
        torch.randn(batch, 16, h, w),
    )
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


SMALL_ROWS = [(rows, s) for s in ((13, 9), (1, 1), (2, 3)) for rows in (1, 2, 3, 5, 16, 37, 1000)]


LARGE_ROWS = [pytest.param(rows, (26, 38), marks=pytest.mark.slow) for rows in (3, 37)]


@pytest.mark.slow
@pytest.mark.parametrize("rows, size", [*SMALL_ROWS, *LARGE_ROWS], ids=str)
def test_rows_equal_whole(small, rows, size):
    h, w = size
    pixels, z = torch.rand(2, 3, 8 * h, 8 * w) * 2 - 1, torch.randn(2, 16, h, w)
    with torch.no_grad():
        near(decode_rows(small, z, rows), small.decode(z), "pixels")
        for got, want, what in zip(
            moments_rows(small, pixels, rows),
            small.moments(pixels),
            ("mean", "logvar"),
            strict=True,
        ):
            near(got, want, what)


@pytest.mark.parametrize("rows", [4, 16])
def test_rows_against_the_reference(pair, rows):
    ref, ours = pair
    z, pixels = torch.randn(3, 16, 9, 14), torch.rand(2, ours.config.channels, 72, 112) * 2 - 1
    with torch.no_grad():
        want = ref.decode(z[:, :, None]).sample[:, :, 0]
        moments = ref.encode(pixels[:, :, None]).latent_dist
    near(decode_rows(ours, z, rows).clamp(-1, 1), want, "pixels")
    mean, logvar = moments_rows(ours, pixels, rows)
    near(mean, moments.mean[:, :, 0], "mean")
    near(logvar, moments.logvar[:, :, 0], "logvar")


@pytest.mark.parametrize("size", [(2, 2), (7, 5), (1, 9), (33, 200)], ids=str)
def test_fast_convolution(size):
    n, w = size
    conv = torch.nn.Conv2d(64, 80, 3)
    x = torch.randn(n + 2 + n % 2, w + 2 + w % 2, 64)
    with torch.no_grad():
        want = conv(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        got = winograd.convolve(x, winograd.transformed(conv.weight), conv.bias)
    near(got, want, "fast convolution", 2e-6)


def test_norm_in_pieces_and_in_place():
    x, gamma = (
        torch.randn(2, 24, 9, 7).contiguous(memory_format=torch.channels_last),
        torch.rand(24),
    )
    want = norm_silu(x, gamma)  # gradients are on: the plain form
    with torch.no_grad():
        near(norm_silu(x, gamma), want, "out of place", 1e-6)
        near(norm_silu(x.contiguous(), gamma), want, "rows of channels", 1e-6)
        near(norm_silu(x, gamma, out=x), want, "in place", 1e-6)


PEAK = """
import sys, torch
sys.path.insert(0, {root!r})
from bench import harness
from inkstone.kernels.configs import ResidualVAEConfig, VAEConfig
from inkstone.kernels.vae_strips import decode_rows, moments_rows
from inkstone.loaders.models.vae import build_vae
torch.set_num_threads(1)
with torch.no_grad():
    vae = build_vae({config}).to(memory_format=torch.channels_last)
    c, small = vae.config, 128 // vae.config.scale
    z = torch.randn(1, c.z, {side} // c.scale, {side} // c.scale)
    x = torch.rand(1, c.channels, {side}, {side}) if {encode} else z
    whole, strips = (vae.moments, moments_rows) if {encode} else (vae.decode, decode_rows)
    part = x[:, :, :128, :128] if {encode} else z[:, :, :small, :small]
    strips(vae, part, 8), whole(part)  # what libraries keep
    before = harness.resident()
    strips(vae, x, {rows}) if {rows} else whole(x)
    print(harness.peak() - before)
"""
# glibc raises the size from which freed memory goes back to the system up to 32 MB while a program
# runs; a fixed one lets the high-water mark show what is alive, not what the heap has kept.
FIXED_HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def peak(config: VAEConfig, side: int, rows: int, encode: bool = False) -> int:
    """Most bytes over what the process held before, of a run in strips or (0 rows) whole."""
    code = PEAK.format(root=str(ROOT), config=config, side=side, rows=rows, encode=encode)
    call, env = [sys.executable, "-c", code], {**os.environ, **FIXED_HEAP}
    return int(subprocess.run(call, check=True, stdout=subprocess.PIPE, env=env).stdout)


def needs_what_the_plan_says(
    config: VAEConfig, kind: type[Footprint], side: int = 768, rows: int = 16
) -> dict[int, int]:
    """Whole and in strips, so that the plan's ratio at full size can be believed. rows -> bytes."""
    footprint, encode = kind(config, side, side, 4), kind is EncodeFootprint
    planned = {rows: footprint.strips(rows), 0: footprint.whole()}
    peaks = {n: peak(config, side, n, encode) for n in planned}
    for n, size in peaks.items():
        line = f"{n or 'all'} rows: {size / 1e6:.1f} MB, planned {planned[n] / 1e6:.1f} MB"
        print(line)
        assert 0.8 * planned[n] < size < 1.25 * planned[n], line
    return peaks


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind, blocks", [(Footprint, 1), (EncodeFootprint, 2)])
def test_strips_need_less_memory(kind, blocks):
    peaks = needs_what_the_plan_says(VAEConfig(base=16, res_blocks=blocks), kind)
    assert peaks[16] < 0.35 * peaks[0], peaks


def test_plan():
    config = VAEConfig()
    rows, need, sentence = plan_rows(config, 1328, 1328, torch.float32, None)
    whole = plan_rows(config, 1328, 1328, torch.float32, None, device="cuda")
    assert (
        rows
        and need < whole[1]
        and f"strips of {rows} rows" in sentence
        and "1328x1328" in sentence
    )
    assert whole[0] is None and "whole" in whole[2]
    assert need < 0.2 * whole[1], f"{need / 1e6:.0f} MB of {whole[1] / 1e6:.0f} MB"
    less = plan_rows(config, 1328, 1328, torch.float32, int(0.9 * need))
    assert less[0] < rows and less[1] <= 0.9 * need
    assert plan_rows(VAEConfig(base=12), 256, 256, torch.float32, None)[0] is None
    assert plan_rows(config, 4096, 4096, torch.float32, 1)[0] == 1, "the least there is"


def test_batch_equals_singles(small):
    z, pixels = torch.randn(3, 16, 6, 7), torch.rand(3, 3, 48, 56)
    singles = torch.cat([decode_rows(small, item, 5) for item in z.split(1)])
    assert torch.equal(decode_rows(small, z, 5), singles)
    singles = torch.cat([moments_rows(small, item, 5)[0] for item in pixels.split(1)])
    assert torch.equal(moments_rows(small, pixels, 5)[0], singles)


def test_gradients_reach_every_parameter(small):
    mean, logvar = small.moments(torch.rand(1, 3, 16, 16))
    small.decode(mean + logvar).square().mean().backward()
    without = [name for name, p in small.named_parameters() if p.grad is None]
    small.zero_grad(set_to_none=True)
    assert not without, without


@pytest.mark.parametrize("rows", [None, 8])
def test_bfloat16(small, rows):
    half = VAE(small.config).to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    half.load_state_dict(small.state_dict())
    z, pixels = torch.randn(1, 16, 12, 9), torch.rand(1, 3, 96, 72) * 2 - 1
    with torch.no_grad():
        y = half.decode(z.bfloat16()) if rows is None else decode_rows(half, z.bfloat16(), rows)
        x = pixels.bfloat16()
        mean = (half.moments(x) if rows is None else moments_rows(half, x, rows))[0]
        assert y.dtype == mean.dtype == torch.bfloat16
        near(y, small.decode(z), "pixels in bfloat16", 0.03)
        near(mean, small.moments(pixels)[0], "mean in bfloat16", 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_meta_device(grad):
    with torch.device("meta"):
        vae = VAE(VAEConfig())
        z, pixels = torch.empty(1, 16, 26, 38), torch.empty(1, 3, 208, 304)
    with torch.set_grad_enabled(grad):
        assert vae.decode(z).shape == pixels.shape
        assert vae.moments(pixels)[0].shape == z.shape
        assert decode_rows(vae, z, 64).shape == pixels.shape
        assert moments_rows(vae, pixels, 64)[0].shape == z.shape
        half = vae.to(torch.bfloat16)
        assert decode_rows(half, z.bfloat16(), 64).dtype == torch.bfloat16


def test_refuses_empty_strips(small):
    with pytest.raises(InkstoneError, match="cannot run in strips of 0 rows"):
        decode_rows(small, torch.zeros(1, 16, 2, 2), 0)


def test_a_plan_is_said_once(small, caplog):
    """Scoring decodes hundreds of pictures of one size; another size is news."""
    zeros, cpu = torch.zeros(16), torch.device("cpu")
    vae = VAEModel(small, zeros, zeros + 1, torch.float32, cpu, Path("vae"))
    with caplog.at_level(logging.INFO):
        for side in (2, 2, 2, 3, 3):
            vae.decode(torch.zeros(1, 16, 1, side, 2))
    assert [r.getMessage()[:16] for r in caplog.records] == ["VAE decode 16x16", "VAE decode 16x24"]
    assert all("1 MB" in r.getMessage() for r in caplog.records), caplog.text
