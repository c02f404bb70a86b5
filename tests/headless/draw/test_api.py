"""The Python API: every example of docs/api.md, and that it draws what the command line draws."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import inkstone
from inkstone.errors import CallError, InkstoneError
from inkstone.headless.cli import main

from ...conftest import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
RED = "a red star on a white background"


@pytest.mark.slow
def test_every_example_of_the_page_runs(place, capsys):
    names: dict[str, object] = {}
    for code in EXAMPLES:
        exec(compile(code, "docs/api.md", "exec"), names)
    assert (place / "star.png").is_file() and len(names["pair"]) == 2
    sizes = {key: names[key][0].size for key in ("edited", "inpainted", "varied", "traced")}
    assert set(sizes.values()) == {(160, 96)}, sizes
    assert names["wide"][0].size == (192, 96)
    kept = np.asarray(names["pictures"][0])[:, :80]
    assert np.array_equal(np.asarray(names["inpainted"][0])[:, :80], kept), "outside of the mask"
    assert "expected a whole number from 1 to 1000" in capsys.readouterr().out


def test_the_page_names_every_option_and_no_other():
    from inkstone.headless.draw.option_values import options

    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(options()) - {"prompt"}


@pytest.mark.slow
def test_it_draws_what_the_command_line_draws(place):
    assert main(["draw", RED, "--steps", "2", "--seed", "5", "-o", "one.png", "--quiet"]) == 0
    (picture,) = inkstone.draw(RED, steps=2, seed=5)
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open("one.png")))


@pytest.mark.slow
def test_loaded_models_draw_the_same_and_are_loaded_once(place, monkeypatch):
    from inkstone.nodes.load import LoadAll

    loads = []
    load = LoadAll.execute.__func__
    monkeypatch.setattr(
        LoadAll, "execute", classmethod(lambda cls, *a, **k: loads.append(1) or load(cls, *a, **k))
    )
    with inkstone.load(dtype="float32") as models:
        first = [models.draw(RED, steps=2, seed=seed)[0] for seed in (1, 2)]
    assert len(loads) == 1
    for seed, picture in zip((1, 2), first):
        alone = inkstone.draw(RED, steps=2, seed=seed, dtype="float32")[0]
        assert picture.tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sise": 3}, 'unknown name "sise". Did you mean "size"'),
        ({"steps": 0}, "expected a whole number from 1 to 1000"),
        ({"steps": "many"}, '"steps" is a text, expected a number'),
        ({"size": (3, 3)}, "Canvas width 3 is out of range"),
        ({"image": "none.png"}, "no such picture file"),
        ({"control": Image.new("L", (8, 8))}, "expected the path of a file"),
        ({"fast": 1}, '"fast" is a number, expected true or false'),
        ({"model": "none.gguf"}, "no such file or folder"),
        ({"image": Image.new("RGB", (0, 4))}, "image is a picture without pixels: 0x4"),
        ({"image": np.zeros((4, 4, 3))}, "image is of type ndarray: expected"),
        ({"control": ("canny",)}, "control is (canny): expected (type, picture)"),
        ({"control": ("canny", "a.png", 1, 0, 0.5)}, "control is (canny, a.png, 1, 0, 0.5)"),
        ({"lora": ("a.safetensors", 1, 2)}, "lora is (a.safetensors, 1, 2): expected (path, str"),
        ({"lora": (("a.safetensors", 1), ("b.safetensors", 1e-5))}, "--lora a.safetensors"),
    ],
)
def test_wrong_calls_are_refused_in_a_sentence(place, options, words):
    with pytest.raises(CallError, match=re.escape(words)):
        inkstone.draw(RED, **options)
    assert not list(place.iterdir())


def test_options_that_belong_elsewhere(place):
    with pytest.raises(CallError, match="load.. has no option 'steps'"):
        inkstone.load(steps=3)
    with inkstone.load() as models, pytest.raises(CallError, match="dtype belongs to load"):
        models.draw(RED, dtype="float32")


def test_an_exception_of_the_callback_stops_the_drawing(place):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inkstone.draw(RED, on_step=stop)
    assert issubclass(CallError, InkstoneError)


def test_a_drawing_within_a_drawing_of_the_same_models_is_refused(place):
    with inkstone.load() as models:
        with pytest.raises(InkstoneError, match="from within another run"):
            models.draw(RED, steps=2, on_step=lambda done, total: models.draw(RED, steps=1))
        assert models.draw(RED, steps=1)


@pytest.mark.slow
def test_threads_share_models(place):
    with inkstone.load() as models, ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda seed: models.draw(RED, steps=2, seed=seed)[0], range(4)))
        for seed, picture in enumerate(pictures):
            assert models.draw(RED, steps=2, seed=seed)[0].tobytes() == picture.tobytes()


def test_numbers_of_numpy_are_numbers(place):
    (one,) = inkstone.draw(RED, steps=np.int64(2), cfg=np.float32(1), memory=4e9, seed=np.int64(2))
    assert one.tobytes() == inkstone.draw(RED, steps=2, cfg=1, seed=2)[0].tobytes()


def test_the_prompt_of_a_picture_in_memory_is_encoded_once(place):
    picture = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 20).convert("RGB")
    with inkstone.load() as models:
        for seed in (1, 2):
            models.draw("make the star blue", steps=1, seed=seed, image=picture.copy())
        assert models._drawer.prompts_encoded == 1
        models.draw("make the star blue", steps=1, image=picture.rotate(180))
        assert models._drawer.prompts_encoded == 2
        assert not list(models._folder.iterdir()), "pictures stay behind"


@pytest.mark.slow
def test_pictures_of_every_mode_keep_their_transparency(place):
    alpha = Image.linear_gradient("L").resize((64, 48))
    clear = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 20).convert("RGBA")
    clear.putalpha(alpha)
    palette = clear.convert("RGB").convert("P")
    palette.putalpha(alpha)
    grey = clear.convert("LA")
    with inkstone.load() as models:
        for picture in (clear, clear.convert("RGBa"), grey, grey.convert("La"), palette):
            (edited,) = models.draw("make the star blue", steps=1, image=picture)
            assert edited.getchannel("A").tobytes() == alpha.tobytes(), picture.mode
        for mode in ("1", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "I;16B", "RGBX"):
            (edited,) = models.draw("a", steps=1, image=Image.new(mode, (64, 48)))
            assert edited.size == (64, 48), mode


def test_a_picture_in_memory_is_as_upright_as_its_file(place):
    exif = Image.Exif()
    exif[0x112] = 6  # rotated
    Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 20).save("photo.jpg", exif=exif)
    opened, named = (
        inkstone.draw("make the star blue", steps=1, image=image)[0]
        for image in (Image.open("photo.jpg"), "photo.jpg")
    )
    assert named.size == (48, 64) and opened.tobytes() == named.tobytes()


def test_importing_it_is_quick_and_loads_nothing():
    code = (
        "import sys; sys.path.insert(0, '.'); import tests.conftest\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'inkstone.headless') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "torch" not in done.stdout and "inkstone.headless" not in done.stdout, done
