"""Masks of boxes: cut out at the edges of the thing, the same every time; and the overlay."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.pipeline import box_masks
from inkstone.pipeline.box_masks import mask_of
from inkstone.pipeline.box_overlay import overlay
from inkstone.pipeline.find_boxes import FoundBox
from inkstone.pipeline.find_choices import GRABCUT, PLAIN
from inkstone.sampling.span import Span
from inkstone.training.grammar import COLOURS
from inkstone.training.render import shape_mask

from ..support.scenes import KINDS

needs_opencv = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="opencv-python-headless is not installed"
)


def scene(seed: int, texture: int, count: int = 2):
    """Shapes side by side: the picture [1,H,W,3], and (mask [H,W] bool, box) of each."""
    rng = np.random.default_rng(seed)
    width, height = (int(rng.integers(200, 420)) for _ in range(2))
    names = rng.permutation(list(COLOURS))

    def filled(name):
        return np.array(COLOURS[name], float) + rng.uniform(-texture, texture, (height, width, 1))

    picture, things = filled(names[0]), []
    for k in range(count):
        d = int(rng.integers(40, min(width // count, height) - 8))
        x = k * (width // count) + int(rng.integers(3, width // count - d - 3))
        y = int(rng.integers(3, height - d - 3))
        soft = np.zeros((height, width, 1))
        soft[y : y + d, x : x + d, 0] = shape_mask(str(rng.choice(KINDS)), d)
        picture = picture + soft * (filled(names[k + 1]) - picture)
        solid = soft[..., 0] >= 0.5
        rows, columns = solid.any(1).nonzero()[0], solid.any(0).nonzero()[0]
        exact = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        near = rng.uniform(-0.02, 0.02, 4) * d  # the model's boxes are not exact
        span = Span(*(float(v + e) for v, e in zip(exact, near, strict=True)))
        things.append((solid, FoundBox(f"thing {k}", span.within(width, height))))
    return torch.from_numpy(picture.clip(0, 255).round() / 255).float()[None], things


def iou(mask, truth) -> float:
    got = mask[0].numpy() > 0
    return (got & truth).sum() / (got | truth).sum()


@needs_opencv
@pytest.mark.parametrize("texture", [0, 20, 40])
def test_the_thing_is_cut_out_at_its_edges(texture):
    scores = []
    for seed in range(20):
        picture, things = scene(seed, texture)
        for truth, box in things:
            mask = mask_of(picture, [box], GRABCUT)
            assert mask.shape == (1, *picture.shape[1:3]) and mask.dtype == torch.float32
            assert set(mask.unique().tolist()) == {0, 1}
            scores.append(iou(mask, truth))
    assert min(scores) >= 0.95, sorted(scores)[:3]
    plain = iou(mask_of(picture, [box], PLAIN), truth)
    assert plain < 0.95 or scores[-1] >= plain


@needs_opencv
def test_several_boxes_are_one_mask():
    picture, things = scene(3, 20)
    boxes = [box for _, box in things]
    singles = [mask_of(picture, [box], GRABCUT) for box in boxes]
    both = mask_of(picture, boxes, GRABCUT)
    assert torch.equal(both, torch.maximum(*singles)) and not torch.equal(both, singles[0])
    assert torch.equal(both, mask_of(picture, boxes[::-1], GRABCUT))


@needs_opencv
def test_the_same_every_time():
    import cv2

    picture, things = scene(5, 40)
    boxes = [box for _, box in things]
    want, threads = mask_of(picture, boxes, GRABCUT), cv2.getNumThreads()
    try:
        for number in (1, 2, 4):
            cv2.setNumThreads(number)
            cv2.setRNGSeed(number)
            assert torch.equal(mask_of(picture, boxes, GRABCUT), want)
    finally:
        cv2.setNumThreads(threads)


@needs_opencv
def test_a_large_part_is_cut_at_a_smaller_size(monkeypatch):
    picture, things = scene(8, 0, count=1)
    truth, box = things[0]
    assert iou(mask_of(picture, [box], GRABCUT), truth) >= 0.95
    monkeypatch.setattr(box_masks, "_MOST_PIXELS", truth.sum() // 2)
    mask = mask_of(picture, [box], GRABCUT)
    assert iou(mask, truth) >= 0.95 and set(mask.unique().tolist()) == {0, 1}


@needs_opencv
@pytest.mark.parametrize(
    "span", [Span(0, 0, 60, 50), Span(20, 20, 23, 23), Span(59.5, 49.5, 60, 50)]
)
def test_where_nothing_is_cut_the_box_is_marked(span, caplog):
    with caplog.at_level(logging.WARNING):
        mask = mask_of(torch.full((1, 50, 60, 3), 0.5), [FoundBox("a cat", span)], GRABCUT)
    assert "its whole box is marked" in caplog.text and "a cat" in caplog.text
    assert torch.equal(mask, mask_of(torch.zeros(50, 60, 3), [FoundBox("", span)], PLAIN))


def test_whole_boxes():
    boxes = [FoundBox("a", Span(2.5, 3, 6.2, 7)), FoundBox("b", Span(0, 0, 1, 1))]
    mask = mask_of(torch.rand(1, 9, 8, 4), boxes, PLAIN)
    want = torch.zeros(1, 9, 8)
    want[:, 3:7, 2:7] = want[:, :1, :1] = 1
    assert torch.equal(mask, want)
    with pytest.raises(InkstoneError, match="expected one of grabcut, box"):
        mask_of(torch.rand(1, 9, 8, 3), boxes, "circle")


def test_without_opencv_boxes_are_marked_and_a_line_says_so(monkeypatch, caplog):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cv2" else real(name)
    )
    boxes = [FoundBox("a", Span(2, 3, 30, 27))]
    picture = torch.rand(1, 40, 50, 3)
    assert torch.equal(mask_of(picture, boxes, GRABCUT), mask_of(picture, boxes, PLAIN))
    assert caplog.text.count("pip install opencv-python-headless") == 1


@pytest.mark.parametrize("size", [(300, 200), (1, 1), (3, 90), (1000, 40)])
def test_the_overlay_shows_boxes_and_mask(size):
    width, height = size
    picture = torch.full((1, height, width, 3), 0.5)
    span = Span(width * 0.3, height * 0.4, width * 0.9, height * 0.95)
    boxes = [FoundBox("a red car", span), FoundBox("猫", span)]
    mask = mask_of(picture, boxes[:1], PLAIN)
    shown = overlay(picture, boxes, mask)
    assert shown.shape == picture.shape and 0 <= shown.min() and shown.max() <= 1
    assert not torch.equal(shown, picture) and torch.equal(picture, torch.full_like(picture, 0.5))
    if width == 300:
        inside = shown[0, 150, 180]
        assert inside[0] > 0.6 and inside[1] < 0.45, "the mask is tinted red"
        assert torch.allclose(shown[0, 5, 295], torch.full((3,), 128 / 255)), "the rest is not"
        assert shown[0, 150, 90:93].std() > 0.1, "there is an outline"
