"""Boxes in answers: mapped exactly, or left out with a reason, whatever the answer holds."""

from __future__ import annotations

import json
import math
import time
from fractions import Fraction

import numpy as np
import pytest

from inkstone.errors import InkstoneError
from inkstone.pipeline.find_boxes import read_boxes
from inkstone.sampling.span import Span
from inkstone.sampling.vision_sizes import answer_sizes

ANSWERS = 500
SIZES = [(1, 1), (1, 199), (57, 3), (333, 1777), (1328, 1328), (4001, 2999), (28, 28), (6000, 40)]
PROSE = (
    "Here are the boxes:\n",
    "",
    'The 5" pipe {is} "here": ',
    "当然：\n",
    "{}[]{{",
    "- [1,2,3,4] ",
)


def exact(span: Span, seen, size) -> list[Fraction]:
    """What a box in pixels of `seen` is in a picture of `size`, clipped to it."""
    out = []
    for k, value in enumerate(span):
        whole = Fraction(value) * size[k % 2] / seen[k % 2]
        out.append(min(max(whole, Fraction(0)), Fraction(size[k % 2])))
    return out


def random_boxes(rng, seen) -> list[Span]:
    """Boxes of one to eight, some of which hang over the rim by a little."""
    boxes = []
    for _ in range(int(rng.integers(1, 9))):
        w, h = (float(rng.uniform(0.05, 0.6) * side) for side in seen)
        x, y = float(rng.uniform(-w / 4, seen[0] - w)), float(rng.uniform(-h / 4, seen[1] - h))
        values = [x, y, x + w, y + h]
        if rng.random() < 0.6 and min(w, h) > 2:
            values = [round(v) for v in values]
        boxes.append(Span(*values))
    return list(dict.fromkeys(boxes))


def written(rng, boxes, numbers=None) -> list[str]:
    """Each as a JSON object, in any of the layouts that models write."""
    texts = []
    for n, box in enumerate(boxes):
        value = {"bbox_2d": list(numbers[n] if numbers else box), "label": f'thing "{n}" {{é}}'}
        if rng.random() < 0.3:
            value = dict(reversed(value.items()))
        texts.append(
            json.dumps(value, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
        )
    return texts


def joined(rng, texts: list[str]) -> str:
    """An answer: fences and prose around, or not."""
    answer = "[\n\t" + ",\n\t".join(texts) + "\n]"
    if rng.random() < 0.5:
        answer = f"```json\n{answer}\n```"
    return str(rng.choice(PROSE)) + answer + str(rng.choice(["", "\nThat is all. {", ' "so"']))


def same(box, span: Span, seen, size) -> bool:
    """Equal to the exact rational numbers but for the last bit of a float."""
    return all(
        abs(Fraction(got) - want) <= Fraction(max(1.0, abs(float(want)))) / 2**50
        for got, want in zip(box.span, exact(span, seen, size), strict=True)
    )


def make(rng, kind: str):
    """(answer, the boxes in it that are right, how many are left out) of a kind."""
    size = SIZES[int(rng.integers(len(SIZES)))]
    if max(size) / min(size) > 200:
        size = (size[0], size[0])
    seen = answer_sizes(*size, 1024 * 1024)[1]
    boxes = random_boxes(rng, seen)
    texts, out = written(rng, boxes), 0
    keep = list(boxes)
    if kind == "broken":
        k = int(rng.integers(len(texts)))
        texts[k] = texts[k].replace("]", "", 1)
        keep, out = boxes[:k] + boxes[k + 1 :], 1
    elif kind == "numbers":
        k = int(rng.integers(len(texts)))
        a, b, c, d = boxes[k]
        bad = [
            [a, b, math.nan, d],
            [a, b, math.inf, d],
            [c, d, a, b],
            [a, b, a, d],
            [a, b, c],
            [str(a), b, c, d],
            [-1e30, -1e30, 1e30, 1e30],
            [a + 9e6, b, c + 9e6, d],
            [True, b, c, d],
            [10**400, b, c, d],
            [[a, b], [c, d]],
            None,
            {"x": a},
            [-5e8, -5e8, 5e8, 5e8],
        ]
        texts[k] = json.dumps({"label": "x", "bbox_2d": bad[int(rng.integers(len(bad)))]})
        keep, out = boxes[:k] + boxes[k + 1 :], 1
    answer = joined(rng, texts)
    if kind == "cut":
        first = answer.index('"bbox_2d"')
        answer = answer[: int(rng.integers(first + 9, len(answer)))]
        out = None
    return answer, keep, out, seen, size


@pytest.mark.parametrize("kind", ["valid", "broken", "cut", "numbers"])
def test_answers_are_mapped_exactly_or_left_out(kind):
    for seed in range(ANSWERS // 4):
        answer, boxes, out, seen, size = make(np.random.default_rng([seed, len(kind)]), kind)
        found = read_boxes(answer, "thing", seen, size)
        if kind == "cut":  # those before the cut, and the one that it hits is said
            whole = sum(answer.count(f'"thing \\"{n}\\"') for n in range(len(boxes)))
            assert len(found.left_out) <= 1 and len(found.boxes) <= len(boxes)
            assert len(found.boxes) + len(found.left_out) >= min(whole, answer.count('"bbox_2d"'))
            assert len(found.boxes) >= answer.count('"bbox_2d"') - 1
            boxes = boxes[: len(found.boxes)]
        else:
            assert len(found.left_out) == out, (seed, answer, found)
        assert len(found.boxes) == len(boxes), (seed, answer)
        for box, span in zip(found.boxes, boxes, strict=True):
            assert same(box, span, seen, size), (seed, box, span)
            assert 0 <= box.span.left < box.span.right <= size[0]
            assert 0 <= box.span.top < box.span.bottom <= size[1]


def test_edges_of_the_copy_are_edges_of_the_picture():
    for width, height in SIZES[2:]:
        if max(width, height) > 200 * min(width, height):
            continue
        seen = answer_sizes(width, height, 1024 * 1024)[1]
        answer = json.dumps([{"bbox_2d": [0, 0, *seen]}])
        (box,) = read_boxes(answer, "all", seen, (width, height)).boxes
        assert box.span == (0, 0, width, height) and box.label == "all"
        assert box.span.touched() == (0, 0, width, height)


@pytest.mark.parametrize(
    "answer, span, label",
    [
        ("<ref>a cat</ref><box>(100,200),(500,1000)</box>", (20, 80, 100, 400), "a cat"),
        ("<|box_start|>(100, 200), (500, 1000)<|box_end|>", (20, 80, 100, 400), "cat"),
        ('<box>[{"bbox_2d": [10, 20, 50, 100]}]</box>', (10, 20, 50, 100), "cat"),
        ('{"bbox_2d": [10, 20, 50, 100], "label": 7}', (10, 20, 50, 100), "cat"),
        ('{"bbox_2d": [10, 20, 50, 100], "label": " a\\n\\u0007 b "}', (10, 20, 50, 100), "a b"),
        ('{"objects": [{"bbox_2d": [10, 20, 50, 100]}]}', (10, 20, 50, 100), "cat"),
    ],
)
def test_forms(answer, span, label):
    (box,) = read_boxes(answer, "cat", (200, 400), (200, 400)).boxes
    assert box.span == span and box.label == label


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "There is no cat.",
        "[]",
        "[10, 20, 50, 100]",
        "(10,20),(50,100)",
        "{}",
        "null",
        '{"bbox": [10, 20, 50, 100]}',
        '{"box_2d": [10, 20, 50, 100]}',
        '"bbox_2d": [10, 20, 50, 100]',
        "<box>10 20 50 100</box>",
        "{'bbox_2d': [10, 20, 50, 100]}",
        '{"label": "bbox_2d"}',
        '{"point_2d": [10, 20], "label": "cat"}',
        "bbox_2d " * 9,
    ],
)
def test_what_is_no_box_is_none(answer):
    assert read_boxes(answer, "cat", (200, 400), (200, 400)).boxes == ()


def test_why_a_box_is_left_out():
    texts = [
        '{"bbox_2d": [1, 2, 3, 4]}',
        '{"bbox_2d": [1, 2, 3, 4]}',
        '{"bbox_2d": [3, 2, 1, 4]}',
        '{"bbox_2d": [90, 2, 190, 4]}',
        '{"bbox_2d": [1, 2, "3", 4]}',
        '{"bbox_2d": 5}',
        '{"bbox_2d": [5',
    ]
    found = read_boxes(",".join(texts), "cat", (100, 100), (100, 100))
    assert [box.span for box in found.boxes] == [(1, 2, 3, 4)]
    words = ["repeats", "no area", "outside the picture", "no number", "four numbers", "cut off"]
    assert len(found.left_out) == len(words)
    for number, (line, word) in enumerate(zip(found.left_out, words, strict=True), 2):
        assert line.startswith(f"box {number}: ") and word in line


HOSTILE = {
    "lists": "[" * 10**6,
    "objects": '{"a":' * 200_000,
    "named": '{"bbox_2d":' * 90_000,
    "deep": '{"bbox_2d":' + "[" * 10**6,
    "quotes": '{"' * 500_000,
    "escapes": '{"\\"' * 250_000,
    "spaces": "{" + " " * 10**6 + '"',
    "many spaces": ("{" + " " * 98) * 10_000,
    "digits": '{"bbox_2d": [' + "9" * 10**6 + ", 1, 2, 3]}",
    "a long label": '{"label": "' + "x" * 10**6 + '", "bbox_2d": [1, 2, 3, 4]}',
    "tags": "<box>" * 200_000,
    "points": "<box>" + "(1,1)," * 150_000,
    "boxes": '{"bbox_2d": [1, 2, 3, 4]},' * 40_000,
    "letters": "\x00\ud800é" * 300_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_end_soon(name):
    start = time.process_time()
    try:
        assert read_boxes(HOSTILE[name], "x", (100, 100), (100, 100)).boxes == ()
    except InkstoneError as error:
        assert "more than" in str(error)
    assert time.process_time() - start < 2
