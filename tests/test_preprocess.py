"""Control maps of the methods without weights: known edges found, size and place kept, refusals."""

from __future__ import annotations

import pytest
import torch

from inkstone.controlnet.preprocess import canny as canny_file
from inkstone.controlnet.preprocess.kinds import KINDS, preprocess
from inkstone.quant.errors import InkstoneError

from .locked import picture
from .scenes import f_score, scene

SCENES = {"plain": [scene(seed, 320, 256) for seed in range(4)]}
SCENES["textured"] = [scene(seed, 320, 256, texture=25) for seed in range(4)]


def bits(x):
    """One picture in bytes [H,W,3]."""
    return (x[0] * 255).round().byte()


def marked(x):
    """What of a map [1,H,W,3] is an edge [H,W]."""
    return x[0, ..., 0] > 0.5


# --- canny


def test_canny_finds_the_edges_of_shapes():
    scores = [f_score(marked(preprocess("canny", x)), e) for x, e in SCENES["plain"]]
    print(f"canny: F {[round(s, 3) for s in scores]}")
    assert min(scores) >= 0.97, scores


@pytest.mark.parametrize("size", [(320, 256), (63, 65), (41, 37), (7, 1), (1, 7), (2, 2), (1, 1)])
@pytest.mark.parametrize("thresholds", [(100, 200), (200, 100), (20, 50), (0, 0), (255, 255)])
def test_the_torch_form_is_opencvs_bit_by_bit(size, thresholds):
    cv2 = pytest.importorskip("cv2")
    x = picture(*size) if min(size) < 64 else scene(1, *size, texture=25)[0]
    ours = canny_file.edges(bits(x).movedim(-1, 0).short(), *sorted(thresholds))
    theirs = torch.from_numpy(cv2.Canny(bits(x).numpy(), *thresholds)).float() / 255
    wrong = int((ours != theirs).sum())
    assert wrong == 0, f"{wrong} of {ours.numel()} pixels differ"
    assert torch.equal(
        preprocess("canny", x, dict(zip(("low_threshold", "high_threshold"), thresholds)))[
            0, ..., 0
        ],
        ours,
    )


# --- every kind that draws from a picture alone

FROM_PICTURES = [name for name in KINDS if name != "pose"]
FLAT = {"black": 0.0, "grey": 0.5, "white": 1.0, "a third": 1 / 3}


@pytest.mark.parametrize("kind", FROM_PICTURES)
@pytest.mark.parametrize("value", FLAT.values(), ids=FLAT)
def test_a_flat_picture_gives_an_empty_map(kind, value):
    made = preprocess(kind, torch.full((1, 47, 61, 3), value))
    assert torch.equal(made, torch.zeros(1, 47, 61, 3)), made.max()


@pytest.mark.parametrize("kind", FROM_PICTURES)
@pytest.mark.parametrize("size", [(1, 1), (63, 65), (131, 67), (33, 200), (3, 2)])
def test_the_map_has_the_pictures_size(kind, size):
    for resolution in (0, 64, 96):
        made = preprocess(kind, picture(*size), {"resolution": resolution})
        assert made.shape == (1, size[1], size[0], 3) and made.dtype == torch.float32
        assert made.isfinite().all() and 0 <= made.min() and made.max() <= 1


@pytest.mark.parametrize("kind", FROM_PICTURES)
def test_a_batch_is_its_pictures(kind):
    x = torch.cat([scene(seed, 96, 80)[0] for seed in range(3)])
    assert torch.equal(
        preprocess(kind, x), torch.cat([preprocess(kind, x[i : i + 1]) for i in range(3)])
    )


@pytest.mark.parametrize("kind", FROM_PICTURES)
def test_channels(kind):
    x = scene(0, 96, 80)[0]
    clear = torch.cat([torch.zeros_like(x), torch.zeros_like(x[..., :1])], dim=-1)
    solid = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    grey = x.mean(-1, keepdim=True)
    assert preprocess(kind, clear).max() == 0, "transparent is white"
    assert torch.equal(preprocess(kind, solid), preprocess(kind, x))
    assert torch.equal(preprocess(kind, grey), preprocess(kind, grey.expand(-1, -1, -1, 3)))


BAD = {
    "kind": (("cany", None, {}), "canny"),
    "knob": (("canny", None, {"low": 3}), "low_threshold"),
    "type": (("canny", None, {"low_threshold": "x"}), "a whole number"),
    "bool": (("canny", None, {"low_threshold": True}), "a whole number"),
    "range": (("canny", None, {"low_threshold": 300}), "0 to 255"),
    "resolution": (("canny", None, {"resolution": 3}), "16 to 16384"),
    "two channels": (("canny", torch.zeros(1, 8, 8, 2), {}), "channels"),
    "no batch": (("canny", torch.zeros(8, 8, 3), {}), "shape [8, 8, 3]"),
    "bytes": (("canny", torch.zeros(1, 8, 8, 3, dtype=torch.uint8), {}), "floats"),
    "255": (("canny", torch.full((1, 8, 8, 3), 255.0), {}), "divided by 255"),
    "nan": (("canny", torch.full((1, 8, 8, 3), float("nan")), {}), "from 0 to 1"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_calls_are_told(case):
    (kind, x, knobs), words = case
    with pytest.raises(InkstoneError, match=r"\w+") as error:
        preprocess(kind, torch.zeros(1, 8, 8, 3) if x is None else x, knobs)
    assert words in str(error.value), error.value
