"""The Python API: every example of docs/api.md, and that it draws what the command line draws."""

from __future__ import annotations

import re
import subprocess
import sys

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
    assert "expected a number from 1 to 1000" in capsys.readouterr().out


def test_the_page_names_every_option_and_no_other():
    from inkstone.headless.draw.option_values import options

    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(options()) - {"prompt"}


def test_it_draws_what_the_command_line_draws(place):
    assert main(["draw", RED, "--steps", "2", "--seed", "5", "-o", "one.png", "--quiet"]) == 0
    (picture,) = inkstone.draw(RED, steps=2, seed=5)
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open("one.png")))


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
        ({"steps": 0}, "expected a number from 1 to 1000"),
        ({"steps": "many"}, '"steps" is a text, expected a number'),
        ({"size": (3, 3)}, "Canvas width 3 is out of range"),
        ({"image": "none.png"}, "no such picture file"),
        ({"control": Image.new("L", (8, 8))}, "expected the path of a file"),
        ({"fast": 1}, '"fast" is a number, expected true or false'),
        ({"model": "none.gguf"}, "no such file or folder"),
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


def test_importing_it_is_quick_and_loads_nothing():
    code = (
        "import sys; sys.path.insert(0, '.'); import tests.conftest\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'inkstone.headless') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "torch" not in done.stdout and "inkstone.headless" not in done.stdout, done
