"""The pictures of the embedded model's training, and the reader that judges what it draws."""

import dataclasses

import numpy as np
import pytest

from inkstone.training import grammar, reader
from inkstone.training.grammar import Shape, Word, held_out, prompt, sample
from inkstone.training.render import render


def scenes(count, kind="scenes", split="test", seed=0):
    rng = np.random.default_rng(seed)
    return [sample(rng, kind, None, split) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scenes", "shapes", "strips"])
def test_reader_on_true_pictures(kind):
    many = scenes(400, kind, seed=5)
    rates = reader.score([render(s) for s in many], many)
    worst = min((v, k) for k, v in rates.items() if v == v)
    assert worst[0] >= 0.995, f"{worst[1]} is read right in {worst[0]:.4f} of true pictures"


@pytest.mark.slow
def test_reader_bears_noise():
    many = scenes(200, seed=6)
    rng = np.random.default_rng(1)
    noisy = [
        (render(s) + rng.normal(0, 10, (s.height, s.width, 3))).clip(0, 255).astype(np.uint8)
        for s in many
    ]
    rates = reader.score(noisy, many)
    assert rates["words"] >= 0.95 and rates["kind"] >= 0.95, rates


def changed(scene, kind):
    """The same scene with one thing wrong, and the verdict that must fall; None where it has no
    such item.
    """
    item = next(
        (i for i in scene.items if isinstance(i, Shape if kind in SHAPE_FAULTS else Word)), None
    )
    if item is None:
        return None
    key, new = FAULTS[kind](item, scene)
    items = tuple(dataclasses.replace(item, **new) if i is item else i for i in scene.items)
    return dataclasses.replace(scene, items=items), key


def other(value, options):
    return next(o for o in options if o != value)


def far_colour(item, scene):
    used = {scene.ground, item.colour, getattr(item, "plate", "")}
    return max(
        (c for c in grammar.COLOURS if c not in used),
        key=lambda c: abs(grammar.luminance(c) - grammar.luminance(scene.ground)),
    )


FAULTS = {
    "kind": lambda i, s: ("kind", {"kind": other(i.kind, grammar.KINDS)}),
    "colour": lambda i, s: ("colour", {"colour": far_colour(i, s)}),
    "place": lambda i, s: (
        "place",
        {"x": s.width - i.x if abs(s.width - 2 * i.x) > 20 else i.x + 14},
    ),
    "letter": lambda i, s: ("words", {"text": other(i.text[0], "XO") + i.text[1:]}),
    "word colour": lambda i, s: ("word_colour", {"colour": far_colour(i, s)}),
}
SHAPE_FAULTS = ("kind", "colour", "place")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
def test_reader_finds_faults(kind):
    caught, total = 0, 0
    for scene in scenes(150, seed=7):
        pair = changed(scene, kind)
        if pair is not None:
            total += 1
            caught += not reader.read(render(pair[0]), scene)[pair[1]]
    assert total > 30 and caught / total >= 0.98, f"{kind}: {caught} of {total} caught"


def test_blank_and_stray():
    scene = scenes(1, seed=8)[0]
    blank = np.empty((scene.height, scene.width, 3), np.uint8)
    blank[:] = grammar.COLOURS[scene.ground]
    assert not reader.read(blank, scene)["all"]
    shape = next(
        s for s in scenes(200, seed=9) if len(s.items) == 1 and isinstance(s.items[0], Shape)
    )
    picture = render(shape)
    assert reader.read(picture, shape)["all"]
    y, x = (
        (0, 0)
        if shape.items[0].place not in ("left", "top")
        else (shape.height - 30, shape.width - 30)
    )
    picture[y : y + 28, x : x + 28] = 255 - picture[y : y + 28, x : x + 28]
    assert not reader.read(picture, shape)["stray"]


def test_hold_out_is_strict():
    train, test = scenes(600, split="train"), scenes(600, split="test")
    assert not any(held_out(s) for s in train) and all(held_out(s) for s in test)
    assert not {prompt(s) for s in train} & {prompt(s) for s in test}
    assert {(s.width, s.height) for s in test} == set(grammar.CANVASES)


def test_the_soft_rim_of_a_sign_is_no_part_of_a_shape():
    plates = [(s, i) for s in scenes(300, seed=8) for i in s.items if getattr(i, "plate", "")]
    assert len(plates) > 20
    signs, soft = [scene for scene, _ in plates], []
    for scene, word in plates:
        picture = render(scene).astype(float)
        plate = np.array(grammar.COLOURS[word.plate])
        right = word.x + 16 * len(word.text)
        for rows in (slice(max(0, word.y - 2), word.y), slice(word.y + 32, word.y + 34)):
            picture[rows, word.x : right] = 0.5 * picture[rows, word.x : right] + 0.5 * plate
        soft.append(picture.round().astype(np.uint8))
    rates = reader.score(soft, signs)
    assert min(rates[k] for k in ("kind", "place", "size")) >= 0.995, rates
