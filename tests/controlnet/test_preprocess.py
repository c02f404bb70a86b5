"""Control maps of the methods without weights: known edges found, size and place kept, refusals."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

from inkstone.controlnet.preprocess import canny as canny_file
from inkstone.controlnet.preprocess import kinds
from inkstone.controlnet.preprocess.kinds import KINDS, preprocess
from inkstone.errors import InkstoneError
from inkstone.sampling.pixel_lock import resized

from ..support.locked import drift, picture
from ..support.scenes import best_f, f_score, scene

SCENES = {"plain": [scene(seed, 320, 256) for seed in range(4)]}
SCENES["textured"] = [scene(seed, 320, 256, texture=25, apart=20) for seed in range(4)]


def bits(x):
    """One picture in bytes [H,W,3]."""
    return (x[0] * 255).round().byte()


def marked(x):
    """The edges [H,W] of a map [1,H,W,3]."""
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


# --- soft edge, lineart: how well they find known edges, and at which size of the picture


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, knobs, scenes, floor",
    [
        ("soft_edge", {"safe": False}, "plain", 0.97),
        ("soft_edge", {"safe": True}, "plain", 0.95),
        ("soft_edge", {"safe": False}, "textured", 0.95),
        ("lineart", {}, "plain", 0.97),
    ],
)
def test_soft_maps_find_the_edges_of_shapes(kind, knobs, scenes, floor):
    scores = [best_f(preprocess(kind, x, knobs)[0, ..., 0], e) for x, e in SCENES[scenes]]
    print(f"{kind} {knobs}, {scenes}: F {[round(s, 3) for s in scores]}")
    assert statistics.mean(scores) >= floor, scores


def test_coarse_strokes_lie_along_the_edges():
    """They are broad, on the darker side: not thinned, and 5 pixels off still count."""
    maps = [(preprocess("lineart", x, {"coarse": True}), e) for x, e in SCENES["plain"]]
    scores = [f_score(marked(m), e, within=5) for m, e in maps]
    print(f"lineart coarse: F {[round(s, 3) for s in scores]}")
    assert statistics.mean(scores) >= 0.97, scores


LINES = [(30, 40, 290, 60), (60, 220, 150, 90), (150, 90, 280, 230), (40, 150, 300, 140)]


@pytest.mark.parametrize("coarse", [False, True])
def test_lineart_copies_a_drawing(coarse):
    """Ink of two grey levels, three pixels wide, on paper with a shade across it."""
    from PIL import Image, ImageDraw

    ink = Image.new("L", (320, 256))
    for i, line in enumerate(LINES):
        ImageDraw.Draw(ink).line(line, fill=255 if i % 2 else 140, width=3)
    ink = torch.from_numpy(np.asarray(ink, np.float32) / 255)
    paper = torch.linspace(0.75, 1.0, 320)
    drawing = (paper - 0.6 * ink)[None, ..., None]
    made = preprocess("lineart", drawing, {"coarse": coarse})[0, ..., 0]
    score = f_score(made > 0.25, ink > 0, within=2)
    print(f"lineart of a drawing, coarse {coarse}: F {score:.3f}")
    assert score >= 0.95, score


@pytest.mark.parametrize(
    "kind, knobs, floor",
    [
        ("soft_edge", {"safe": False}, 0.9),
        ("lineart", {}, 0.9),
        ("lineart", {"coarse": True}, 0.7),
        ("depth", {}, 0.9),
    ],
)
def test_twice_the_picture_gives_the_same_map(kind, knobs, floor):
    x = scene(3, 160, 128)[0]
    big = resized(x, (320, 256))
    maps = [preprocess(kind, x, knobs), resized(preprocess(kind, big, knobs), (160, 128))]
    same = float(torch.corrcoef(torch.stack([m[..., 0].flatten() for m in maps]))[0, 1])
    print(f"{kind} {knobs}: correlation of scale 1 and 2 {same:.3f}")
    assert same >= floor


@pytest.mark.parametrize("size", [(331, 263), (263, 331), (256, 256), (401, 113)])
def test_no_drift(size, monkeypatch):
    """The way of a picture to the size that is looked at and back, by phase correlation: the map
    is the picture itself, since lines of another width make a correlation of their own.
    """
    monkeypatch.setattr(kinds, "_functions", lambda: {"canny": lambda x, **_: x})
    x = picture(*size)
    for resolution in (0, 100, 200, 300, 512):
        moved = drift(x[0], preprocess("canny", x, {"resolution": resolution})[0])
        print(f"{size} by way of {resolution}: moved by {moved:.4f} pixels")
        assert moved < (0.02 if resolution else 1e-6), (resolution, moved)


@pytest.mark.parametrize("resolution", [0, 60, 128])
@pytest.mark.parametrize("kind", ["canny", "soft_edge", "lineart"])
def test_an_edge_lies_where_the_picture_has_it(kind, resolution):
    """A square in the middle is mirrored onto itself, and so is its map: nothing leans."""
    x = torch.zeros(1, 97, 97, 3)
    x[:, 30:67, 30:67] = 0.8
    knobs = {"resolution": resolution} | ({"safe": False} if kind == "soft_edge" else {})
    made = preprocess(kind, x, knobs)[0, ..., 0]
    rows, columns = made.sum(1), made.sum(0)
    middle = [(v * torch.arange(97.0)).sum() / v.sum() for v in (rows, columns)]
    off = max(abs(float(m) - 48) for m in middle)
    assert off <= {"canny": 0.75, "soft_edge": 0.02, "lineart": 0.15}[kind], f"off by {off} pixels"


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
    "255": (("canny", torch.full((1, 8, 8, 3), 255.0), {}), "divide 8-bit values by 255"),
    "nan": (("canny", torch.full((1, 8, 8, 3), float("nan")), {}), "from 0 to 1"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_calls_are_refused(case):
    (kind, x, knobs), words = case
    with pytest.raises(InkstoneError, match=r"\w+") as error:
        preprocess(kind, torch.zeros(1, 8, 8, 3) if x is None else x, knobs)
    assert words in str(error.value), error.value
