"""Files of the VAE of Qwen-Image-2.1: names, shapes, recognition, loading in every float type."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import ResidualVAEConfig
from inkstone.kernels.vae_residual import ResidualVAE
from inkstone.loaders.arch.expected_tensors import Layout
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.arch.identify import require
from inkstone.loaders.arch.key_maps_vae import residual_vae_table, vae_names
from inkstone.loaders.models.load import load_vae

from ..kernels.test_vae_residual import reference
from ..support.gguf_files import finish
from ..support.headers import VAE, facts, renamed
from ..support.oracle import fill, measured, save_file

PUBLISHED = ResidualVAEConfig()
TINY = ResidualVAEConfig(base=8, decoder_base=12, z=64)
TO_WAN = {ours: wan for wan, ours in residual_vae_table().items()}


def wan(shapes: Layout) -> Layout:
    """As the single file has them: 3x3 and 1x1 kernels with one temporal tap, but for the
    resampling and the attention."""
    plain = ("resample.1", "to_qkv", "proj")
    return renamed(
        {
            name: (*shape[:2], 1, *shape[2:])
            if len(shape) == 4 and "gamma" not in name and not any(p in name for p in plain)
            else shape
            for name, shape in shapes.items()
        },
        "",
        TO_WAN,
    )


@pytest.mark.parametrize(
    "config",
    [
        PUBLISHED,
        TINY,
        ResidualVAEConfig(base=8, decoder_base=16, mult=(1, 2, 2), z=4, temporal=(True, False)),
        ResidualVAEConfig(base=8, decoder_base=8, mult=(1, 1), res_blocks=1, temporal=(True,)),
    ],
)
def test_layout_is_the_reference(config: ResidualVAEConfig):
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in reference(config).state_dict().items()}
    assert vae_layout(config) == shapes


def test_published_counts():
    layout = vae_layout(PUBLISHED)
    assert (len(layout), sum(map(math.prod, layout.values()))) == (238, 337_740_404)
    time = [math.prod(shape) for name, shape in layout.items() if ".time_conv." in name]
    assert (len(time), sum(time)) == (12, 6_753_216)


def test_wan_names_map_one_to_one():
    wanted = vae_layout(PUBLISHED)
    for prefix in ("", "vae.", "first_stage_model."):
        names = vae_names(renamed(wanted, prefix, TO_WAN), 5, 2)
        assert names.layout == "wan" and names.prefix == prefix and not names.others
        assert len(names.table) == 226 and len(names.unused) == 12
    samples = {  # facts of the sheet, not of our table
        "encoder.conv1.weight": "encoder.conv_in.weight",
        "conv1.bias": "quant_conv.bias",
        "encoder.downsamples.1.downsamples.0.shortcut.weight": "encoder.down_blocks.1.resnets.0."
        "conv_shortcut.weight",
        "encoder.downsamples.3.downsamples.2.resample.1.weight": "encoder.down_blocks.3."
        "downsampler.resample.1.weight",
        "encoder.middle.2.residual.6.bias": "encoder.mid_block.resnets.1.conv2.bias",
        "decoder.upsamples.0.upsamples.0.residual.2.weight": "decoder.up_blocks.0.resnets.0."
        "conv1.weight",
        "decoder.upsamples.4.upsamples.2.residual.3.gamma": "decoder.up_blocks.4.resnets.2."
        "norm2.gamma",
        "decoder.upsamples.2.upsamples.3.resample.1.bias": "decoder.up_blocks.2.upsampler."
        "resample.1.bias",
        "decoder.head.2.weight": "decoder.conv_out.weight",
        "conv2.weight": "post_quant_conv.weight",
    }
    names = vae_names(renamed(wanted, "", TO_WAN), 5, 2)
    assert {ours: names.table[ours] for ours in samples.values()} == {
        ours: file for file, ours in samples.items()
    }


@pytest.mark.parametrize("config", [PUBLISHED, TINY], ids=["published", "tiny"])
def test_facts(config: ResidualVAEConfig):
    layout = vae_layout(config)
    still = {n: s for n, s in layout.items() if ".time_conv." not in n}
    files = {
        "diffusers": (layout, "diffusers"),
        "Wan, one temporal tap": (wan(layout), "wan"),
        "Wan without time_conv": (wan(still), "wan"),
        "with a prefix": (renamed(wan(layout), "first_stage_model."), "wan"),
    }
    for kind, (shapes, names) in files.items():
        info = facts(shapes)
        assert not info.problem, (kind, info.problem)
        assert (info.role, info.family, info.layout) == ("vae", "qwen-image-2.1", names), kind
        assert info.config == asdict(config), kind
        assert "RGBA" in info.sentence, info.sentence
        require(info, "vae")


def test_damage_is_named():
    layout = vae_layout(PUBLISHED)
    gone = "decoder.up_blocks.3.resnets.1.conv2.weight"
    assert gone in facts({n: s for n, s in layout.items() if n != gone}).problem
    odd = facts(wan(layout) | {TO_WAN[gone]: (288, 288, 1, 3, 5)})
    assert gone in odd.problem and "[288, 288, 3, 3]" in odd.problem, odd.problem
    assert (
        "decoder.up_blocks.4.extra" in facts(layout | {"decoder.up_blocks.4.extra": (1,)}).problem
    )


def test_video_vaes_are_refused_in_one_sentence():
    """Wan 2.2's names are the same: 48 channels, or kernels with three temporal taps."""
    three = {
        n: s[:2] + (3,) + s[3:] if len(s) == 5 else s for n, s in wan(vae_layout(TINY)).items()
    }
    for shapes in (wan(vae_layout(replace(TINY, z=48))), three):
        info = facts(shapes)
        with pytest.raises(InkstoneError, match="Wan 2.2 VAE") as error:
            require(info, "vae")
        assert info.family == "wan-2.2" and "64" in str(error.value), str(error.value)


def test_the_first_family_is_not_taken_for_it():
    assert facts(vae_layout(VAE)).family == "qwen-image"


@cache
def tiny() -> torch.nn.Module:
    torch.manual_seed(3)
    return fill(reference(TINY))


def state(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tiny().state_dict().items()}


def single_file(path: Path, dtype: torch.dtype) -> Path:
    """The tiny model as the single file has it; the time_convs are NaN, which nobody may read."""
    shapes, tensors = wan(vae_layout(TINY)), {}
    for ours, tensor in state(dtype).items():
        name = TO_WAN[ours]
        tensors[name] = tensor.reshape(shapes[name]).clone()
        if ".time_conv." in name:
            tensors[name] = torch.full_like(tensors[name].float(), math.nan).to(dtype)
    save_file(tensors, path)
    return path


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_files_load_in_every_float_type(tmp_path: Path, dtype: torch.dtype):
    vae = load_vae(single_file(tmp_path / "vae.safetensors", dtype))
    assert isinstance(vae.network, ResidualVAE) and vae.network.config == TINY
    for name, value in vae.network.state_dict().items():
        want = state(dtype)[name].float().reshape(value.shape)
        assert torch.equal(value, want), name


def test_a_folder_loads_and_decodes_as_the_reference(tmp_path: Path):
    tiny().save_pretrained(tmp_path / "vae")
    vae = load_vae(tmp_path)
    assert vae.mean.shape == vae.std.shape == (1, 64, 1, 1)
    assert vae.mean.abs().max() == 0 and vae.std.eq(1).all(), "statistics of its config.json"
    z = torch.randn(2, 64, 1, 2, 3)
    with torch.no_grad():
        want = (tiny().decode(z).sample[:, :, 0].permute(0, 2, 3, 1) + 1) / 2
    got = vae.decode(z)
    assert got.shape == (2, 32, 48, 4)
    error = measured(got, want)
    assert error <= 1e-5, f"relative error {error:.1e}"


def test_statistics_of_a_single_file_are_the_family_s(tmp_path: Path):
    vae = load_vae(single_file(tmp_path / "vae.safetensors", torch.bfloat16))
    assert vae.family.name == "qwen-image-2.1"
    mean, std = vae.mean.flatten(), vae.std.flatten()
    assert [round(v, 4) for v in mean[[0, 5, 63]].tolist()] == [0.5126, -2.1025, 0.0304]
    assert [round(v, 4) for v in std[[0, 5, 63]].tolist()] == [3.2001, 4.0379, 3.8161]
    assert len(mean) == len(std) == 64


def test_a_gguf_file_loads(tmp_path: Path):
    """2-D kernels in float16: the format has four axes at most."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "vae.gguf", "qwen_image_21_vae")
    for ours, tensor in state(torch.float16).items():
        folded = tensor.flatten() if ours.endswith("gamma") else tensor
        writer.add_tensor(TO_WAN[ours], folded.numpy())
    finish(writer)
    vae = load_vae(tmp_path / "vae.gguf")
    assert vae.network.config == TINY and vae.family.name == "qwen-image-2.1"
    for name, value in vae.network.state_dict().items():
        assert torch.equal(value, state(torch.float16)[name].float().reshape(value.shape)), name
