"""The graph in the PNG of a draw of edit models, layers and controls of every kind: it draws the
same picture. Tiny models, random weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from inkstone.pipeline import edit

from ...support.draw_graphs import check, drawn, folders, kinds


@pytest.fixture
def files(place) -> Path:
    return folders(place)


@pytest.fixture
def model(files, tiny_folder):
    """A tiny model's folder in models/diffusers, by variant."""

    def get(kind: str) -> str:
        name = f"models/diffusers/{kind}"
        if not Path(name).exists():
            Path(name).symlink_to(tiny_folder(kind))
        return name

    return get


@pytest.fixture
def control(files, tiny_control):
    """A tiny control's file or folder in models/controlnet, by kind."""

    def get(name: str) -> str:
        made = Path(tiny_control(name))
        place = Path("models/controlnet") / made.name
        if not place.exists():
            place.symlink_to(made)
        return str(place)

    return get


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant, pictures, more",
    [
        ("edit", "a", ("--cfg", "3", "--negative", "blurry")),
        ("edit-2509", "a b c", ("--cfg", "3")),
        ("edit-2509", "a b c", ("--cfg", "1", "--size", "112x80", "--batch", "2")),
        ("edit-2511", "a b c", ("--cfg", "1", "--batch", "2")),
        ("edit-2511", "clear b", ("--cfg", "1", "--mask", "input/hole.png", "--strength", "0.9")),
    ],
)
def test_edits(variant, pictures, more, model):
    names = {"b": "sub/b"}
    images = [x for p in pictures.split() for x in ("--image", f"input/{names.get(p, p)}.png")]
    check(drawn("make it blue", "--model", model(variant), *images, *more))
    assert kinds("made_1.png" if "--batch" in more else "made.png").count("EncodeEdit") == 1


@pytest.mark.slow
@pytest.mark.parametrize("picture, batch", [("a", 1), ("clear", 2)])
def test_layers(picture, batch, model, monkeypatch):
    monkeypatch.setitem(edit.LAYER_AREAS, "640x640", 4096)
    made = drawn(
        "a thing",
        "--model",
        model("layered"),
        "--image",
        f"input/{picture}.png",
        "--layers",
        3,
        "--cfg",
        "2",
        "--batch",
        batch,
    )
    assert len(made) == 3 * batch
    check(made, 3)


CONTROLS = {  # kind of control -> the rest of the call
    "union": ("canny:input/c.png:0.8:0-0.5", "--size", "64x64"),
    "union on the canvas of its picture": ("soft_edge:input/a.png",),
    "union with a canvas of its own": ("map:input/c.png", "--size", "64x64", "--cfg", "3"),
    "union in a part": ("lineart:input/a.png", "--mask", "input/mask.png", "--batch", "2"),
    "union on a picture": ("depth:input/a.png", "--image", "input/a.png", "--strength", "0.8"),
    "union of a picture with alpha": ("lineart:input/clear.png",),
    "union of a pose": ("pose:input/a.png",),
    "union, two maps": ("canny:input/a.png:0.5", "--control", "depth:input/a.png:0.7:0.5-1"),
    "inpainting": ("map:input/a.png", "--image", "input/a.png", "--mask", "input/mask.png"),
    "blockwise canny": ("canny:input/a.png:0.9", "--cfg", "3"),
    "blockwise inpaint": ("map:input/a.png", "--image", "input/a.png", "--mask", "input/mask.png"),
    "fun": ("canny:input/a.png:0.8",),
    "fun, repainting": (
        "canny:input/a.png:0.8",
        "--image",
        "input/a.png",
        "--mask",
        "input/mask.png",
        "--strength",
        "1",
    ),
    "context": ("canny:input/a.png:0.7", "--cfg", "3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CONTROLS)
def test_controls(what, model, control):
    file = control(what.partition(" on ")[0].partition(",")[0].partition(" with")[0])
    call = ("a house", "--model", model("qwen-image"), "--variant", "qwen-image")
    made = drawn(*call, "--cfg", "1", "--control", *CONTROLS[what], "--control-model", file)
    check(made)
    found = kinds(next(iter(made)))
    assert found.count("ApplyControlNet") == 1 + ("two" in what)
    assert found.count("LoadControlNet") == 1


@pytest.mark.slow
def test_a_control_for_each(model, control):
    files = [x for kind in ("union", "blockwise canny") for x in ("--control-model", control(kind))]
    check(
        drawn(
            "a house",
            "--model",
            model("qwen-image"),
            "--cfg",
            "1",
            *files,
            "--control",
            "canny:input/a.png",
            "--control",
            "map:input/a.png:0.6",
        )
    )
    assert kinds("made.png").count("LoadControlNet") == 2
