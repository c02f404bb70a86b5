"""Control maps by networks from the user's files: Depth-Anything V2 against transformers, HED
against a plain module, both on random weights; files that are something else.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inkstone.controlnet.preprocess import depth_anything, hed
from inkstone.controlnet.preprocess.kinds import preprocess
from inkstone.errors import InkstoneError

from ..support.locked import picture
from ..support.oracle import load_file, save_file

# --- HED


@pytest.fixture(scope="module")
def hed_file(tmp_path_factory):
    """A HED of random weights that keeps the size of its signals, under the published names."""
    torch.manual_seed(0)
    made = {}
    for name, shape in hed.shapes().items():
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 and name != "norm" else 0.1
        made[name] = torch.randn(shape) * scale
    made["norm"] = torch.tensor([122.7, 116.7, 104.0]).view(1, 3, 1, 1)
    file = tmp_path_factory.mktemp("hed") / "hed.safetensors"
    save_file(made, file)
    return file


class PlainHED(torch.nn.Module):
    """As published: blocks of convolutions, a projection of each, their mean."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.Parameter(torch.zeros(1, 3, 1, 1))
        before = 3
        for k, (n, c) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
            block = torch.nn.Module()
            sizes = [before] + [c] * (n - 1)
            block.convs = torch.nn.ModuleList(torch.nn.Conv2d(s, c, 3, 1, 1) for s in sizes)
            block.projection = torch.nn.Conv2d(c, 1, 1)
            setattr(self, f"block{k}", block)
            before = c

    def forward(self, x):
        y, sides = x - self.norm, []
        for k in range(1, 6):
            y = F.max_pool2d(y, 2, 2) if k > 1 else y
            block = getattr(self, f"block{k}")
            for conv in block.convs:
                y = conv(y).relu()
            sides.append(F.interpolate(block.projection(y), x.shape[2:], mode="bilinear"))
        return torch.stack(sides).mean(0).sigmoid()


def test_hed_is_the_published_network(hed_file):
    plain = PlainHED()
    plain.load_state_dict(load_file(hed_file))
    x = picture(61, 47)
    ours = hed.hed(x, str(hed_file))
    with torch.no_grad():
        theirs = plain((x * 255).round().movedim(-1, 1))[:, 0]
    worst = float((ours - theirs).abs().max())
    print(f"HED: largest difference {worst:.1e}")
    assert worst < 1e-5 and theirs.std() > 1e-3, (worst, theirs.std())
    made = preprocess("soft_edge", x, {"model": str(hed_file), "safe": False})
    assert (
        made.shape == (1, 47, 61, 3)
        and float((made[..., 0] - ours).abs().max()) <= 0.5 / 255 + 1e-6
    )
    safe = preprocess("soft_edge", x, {"model": str(hed_file)})
    assert set((safe * 255).round().unique().tolist()) <= {0, 128, 255}


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 16)])
def test_hed_takes_any_size(hed_file, size):
    made = preprocess("soft_edge", picture(*size), {"model": str(hed_file), "safe": False})
    assert made.shape == (1, size[1], size[0], 3) and made.isfinite().all()


# --- Depth-Anything V2


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory):
    """transformers' own model with random weights, and the folder that it saves."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=64,
        num_attention_heads=1,
        num_hidden_layers=12,
        image_size=70,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=64,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
        patch_size=14,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.dim() > 1:
                x.copy_(torch.randn_like(x) * (1.5 / x[0].numel()) ** 0.5)
            elif "bias" in name:
                x.copy_(torch.rand_like(x) * 0.2)
        model.head.conv3.weight.abs_()  # so that the last ReLU does not make all of it 0
    folder = tmp_path_factory.mktemp("depth")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("size", [(70, 70), (98, 56), (140, 182)])
def test_depth_is_transformers_depth(depth_model, size):
    model, folder = depth_model
    x = torch.randn(1, 3, size[1], size[0])
    with torch.no_grad():
        theirs = model(x).predicted_depth
    ours = depth_anything.forward(depth_anything.load(str(folder)), x)
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"Depth-Anything at {size}: largest difference {worst:.1e} of the largest depth")
    assert worst < 1e-5 and theirs.std() > 1e-3 * theirs.abs().max(), worst


def test_the_whole_way_is_the_processors(depth_model, monkeypatch):
    """From a picture to its map, with the picture processor's resizing, normalising and back."""
    from PIL import Image
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    model, folder = depth_model
    monkeypatch.setattr(depth_anything, "SIDE", 140)
    x = picture(331, 263)
    image = Image.fromarray((x[0] * 255).round().byte().numpy())
    processor = DPTImageProcessorPil(
        size={"height": 140, "width": 140},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    with torch.no_grad():
        theirs = model(**processor(image, return_tensors="pt")).predicted_depth
    theirs = F.interpolate(theirs[None], (263, 331), mode="bilinear")[0]
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min())
    ours = preprocess("depth", x, {"model": str(folder)})
    worst = float((ours[..., 0] - theirs).abs().max())
    print(f"depth map against the processor's: largest difference {worst:.4f} of 1")
    assert ours.shape == (1, 263, 331, 3) and worst < 0.03, worst
    file = folder / "model.safetensors"
    assert torch.equal(preprocess("depth", x, {"model": str(file)}), ours), "the file by itself"


def test_three_spellings_are_one_model(depth_model, tmp_path):
    model, folder = depth_model
    published = depth_anything.load(str(folder))
    save_file(model.state_dict(), tmp_path / "memory.safetensors")
    save_file(original(published), tmp_path / "original.safetensors")
    for name in ("memory", "original"):
        found = depth_anything.load(str(tmp_path / f"{name}.safetensors"))
        assert found.keys() == published.keys()
        assert all(torch.equal(found[n], published[n]) for n in published), name


def original(published):
    """As the authors' file has it."""
    out, prefix = {}, "backbone.encoder.layer"
    swaps = (
        ("backbone.embeddings.position_embeddings", "pretrained.pos_embed"),
        ("backbone.embeddings.patch_embeddings.projection", "pretrained.patch_embed.proj"),
        ("backbone.embeddings.", "pretrained."),
        ("backbone.layernorm", "pretrained.norm"),
        (prefix, "pretrained.blocks"),
        ("attention.output.dense", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("head.conv1", "depth_head.scratch.output_conv1"),
        ("head.conv2", "depth_head.scratch.output_conv2.0"),
        ("head.conv3", "depth_head.scratch.output_conv2.2"),
    )
    fuse = "depth_head.scratch.refinenet"
    for i in range(4):
        swaps += (
            (f"neck.reassemble_stage.layers.{i}.projection", f"depth_head.projects.{i}"),
            (f"neck.reassemble_stage.layers.{i}.resize", f"depth_head.resize_layers.{i}"),
            (f"neck.convs.{i}", f"depth_head.scratch.layer{i + 1}_rn"),
            (f"neck.fusion_stage.layers.{i}.projection", f"{fuse}{4 - i}.out_conv"),
            (f"neck.fusion_stage.layers.{i}.residual_layer", f"{fuse}{4 - i}.resConfUnit"),
        )
    for name, x in published.items():
        if ".attention.attention.query." in name:
            parts = [published[name.replace("query", n)] for n in ("query", "key", "value")]
            name, x = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        elif ".attention.attention." in name:
            continue
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        out[name.replace(".convolution", ".conv") if "resConf" in name else name] = x.contiguous()
    return out


# --- what is refused


def test_files_that_are_something_else(hed_file, depth_model, tmp_path):
    folder = depth_model[1]
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, other)
    less = load_file(hed_file)
    less["block3.convs.1.weight"] = torch.zeros(1, 1, 3, 3)
    del less["norm"]
    save_file(less, tmp_path / "less.safetensors")
    (tmp_path / "net.pth").write_bytes(b"x")
    cases = (
        ("soft_edge", other, "not a HED network"),
        ("soft_edge", tmp_path / "less.safetensors", "lacks norm (1 in all)"),
        ("soft_edge", folder / "model.safetensors", "not a HED network"),
        ("soft_edge", tmp_path / "none.safetensors", "no such file"),
        ("soft_edge", tmp_path / "net.pth", "only .safetensors"),
        ("depth", other, "it has 1 tensors, such as x"),
        ("depth", hed_file, "not a Depth-Anything V2"),
        ("depth", tmp_path, "Name one file"),
    )
    for kind, path, words in cases:
        with pytest.raises(InkstoneError) as error:
            preprocess(kind, picture(16, 16), {"model": str(path)})
        assert words in str(error.value), (path, str(error.value))


def test_a_metric_model_is_refused(depth_model, tmp_path):
    config = (depth_model[1] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"relative"', '"metric"'))
    with pytest.raises(InkstoneError, match="metric"):
        preprocess("depth", picture(16, 16), {"model": str(tmp_path)})
