"""The vision tower and pictures in the language model, against transformers and diffusers."""

from __future__ import annotations

import random

import pytest
import torch

from inkstone.kernels.configs import VisionConfig
from inkstone.kernels.vision import VisionTower, window_order
from inkstone.loaders.arch.expected_tensors import vision_layout
from inkstone.loaders.arch.family import EDIT, EDIT_PLUS
from inkstone.loaders.arch.vision_config import vision_config
from inkstone.loaders.models.image_processor import rgb_bytes, tower_pixels
from inkstone.sampling.vision_sizes import area_size, encoder_sizes, vision_patches, vision_size

from ..support.oracle import fill, measured, relative
from ..support.vision import CONFIGS, MOST, image, processor, their_vision

transformers = pytest.importorskip("transformers")
SIZES = (
    (33, 47),
    (47, 33),
    (1, 1),
    (7, 300),
    (300, 7),
    (61, 61),
    (113, 127),
    (224, 112),
    (225, 113),
    (251, 509),
    (509, 251),
    (337, 991),
    (401, 401),
    (449, 449),
    (113, 29),
    (29, 113),
    (167, 561),
    (673, 223),
    (57, 1009),
    (785, 113),
)


def towers(c: VisionConfig):
    """(transformers' tower, ours) with one set of random weights."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    torch.manual_seed(5)
    theirs = modeling.Qwen2_5_VisionTransformerPretrainedModel(
        Qwen2_5_VLVisionConfig(**their_vision(c))
    )
    ours = VisionTower(c)
    ours.load_state_dict(fill(theirs).state_dict())
    return theirs, ours.eval()


@pytest.fixture(scope="module")
def pairs():
    return {name: towers(c) for name, c in CONFIGS.items()}


def grid_of(width: int, height: int) -> tuple[int, int]:
    across, down = vision_size(width, height)
    return down // 14, across // 14


def run_theirs(tower, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Their input has both frames of a patch: (channel, frame, 14, 14)."""
    both = patches.view(-1, 3, 1, 196).expand(-1, -1, 2, -1).reshape(len(patches), -1)
    return tower(both.to(tower.dtype), grid_thw=torch.tensor([[1, *grid]])).pooler_output


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", CONFIGS)
def test_tower(pairs, name, size):
    theirs, ours = pairs[name]
    grid = grid_of(*size)
    patches = torch.randn(grid[0] * grid[1], 588)
    with torch.no_grad():
        want, got = run_theirs(theirs, patches, grid), ours(patches, grid)
    error = measured(got, want)
    assert error < 1e-5, f"relative error {error:.2e} on {grid[0]} x {grid[1]} patches"


@pytest.mark.parametrize("grid", [(22, 36), (10, 28)])
def test_tower_in_bf16(grid):
    """No further from float32 than the reference's own bf16."""
    theirs, ours = towers(CONFIGS["two full blocks"])
    patches = torch.randn(grid[0] * grid[1], 588)
    with torch.no_grad():
        exact = ours(patches, grid)
        want = run_theirs(theirs.bfloat16(), patches, grid)
        got = ours.bfloat16()(patches, grid)
    assert got.dtype == torch.bfloat16
    error, theirs_error = relative(got, exact), relative(want, exact)
    assert error < max(2e-2, 1.1 * theirs_error), f"{error:.2e}, reference {theirs_error:.2e}"


@pytest.mark.parametrize("rows, columns", [(1, 1), (4, 4), (5, 14), (11, 18), (37, 37), (3, 9)])
def test_windows_are_the_references(rows, columns):
    """The same sets of cells; in ours those of one size follow each other, in few groups."""
    from transformers.vision_utils import get_vision_window_index

    grid = torch.tensor([[1, 2 * rows, 2 * columns]])
    index, ends = get_vision_window_index(grid, 2, 112, 14)
    want = {tuple(index[a // 4 : b // 4].tolist()) for a, b in zip(ends, ends[1:])}
    order, groups = window_order(rows, columns, 4)
    lengths = [size for windows, size in groups for _ in range(windows)]
    got = {tuple(part.tolist()) for part in order.split(lengths)}
    assert got == want and len(lengths) == len(want) and len(groups) <= 4


def test_names_and_shapes_are_the_published():
    with torch.device("meta"):
        network = VisionTower()
    got = {f"visual.{name}": tuple(p.shape) for name, p in network.named_parameters()}
    assert got == vision_layout(VisionConfig())
    assert sum(p.numel() for p in network.parameters()) == 676_550_144
    out = network(torch.empty(22 * 36, 588, device="meta"), (22, 36))
    assert out.shape == (198, 3584)


def test_published_numbers_from_shapes_alone():
    """A single file tells neither heads nor windows."""
    assert vision_config(vision_layout(VisionConfig()), {}, "f") == VisionConfig()


# --- sizes and pixels


def test_sizes_are_the_references():
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = random.Random(3)
    for _ in range(3000):
        w, h = rng.randint(1, 5000), rng.randint(1, 5000)
        if max(w, h) / min(w, h) <= 200:
            height, width = smart_resize(h, w, max_pixels=MOST)
            assert vision_size(w, h) == (width, height), (w, h)
        for area in (384 * 384, 1024 * 1024):
            assert area_size(w, h, area) == calculate_dimensions(area, w / h), (w, h)
    assert encoder_sizes(1024, 1024, EDIT.area) == ((1024, 1024), (1036, 1036))
    assert encoder_sizes(4000, 3000, EDIT_PLUS.area)[0] == (448, 320)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(33, 47), (640, 360), (1, 1), (1031, 503)])
@pytest.mark.parametrize("edit", (EDIT, EDIT_PLUS), ids=lambda e: e.name)
def test_pixels_are_the_references(size, edit):
    from diffusers.image_processor import VaeImageProcessor

    theirs, ours = image(*size)
    copy = VaeImageProcessor(vae_scale_factor=16).resize(theirs, *area_size(*size, edit.area)[::-1])
    want = processor()(images=copy, return_tensors="pt")
    pixels = tower_pixels(rgb_bytes(ours), edit.area)
    assert [1, pixels.shape[1] // 14, pixels.shape[2] // 14] == want["image_grid_thw"][0].tolist()
    first = want["pixel_values"].view(-1, 3, 2, 196)[:, :, 0].flatten(1)
    worst = (vision_patches(pixels, 14, 2) - first).abs().max().item()
    assert worst < 1e-5, f"normalised pixels differ by {worst:g}"


def test_alpha_and_grey():
    _, rgb = image(40, 30)
    alpha = torch.rand(30, 40, 1).clamp(min=0.01)  # where it is 0 the colour under it is hidden
    assert torch.equal(rgb_bytes(torch.cat([rgb, alpha], 2)), rgb_bytes(rgb))
    clear = rgb_bytes(torch.cat([rgb, torch.zeros(30, 40, 1)], 2))
    assert (clear == 255).all(), "a colour that nobody sees reaches the model"
    grey = rgb[..., :1]
    assert torch.equal(rgb_bytes(grey), rgb_bytes(grey.expand(-1, -1, 3)))
    assert torch.equal(rgb_bytes(rgb[None]), rgb_bytes(rgb))
