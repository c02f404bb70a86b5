"""The loaded VAE of Qwen-Image-2.1 between pictures and latents: RGBA, strips, previews, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import ResidualVAEConfig, VAEConfig
from inkstone.kernels.vae import VAE
from inkstone.loaders.arch.family import QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.vae import VAEModel, build_vae
from inkstone.nodes.bridge.clip_vae import CoreVAE
from inkstone.sampling.preview import colours

from ..kernels.test_vae import fold
from ..kernels.test_vae_residual import reference
from ..support.oracle import fill, measured

CONFIG = ResidualVAEConfig(base=8, decoder_base=12, z=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair():
    """The reference, and our model of the same weights with statistics that are not 0 and 1."""
    torch.manual_seed(5)
    ref = fill(reference(CONFIG))
    network = build_vae(CONFIG)
    network.load_state_dict(fold(ref.state_dict()))
    network.eval().to(memory_format=torch.channels_last)
    mean, std = torch.randn(1, 64, 1, 1) * 0.1, torch.rand(1, 64, 1, 1) + 0.5
    return ref, VAEModel(
        network, mean, std, torch.float32, CPU, Path("new.safetensors"), family=QWEN_IMAGE_21
    )


@pytest.mark.parametrize("budget", [None, 1], ids=["as planned", "strips of one row"])
def test_pictures_to_latents_and_back_as_the_reference(pair, budget):
    """RGB gets an opaque alpha; RGBA goes in and out with straight alpha."""
    ref, vae = pair
    vae.budget, vae._encoded._results = budget, type(vae._encoded._results)()
    rgba = torch.rand(2, 48, 32, 4)
    opaque = torch.cat([rgba[..., :3], torch.ones(2, 48, 32, 1)], -1)
    for picture, whole in ((rgba, rgba), (rgba[..., :3], opaque)):
        with torch.no_grad():
            x = whole.permute(0, 3, 1, 2)[:, :, None] * 2 - 1
            want = ref.encode(x).latent_dist.mode()
        got = vae.encode(picture)
        assert got.shape == (2, 64, 1, 3, 2)
        error = measured(got, want)
        assert error <= 1e-5, f"latents: relative error {error:.1e}"
    with torch.no_grad():
        want = (ref.decode(got).sample[:, :, 0].permute(0, 2, 3, 1) + 1) / 2
    back = vae.decode(got)
    assert back.shape == (2, 48, 32, 4) and back.min() >= 0 and back.max() <= 1
    error = measured(back, want)
    assert error <= 1e-5, f"pictures: relative error {error:.1e}"


def test_grey_pictures_are_encoded_as_their_colours(pair):
    _, vae = pair
    grey = torch.rand(1, 16, 32, 1)
    assert torch.equal(vae.encode(grey), vae.encode(grey.repeat(1, 1, 1, 3)))


def test_previews_are_of_64_channels(pair):
    """The matrix knows the colours of the chart that it was fitted on better than their mean."""
    _, vae = pair
    factors = vae.preview_factors()
    assert factors.shape == (65, 3) and factors.isfinite().all()
    assert colours(torch.randn(64, 3, 5), factors).shape == (3, 5, 3)


def test_errors_name_this_vae_s_channels_and_scale(pair):
    _, vae = pair
    with pytest.raises(InkstoneError, match=r"expected \[batch, 64, 1, height/16, width/16\]"):
        vae.decode(torch.zeros(1, 7, 1, 4, 4))
    with pytest.raises(InkstoneError, match="multiples of 16 and 4 channels") as error:
        vae.encode(torch.zeros(1, 40, 32, 3))
    assert "32x40" in str(error.value)


def test_latents_of_the_other_family_are_refused_in_one_sentence(pair):
    _, newer = pair
    network = VAE(VAEConfig(base=8, res_blocks=1))
    zeros = torch.zeros(1, 16, 1, 1)
    first = VAEModel(network, zeros, zeros + 1, torch.float32, CPU, Path("old.safetensors"))
    for vae, z, other, own in (
        (newer, torch.zeros(1, 16, 1, 4, 4), QWEN_IMAGE.title, "64, 1, height/16"),
        (first, torch.zeros(1, 64, 1, 4, 4), QWEN_IMAGE_21.title, "16, 1, height/8"),
    ):
        with pytest.raises(InkstoneError, match=f"Load the VAE of {other}\\.$") as error:
            vae.decode(z)
        text = str(error.value)
        assert own in text and vae.path.name in text and f"{z.shape[1]} channels" in text, text


def test_as_core_s_vae(pair):
    """The bridge has this VAE's channels and scale, and crops to the step of its canvases."""
    _, vae = pair
    core = CoreVAE(vae)
    assert (core.latent_channels, core.output_channels, core.downscale_ratio) == (64, 4, 16)
    assert core.spacial_compression_decode() == 16
    z = core.encode(torch.rand(1, 50, 39, 3))
    assert z.shape == (1, 64, 2, 2), "core has no frames there"
    assert core.decode(z).shape == (1, 32, 32, 4)
    assert core.decode(z[:, :, None]).shape == (1, 1, 32, 32, 4)
