"""Poses: the drawing point by point and against OpenCV's, keypoint JSON in and out, refusals."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

from inkstone.controlnet.preprocess.keypoints import (
    MISSING,
    Person,
    canvas_of,
    read_people,
    write_people,
)
from inkstone.controlnet.preprocess.kinds import preprocess
from inkstone.controlnet.preprocess.pose import COLOURS, LIMBS, draw_people
from inkstone.errors import InkstoneError

# a person who stands with arms and legs apart, in a picture of 500 x 600
JOINTS = (
    (250, 80),
    (250, 150),
    (190, 150),
    (140, 220),
    (100, 300),
    (310, 150),
    (360, 220),
    (400, 300),
    (215, 320),
    (200, 430),
    (190, 550),
    (285, 320),
    (300, 430),
    (310, 550),
    (238, 66),
    (262, 66),
    (220, 75),
    (280, 75),
)
SIZE = (500, 600)
STANDING = Person(tuple((float(x), float(y), 1.0) for x, y in JOINTS))


def at(drawn, x, y):
    """Colour in bytes."""
    return tuple(int(v) for v in (drawn[round(y), round(x)] * 255).round())


def json_of(*people, size=SIZE):
    return json.dumps(write_people([people], size))


def without(person, *missing):
    return Person(tuple(MISSING if i in missing else p for i, p in enumerate(person.body)))


def test_joints_and_limbs_have_their_colours():
    drawn = draw_people([STANDING], SIZE)
    for (x, y), colour in zip(JOINTS, COLOURS):
        assert at(drawn, x, y) == colour
    for (a, b), colour in zip(LIMBS[:12], COLOURS):  # those of the head are shorter than joints
        middle = [int((p + q) / 2) for p, q in zip(JOINTS[a], JOINTS[b])]
        assert at(drawn, *middle) == tuple(int(c * 0.6) for c in colour), (a, b)
    assert at(drawn, 20, 20) == (0, 0, 0)


def test_a_missing_joint_takes_its_limbs_away_and_nothing_else():
    whole, less = draw_people([STANDING], SIZE), draw_people([without(STANDING, 3)], SIZE)
    changed = (whole != less).any(-1).nonzero()
    (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
    assert left >= 96 and right <= 194 and top >= 146 and bottom <= 304, "the arm of joint 3"
    assert at(less, *JOINTS[3]) == (0, 0, 0) and at(less, *JOINTS[4]) == COLOURS[4]


@pytest.mark.parametrize("seed", range(4))
def test_the_drawing_is_opencvs(seed):
    """Drawn as the preprocessors that people know draw it, with OpenCV's own ellipses."""
    cv2 = pytest.importorskip("cv2")
    rng = random.Random(seed)
    body = [(rng.uniform(20, 480), rng.uniform(20, 580), 1.0) for _ in range(18)]
    person = without(Person(tuple(body)), rng.randrange(18), rng.randrange(18))
    theirs = np.zeros((600, 500, 3), np.uint8)
    for (a, b), colour in zip(LIMBS, COLOURS):
        p, q = person.body[a], person.body[b]
        if p[2] and q[2]:
            centre = int((p[0] + q[0]) / 2), int((p[1] + q[1]) / 2)
            half = int(math.hypot(p[0] - q[0], p[1] - q[1]) / 2), 4
            angle = int(math.degrees(math.atan2(p[1] - q[1], p[0] - q[0])))
            corners = cv2.ellipse2Poly(centre, half, angle, 0, 360, 1)
            cv2.fillConvexPoly(theirs, corners, [int(c * 0.6) for c in colour])
    for (x, y, c), colour in zip(person.body, COLOURS):
        if c:
            cv2.circle(theirs, (int(x), int(y)), 4, colour, -1)
    ours = (draw_people([person], SIZE) * 255).round().byte().numpy()
    wrong = (ours != theirs).any(-1).sum() / theirs.any(-1).sum()
    print(f"pose: {100 * wrong:.2f} % of the drawn pixels differ from OpenCV's")
    assert wrong < 0.03, wrong


def test_hands_and_faces():
    hand = tuple((100.0 + 8 * i, 200.0 + 5 * (i % 4), 1.0) for i in range(21))
    face = tuple((300.0 + 2 * i, 100.0, 1.0) for i in range(70))
    person = Person((MISSING,) * 18, face, hand)
    drawn = draw_people([person], SIZE)
    assert at(drawn, 100, 200) == (0, 0, 255) and at(drawn, 300, 100) == (255, 255, 255)
    x = torch.zeros(1, 600, 500, 3)
    knobs = {"keypoints": json_of(person)}
    assert torch.equal(preprocess("pose", x, knobs)[0], drawn)
    bare = preprocess("pose", x, knobs | {"detect_hand": False, "detect_face": False})
    assert bare.max() == 0


def test_json_goes_round():
    people = [STANDING, without(STANDING, 2, 17)]
    text = json_of(*people)
    assert read_people(text, SIZE) == [people]
    body = json.loads(text)[0]["people"][0]["pose_keypoints_2d"]
    assert len(body) == 54 and json.loads(text)[0]["people"][0]["face_keypoints_2d"] is None


def test_pixels_and_fractions_of_the_side_are_distinguished(tmp_path):
    doc = json.loads(json_of(STANDING))[0]
    flat = doc["people"][0]["pose_keypoints_2d"]
    parts = [v / (500, 600, 1)[i % 3] for i, v in enumerate(flat)]
    file = tmp_path / "pose.json"
    file.write_text(json.dumps({"people": [{"pose_keypoints_2d": parts}]}))
    plain = json.dumps({"people": [{"pose_keypoints_2d": flat}]})  # no canvas: these are pixels
    for source in (file.read_text(), plain, json.dumps(doc)):
        found = read_people(source, SIZE)[0][0].body
        worst = max(abs(a - b) for p, q in zip(found, STANDING.body) for a, b in zip(p, q))
        assert worst < 1e-9, worst
    twice = read_people(json.dumps(doc), (1000, 1200))[0][0].body
    assert twice[4] == (200.0, 600.0, 1.0), "a canvas of another size is scaled"


def test_other_orders_become_eighteen_points():
    b25 = [(10.0 * i, 5.0 * i, 1.0) for i in range(1, 26)]
    read = read_people(_doc(b25), SIZE)[0][0].body
    assert read[:8] == tuple(b25[:8]) and read[8:] == tuple(b25[9:19])
    coco = [(10.0 * i, 5.0 * i, 1.0) for i in range(1, 18)]
    read = read_people(_doc(coco), SIZE)[0][0].body
    assert read[0] == coco[0] and read[1] == (65.0, 32.5, 1.0), "nose; neck between shoulders"
    assert (read[2], read[5], read[14], read[17]) == (coco[6], coco[5], coco[2], coco[3])
    coco[5] = (60.0, 30.0, 0.2)
    assert read_people(_doc(coco), SIZE)[0][0].body[1] == MISSING


def _doc(points):
    return json.dumps({"people": [{"pose_keypoints_2d": [v for p in points for v in p]}]})


@pytest.mark.slow
def test_sticks_keep_their_width_at_every_size():
    """Drawn at 500 x 600 and at three times that: the same stick, not a magnified one."""
    for size, scale in (((500, 600), 1), ((1500, 1800), 3)):
        x = torch.zeros(1, size[1], size[0], 3)
        drawn = preprocess("pose", x, {"keypoints": json_of(STANDING)})[0]
        row = drawn[375 * scale].any(-1)  # below the hips: both thighs
        assert 16 <= int(row.sum()) <= 20, int(row.sum())
    wide = preprocess("pose", x, {"keypoints": json_of(STANDING), "scale_stick_for_xinsr_cn": True})
    assert int(wide[0, 375 * 3].any(-1).sum()) > 40


def test_batches():
    x = torch.zeros(2, 600, 500, 3)
    one = preprocess("pose", x, {"keypoints": json_of(STANDING)})
    assert torch.equal(one[0], one[1]) and one.shape == x.shape
    two = json.dumps(write_people([[STANDING], [without(STANDING, 3)]], SIZE))
    both = preprocess("pose", x, {"keypoints": two})
    assert torch.equal(both[0], one[0]) and not torch.equal(both[1], one[0])
    with pytest.raises(InkstoneError, match="2 pictures, 3 are connected"):
        preprocess("pose", x[:1].expand(3, -1, -1, -1), {"keypoints": two})


BAD = {
    "no file": ("nowhere.json", "nowhere.json"),
    "no JSON": ("{people", "not JSON"),
    "a number": ("[3]", "people"),
    "nothing": ("[]", "people"),
    "people is a word": ('{"people": "x"}', "people"),
    "short": ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "3 values"),
    "words": ('{"people": [{"pose_keypoints_2d": "abc"}]}', "'abc'"),
    "NaN": (_doc([(math.nan,) * 3] * 18), "numbers"),
    "far": (_doc([(1e30,) * 3] * 18), "numbers"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_keypoints_are_refused(case):
    with pytest.raises(InkstoneError) as error:
        preprocess("pose", torch.zeros(1, 8, 8, 3), {"keypoints": case[0]})
    assert case[1] in str(error.value), error.value


def test_a_picture_without_people_is_black():
    made = preprocess("pose", torch.zeros(1, 9, 7, 3), {"keypoints": '{"people": []}'})
    assert made.shape == (1, 9, 7, 3) and made.max() == 0


@pytest.mark.parametrize("text", ["/etc/passwd", "/dev/zero", "pose.json", "/nonexistent", "C:/x"])
def test_keypoints_are_never_a_path(text, tmp_path, monkeypatch):
    """One answer for files that are there and files that are not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pose.json").write_text(json_of(STANDING))
    with pytest.raises(InkstoneError) as caught:
        read_people(text, SIZE)
    assert str(caught.value).startswith(f"The keypoints {text!r} are not JSON")


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "1e999", "NaN", "9" * 5000])
def test_numbers_beyond_a_float(number):
    points = ", ".join([number, "1", "1"] * 18)
    with pytest.raises(InkstoneError):
        read_people(f'{{"people": [{{"pose_keypoints_2d": [{points}]}}]}}', SIZE)
    canvas = f'"canvas_width": {number}, "canvas_height": 5'
    with pytest.raises(InkstoneError):
        canvas_of(f'{{"people": [], {canvas}}}')
