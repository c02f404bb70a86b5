"""People found by the bundled networks: against TensorFlow Lite's own outputs, under scaling and
mirroring, on drawn figures with known joints, and on photographs where scikit-image is there.
"""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from inkstone.controlnet.preprocess import people, pose_net
from inkstone.controlnet.preprocess.filters import planes
from inkstone.controlnet.preprocess.kinds import keypoints_of, preprocess

from ..support.oracle import load_file

ORACLE = Path(__file__).resolve().parents[1] / "support" / "pose_net_oracle.safetensors"
SWAPPED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
NOSE, R_SHOULDER, L_SHOULDER, R_EYE, L_EYE = 0, 2, 5, 14, 15


def wave(side):
    """A picture that every machine makes alike [1,3,side,side] 0..1."""
    y, x = np.mgrid[:side, :side] / side
    made = [0.5 + 0.5 * np.sin((7 + 3 * c) * x + (11 - 2 * c) * y + c) for c in range(3)]
    return torch.from_numpy(np.stack(made)[None]).float()


@pytest.mark.parametrize("name, side", [("detect", 224), ("marks", 256)])
def test_the_networks_are_tensorflow_lites(name, side):
    """The oracle holds what ai-edge-litert 2.3.0 gives for the original files."""
    oracle = load_file(ORACLE)
    x = wave(side)
    net = pose_net.load(name, x.device)
    for i, ours in enumerate(pose_net.run(net, x * 2 - 1 if name == "detect" else x)):
        theirs = oracle[f"{name}.{i}"]
        worst = float((ours.flatten() - theirs.flatten()).abs().max() / theirs.abs().max())
        print(f"{name} output {i}: largest difference {worst:.1e} of the largest value")
        assert worst < 1e-4, worst


def test_a_batch_is_its_pictures():
    x = torch.cat([wave(256), wave(256).flip(3)])
    net = pose_net.load("marks", x.device)
    both, each = pose_net.run(net, x)[0], [pose_net.run(net, y)[0] for y in x.split(1)]
    worst = float((both - torch.cat(each)).abs().max())
    assert worst < 1e-2, worst


def test_overlapping_boxes_are_one_person():
    box = torch.tensor([10.0, 10, 50, 50, 30, 60, 30, 10, 0, 0, 0, 0])
    far = box + 100
    boxes = torch.stack([box, box + 1, far])
    scores = torch.tensor([[0.9, 0], [0, 0.7], [0.9, 0]])
    found = people.merge(boxes, scores)
    assert len(found) == 1, "the far one is seen one way only"
    assert torch.allclose(found[0], box + 0.7 / 1.6, atol=1e-5)


def test_cut_outs_turn_back():
    """A dot in the picture is where its place in the cut-out says."""
    x = torch.zeros(1, 3, 300, 400)
    x[..., 120:123, 200:203] = 1  # centre 201, 121
    for up in (0.0, 0.7, -2.0):
        place = people.Place(190.0, 130.0, 160.0, up)
        cut = people.crop(x, place)[0, 0]
        y0, x0 = divmod(int(cut.argmax()), 256)
        rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
        middle = torch.stack([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum()
        back = people.in_picture(middle + 0.5, place)
        worst = float((back - torch.tensor([201.0, 121.0])).abs().max())
        assert worst < 0.2, (up, worst, x0, y0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (97, 61)])
def test_pictures_without_people_are_black(size, caplog):
    x = torch.full((2, size[1], size[0], 3), 0.5)
    with caplog.at_level(logging.WARNING):
        made = preprocess("pose", x)
    assert made.shape == x.shape and made.max() == 0
    assert "no person was found in 2 of 2 pictures" in caplog.text


# --- photographs


def photo(name):
    """A photograph of scikit-image's wheel, [1,H,W,3]; nothing of it is imported."""
    import importlib.util

    found = importlib.util.find_spec("skimage")
    if found is None:
        pytest.skip("scikit-image, whose photographs these are, is not installed")
    file = Path(found.submodule_search_locations[0]) / "data" / name
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255)[None]


@functools.cache
def people_in(name):
    """Looked for once."""
    return people.find_people(photo(name))[0]


def body_in(name):
    assert len(people_in(name)) == 1, people_in(name)
    return np.array(people_in(name)[0].body)


def body_of(x):
    found = people.find_people(x)
    assert len(found) == 1 and len(found[0]) == 1, found
    return np.array(found[0][0].body)


def apart(a, b):
    """(mean, largest) distance in pixels of the points that both have."""
    both = (a[:, 2] > 0) & (b[:, 2] > 0)
    far = np.hypot(*(a - b)[both, :2].T)
    return far.mean(), far.max(), both.sum()


# by eye, in pixels
ASTRONAUT = {NOSE: (224, 120), R_EYE: (202, 102), L_EYE: (247, 102), R_SHOULDER: (85, 245)}


def test_the_astronaut_is_where_she_is():
    body = body_in("astronaut.png")
    for joint, (x, y) in ASTRONAUT.items():
        far = float(np.hypot(body[joint, 0] - x, body[joint, 1] - y))
        print(f"joint {joint}: {far:.1f} px from where it is by eye")
        assert far < 0.05 * 512, (joint, far)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut.png", "camera.png"])
def test_mirroring_mirrors(name):
    x = photo(name)
    turned = body_of(x.flip(2))[list(SWAPPED)]
    turned[:, 0] = x.shape[2] - 1 - turned[:, 0]
    mean, most, count = apart(body_in(name), turned)
    print(f"{name} mirrored: {mean:.2f} px on average, {most:.2f} at most, {count} points")
    assert count >= 8 and most < 0.03 * 512, (mean, most)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_the_size_of_the_picture_matters_little(scale):
    x = photo("astronaut.png")
    y = F.interpolate(planes(x), scale_factor=scale, mode="bilinear", antialias=True)
    body = body_of(y.movedim(1, -1))
    body[:, :2] = (body[:, :2] + 0.5) / scale - 0.5
    mean, most, count = apart(body_in("astronaut.png"), body)
    print(f"astronaut at {scale}: {mean:.1f} px of 512 on average, {most:.1f} at most")
    assert count >= 8 and mean < 0.03 * 512, (mean, most)


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "rocket.jpg"])
def test_nobody_is_detected_in_things_and_cats(name):
    assert people_in(name) == []


@pytest.mark.slow
def test_two_people_and_batches():
    x = photo("astronaut.png")
    two = torch.cat([x, x.flip(2)], 2)
    found = people.find_people(two)[0]
    noses = sorted(person.body[NOSE][0] for person in found)
    assert len(noses) == 2 and abs(noses[0] - 224) < 20 and abs(noses[1] - 799) < 20, noses
    batch = people.find_people(torch.cat([x, torch.zeros_like(x)]))
    assert batch[0] == people_in("astronaut.png") and batch[1] == []


def test_detected_keypoints_draw_the_same_map():
    x = photo("astronaut.png")
    doc = keypoints_of(x)
    again = preprocess("pose", torch.zeros_like(x), {"keypoints": json.dumps(doc)})
    assert torch.equal(again, preprocess("pose", x)) and again.max() == 1
