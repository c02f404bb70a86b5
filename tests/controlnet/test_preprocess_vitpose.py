"""ViTPose of a file against transformers' own model, on random weights; the peaks of heat maps."""

from __future__ import annotations

import pytest
import torch

from inkstone.controlnet.preprocess import vitpose
from inkstone.controlnet.preprocess.kinds import preprocess
from inkstone.errors import InkstoneError

from ..support.locked import picture
from ..support.oracle import load_file, save_file


def saved_model(folder, simple):
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=[256, 192],
        patch_size=[16, 16],
        out_features=["stage2"],
    )
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=simple, num_labels=17)
    model = VitPoseForPoseEstimation(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.dim() > 1:
                x.copy_(torch.randn_like(x) * (1.5 / x[0].numel()) ** 0.5)
            elif "bias" in name:
                x.copy_(torch.rand_like(x) * 0.2)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("vitpose")
    saved_model(place, simple=True)
    return place


@pytest.mark.parametrize("simple", [True, False])
def test_heat_maps_are_transformers(simple, tmp_path):
    model = saved_model(tmp_path, simple)
    x = torch.randn(2, 3, 256, 192)
    with torch.no_grad():
        theirs = model(x).heatmaps
    ours = vitpose.forward(vitpose.load(str(tmp_path)), x)
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"ViTPose, simple head {simple}: largest difference {worst:.1e} of the largest value")
    assert ours.shape == (2, 17, 64, 48) and worst < 1e-5, worst


def test_peaks_lie_between_pixels():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    wanted = torch.tensor([[10.3 + i, 20.8 + 2 * i] for i in range(17)])
    maps = torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in wanted - 0.5])
    at, scores = vitpose.peaks(maps)
    worst = float((at - wanted).abs().max())
    assert worst < 0.01 and scores.min() > 0.9, (worst, scores.min())


def test_a_picture_goes_the_whole_way(folder):
    x = picture(61, 95)
    made = preprocess("pose", x, {"model": str(folder)})
    assert made.shape == (1, 95, 61, 3) and made.isfinite().all()


def test_files_that_are_something_else(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    plus = tensors | {"backbone.encoder.layer.0.mlp.experts.0.weight": torch.zeros(1)}
    save_file(plus, tmp_path / "plus.safetensors")
    hands = tensors | {"head.conv.bias": torch.zeros(21)}
    save_file(hands, tmp_path / "hands.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    less = {n: x for n, x in tensors.items() if "layernorm.bias" not in n}
    save_file(less, tmp_path / "less.safetensors")
    cases = {"plus": "experts", "hands": "21 points", "other": "1 tensors", "less": "lacks"}
    for name, words in cases.items():
        with pytest.raises(InkstoneError) as error:
            preprocess("pose", picture(9, 9), {"model": str(tmp_path / f"{name}.safetensors")})
        assert words in str(error.value), error.value
