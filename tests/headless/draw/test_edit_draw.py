"""`inkstone draw` with pictures: every kind of file, sizes, masks, what the PNG says, bad calls."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.files.images import read_picture
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.draw.image_traits import mask_channel
from inkstone.host.headless import HeadlessHost, using

from ...support.locked import picture

QUICK = ("--steps", "2", "--quiet")
PROMPT = "a red circle on a white background"


def pixels(width=53, height=41, channels=3, seed=0) -> np.ndarray:
    x = picture(width, height, channels, seed)[0].numpy()
    return (x * 255).round().astype(np.uint8).squeeze()


def save(name: str, array: np.ndarray, **options) -> str:
    Image.fromarray(array).save(name, **options)
    return name


def mask_file(name="mask.png", width=53, height=41) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 15:40] = 255
    save(name, mask)
    return mask


def draw(*arguments: object, status: int = 0) -> None:
    assert main(["draw", *map(str, arguments), *QUICK]) == status


def read_mask(path) -> torch.Tensor:
    """A mask file as a draw reads it: Load Image (as Mask), by the channel chosen for it."""
    (mask,) = CORE_NODES["LoadImageMask"].execute(str(path), mask_channel(path)).args
    return mask


def load(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


# --- files


def test_every_kind_of_file_is_read_right(place):
    rgb = pixels()
    grey16 = (np.linspace(0, 65535, 53 * 41).reshape(41, 53)).astype(np.uint16)
    palette = Image.fromarray(rgb).quantize(16)
    palette.save("palette.png")
    palette.save("clear.png", transparency=0)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(rgb).save("turned.png", exif=turned)
    clear = palette.convert("RGB")
    cases = {
        save("rgb.png", rgb): rgb / 255,
        save("grey.png", rgb[..., 0]): np.repeat(rgb[..., :1], 3, 2) / 255,
        save("grey16.png", grey16): np.repeat(grey16[..., None], 3, 2) / 65535,
        save("grey16.tif", grey16): np.repeat(grey16[..., None], 3, 2) / 65535,
        save("bits.png", rgb[..., 0] > 127): np.repeat(rgb[..., :1] > 127, 3, 2),
        save("opaque.png", np.dstack([rgb, np.full_like(rgb[..., 0], 255)])): rgb / 255,
        save("alpha.png", pixels(channels=4)): pixels(channels=4) / 255,
        "palette.png": np.asarray(clear) / 255,
        "turned.png": np.rot90(rgb, -1) / 255,
    }
    for name, wanted in cases.items():
        got = read_picture(place / name)[0].numpy()
        assert got.shape == wanted.shape and got.dtype == np.float32, name
        assert np.abs(got - wanted).max() < 1e-6, name
    assert read_picture(place / "clear.png").shape == (1, 41, 53, 4)


def test_load_image_reads_sixteen_bits(place):
    """Pillow clips 16-bit grey to white on its way to RGB."""
    (place / "input").mkdir()
    save("input/grey16.png", np.full((4, 6), 0x8000, np.uint16))
    with using(HeadlessHost(input=place / "input")):
        image, mask = CORE_NODES["LoadImage"].execute("grey16.png").args
        alpha = CORE_NODES["LoadImageMask"].execute("grey16.png", "alpha")[0]
        red = CORE_NODES["LoadImageMask"].execute("grey16.png", "red")[0]
    assert (image - 0x8000 / 65535).abs().max() < 1e-6 and torch.equal(red, image[..., 0])
    assert mask.shape == alpha.shape == (1, 64, 64) and mask.max() == alpha.max() == 0


def test_masks_are_white_or_transparent(place, caplog):
    mask = mask_file()
    assert torch.equal(read_mask(place / "mask.png")[0] == 1, torch.from_numpy(mask) == 255)
    save("hole.png", np.dstack([pixels(), 255 - mask]))
    assert torch.equal(read_mask(place / "hole.png"), read_mask(place / "mask.png"))
    save("mask16.png", mask.astype(np.uint16) * 257)
    assert torch.equal(read_mask(place / "mask16.png"), read_mask(place / "mask.png"))
    colour = read_mask(place / save("colour.png", np.dstack([mask, mask, mask])))
    assert (colour - read_mask(place / "mask.png")).abs().max() < 1e-6


# --- draws


@pytest.mark.slow
def test_image_to_image(place):
    data = pixels()
    draw(PROMPT, "--image", save("a.png", data), "--strength", "0.6", "-o", "out.png")
    made, said = load("out.png"), json.loads(read_text_chunks("out.png")["inkstone"])
    assert made.shape == data.shape and said["size"] == "64x48" and said["strength"] == 0.6
    digest = hashlib.sha256((place / "a.png").read_bytes()).hexdigest()
    assert said["pictures"] == [{"name": "a.png", "hash": f"sha256:{digest}"}]
    draw(PROMPT, "--image", "a.png", "--strength", "1", "-o", "all.png")
    draw(PROMPT, "--image", "a.png", "--strength", "0.5", "-o", "half.png")
    far, near = (np.abs(load(n).astype(int) - data).mean() for n in ("all.png", "half.png"))
    assert near < far, "a lower strength keeps more of the picture"


def test_the_embedded_model_edits(place):
    """Without strength and mask: the picture is what the request changes, in its exact size."""
    data = pixels()
    draw("make the background red", "--image", save("a.png", data), "-o", "out.png")
    said = json.loads(read_text_chunks("out.png")["inkstone"])
    assert load("out.png").shape == data.shape and said["cfg"] == 1.0
    draw("make the background blue", "--image", "a.png", "-o", "other.png")
    assert not np.array_equal(load("out.png"), load("other.png"))


@pytest.mark.slow
def test_an_edit_on_a_canvas_of_its_own(place, tiny_folder):
    """A canvas of this size, while the reference keeps its own; its alpha has no place there."""
    save("a.png", pixels(channels=4))
    draw("make it red", "--image", "a.png", "--size", "64x96", "--batch", "2", "-o", "out.png")
    for name in ("out_1.png", "out_2.png"):
        said = json.loads(read_text_chunks(name)["inkstone"])
        assert load(name).shape == (96, 64, 3) and said["size"] == "64x96"
    three = [word for name in ("a.png", "a.png", "a.png") for word in ("--image", name)]
    model = ("--model", tiny_folder("edit-2509"), "--cfg", "1")
    draw("make it red", *three, *model, "--size", "80x48", "-o", "three.png")
    assert load("three.png").shape == (48, 80, 3)


@pytest.mark.parametrize(
    "kind, words",
    [("qwen-image", "starts from the picture"), ("layered", "takes the picture apart")],
)
def test_what_keeps_the_size_of_its_picture_takes_no_other(kind, words, files, tiny_folder, fails):
    call = ("draw", PROMPT, "--model", str(tiny_folder(kind)), "--image", str(files / "a.png"))
    fails((*call, "--size", "64x64"), ("--size and --image", words, "Leave --size"), status=2)


def test_inpaint_keeps_what_is_not_masked(place):
    data, mask = pixels(channels=4), mask_file()
    save("a.png", data)
    draw(PROMPT, "--image", "a.png", "--mask", "mask.png", "-o", "out.png", "--batch", "2")
    for name in ("out_1.png", "out_2.png"):
        made = load(name)
        assert made.shape == data.shape and np.array_equal(made[mask == 0], data[mask == 0])
        assert np.array_equal(made[..., 3], data[..., 3]), "alpha is kept"
        assert not np.array_equal(made[mask > 0], data[mask > 0])
        said = json.loads(read_text_chunks(name)["inkstone"])
        assert said["mask"]["name"] == "mask.png" and said["mask"]["hash"].startswith("sha256:")
    assert not np.array_equal(load("out_1.png"), load("out_2.png"))


def test_inpaint_of_a_large_picture_draws_a_part(place, caplog):
    data, mask = pixels(420, 300), np.zeros((300, 420), np.uint8)
    mask[200:220, 300:320] = 255
    save("mask.png", mask)
    caplog.set_level("INFO")
    draw(PROMPT, "--image", save("a.png", data), "--mask", "mask.png", "-o", "out.png")
    assert "around the mask is drawn at" in caplog.text
    made = load("out.png")
    assert made.shape == data.shape and np.array_equal(made[mask == 0], data[mask == 0])


@pytest.mark.slow
def test_edit_with_three_pictures(place, tiny_folder):
    names = [save(f"{n}.png", pixels(33 + n, 47, seed=n)) for n in range(3)]
    images = [part for name in names for part in ("--image", name)]
    call = ("make it blue", "--model", tiny_folder("edit-2511"), "--cfg", "1")
    draw(*call, *images, "-o", "out.png")
    assert load("out.png").shape == (47, 33, 3)
    said = json.loads(read_text_chunks("out.png")["inkstone"])
    assert [p["name"] for p in said["pictures"]] == names and "strength" not in said
    mask = mask_file(width=33, height=47)
    draw(*call, *images, "--mask", "mask.png", "-o", "part.png")
    made, data = load("part.png"), load(names[0])
    assert np.array_equal(made[mask == 0], data[mask == 0])


def test_layers(place, tiny_folder, monkeypatch):
    from inkstone.pipeline.edit_choices import LAYER_AREAS

    monkeypatch.setitem(LAYER_AREAS, "640x640", 4096)
    save("a.png", pixels(40, 33, 4))
    call = ("a thing", "--model", tiny_folder("layered"), "--image", "a.png", "--layers", "2")
    draw(*call, "--cfg", "1", "-o", "out.png")
    assert sorted(p.name for p in place.glob("out*")) == ["out_1.png", "out_2.png"]
    assert load("out_1.png").shape == load("out_2.png").shape == (33, 40, 4)


def test_the_plan_counts_the_pictures(place, tiny_folder, capsys):
    call = ["draw", "x", "--model", str(tiny_folder("edit-2509")), "--plan", "--json"]
    save("a.png", pixels(320, 256))
    for extra in ([], ["--image", "a.png"], ["--image", "a.png"] * 3):
        size = [] if extra else ["--size", "320x256"]
        assert main([*call, *extra, *size]) == 0
    one, two, four = (json.loads(part + "}") for part in capsys.readouterr().out.split("}\n")[:3])
    assert one["activations"] < two["activations"] < four["activations"]


def test_a_file_that_does_not_say_what_it_is(place, tiny_folder, fails, tmp_path):
    folder = shutil.copytree(tiny_folder("edit-2509"), tmp_path / "silent")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "SomePipeline"}))
    picture_file = tmp_path / "a.png"
    save(str(picture_file), pixels(32, 32))
    call = ("draw", "x", "--model", folder, "--image", picture_file, *QUICK, "-o")
    fails((*call, "no.png"), ("does not say which variant it is", "Add --variant qwen-image"))
    assert main([*map(str, call), "yes.png", "--variant", "edit-2509", "--cfg", "1"]) == 0
    assert load("yes.png").shape == (32, 32, 3)
    assert json.loads(read_text_chunks("yes.png")["inkstone"])["variant"] == "edit-2509"


# --- bad calls


@pytest.fixture
def files(tmp_path):
    """Pictures outside of the folder that the command runs in."""
    save(str(tmp_path / "a.png"), pixels())
    mask_file(str(tmp_path / "mask.png"))
    save(str(tmp_path / "zeros.png"), np.zeros((41, 53), np.uint8))
    save(str(tmp_path / "long.png"), np.zeros((10, 20000, 3), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:400])
    return tmp_path


def named(files, *options: str) -> tuple:
    """Arguments in which "@x" is a file of the fixture."""
    return tuple(str(files / o[1:]) if o.startswith("@") else o for o in options)


BAD_CALLS = {
    "mask alone": (("--mask", "@mask.png"), ("--mask works on a picture", "--image F")),
    "strength alone": (("--strength", "0.5"), ("--strength works on a picture", "--image F")),
    "layers alone": (("--layers", "3"), ("--layers works on a picture",)),
    "no such picture": (("--image", "no.png"), ("--image no.png", "Check the path")),
    "a folder": (("--image", "@"), ("no such picture file",)),
    "no such mask": (("--image", "@a.png", "--mask", "no.png"), ("--mask no.png",)),
    "size and mask": (
        ("--image", "@a.png", "--size", "64x64", "--mask", "@mask.png"),
        ("--size and --mask do not go together", "Leave --size"),
    ),
    "size and strength": (
        ("--image", "@a.png", "--size", "64x64", "--strength", "1"),
        ("--size and --strength do not go together", "Leave --size"),
    ),
    "size and layers": (
        ("--image", "@a.png", "--size", "64x64", "--layers", "2"),
        ("--size and --layers do not go together", "Leave --size"),
    ),
    "strength 0": (("--image", "@a.png", "--strength", "0"), ("--strength", "0.001 to 1")),
    "strength 2": (("--image", "@a.png", "--strength", "2"), ("--strength", "'2'")),
    "variant": (("--image", "@a.png", "--variant", "edit-2510"), ("--variant", "edit-2509")),
    "two pictures": (
        ("--image", "@a.png", "--image", "@a.png", "--strength", "0.5"),
        ("starts from one", "Edit"),
    ),
    "layers of one": (("--image", "@a.png", "--layers", "2"), ("Qwen-Image-Layered",)),
}
BAD_FILES = {
    "two to edit": (("--image", "@a.png", "--image", "@a.png"), ("take 1 picture, got 2",)),
    "no picture": (("--image", "@text.png"), ("cannot be read as a picture", "PNG or JPEG")),
    "cut off": (("--image", "@cut.png"), ("cut.png cannot be read as a picture",)),
    "mask is no picture": (("--image", "@a.png", "--mask", "@text.png"), ("cannot be read",)),
    "empty mask": (("--image", "@a.png", "--mask", "@zeros.png"), ("mask is empty", "Paint")),
    "model's variant": (("--image", "@a.png", "--variant", "edit"), ("'edit' is not one of",)),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_bad_call(what, files, fails):
    options, words = BAD_CALLS[what]
    fails(("draw", PROMPT, "-o", "x.png", *named(files, *options)), words, status=2)


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file(what, files, fails):
    options, words = BAD_FILES[what]
    fails(("draw", PROMPT, "-o", "x.png", *named(files, *options)), words)


@pytest.mark.slow
def test_a_picture_of_20000_by_10(files, fails, place):
    """Longer than a canvas can be: worked on at the model's size, and brought back."""
    draw(PROMPT, "--image", files / "long.png", "-o", "long.png")
    assert load("long.png").shape == (10, 20000, 3)


def test_one_pixel(files, place):
    save("dot.png", np.full((1, 1, 3), 77, np.uint8))
    draw(PROMPT, "--image", "dot.png", "-o", "out.png")
    assert load("out.png").shape == (1, 1, 3)
