"""The control that ships: drawings have the outlines of maps of unseen pictures, at places that no
prompt names; without strength nothing changes; it is found without naming a file.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.controlnet.canvas import canvas_of
from inkstone.controlnet.control_picture import ControlInput, Effect
from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.nodes.control import ApplyControlNet, LoadControlNet
from inkstone.nodes.load import EMBEDDED
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas
from inkstone.training import control_scores
from inkstone.training.control_flow import EDGES, OTHERS
from inkstone.training.grammar import prompt
from inkstone.training.render import render

from ..support.controls import embedded_control

MAPS = {"canny": EDGES, **OTHERS}
COUNT = 8


@pytest.fixture(scope="module")
def models():
    return load_all(None)


@pytest.fixture(scope="module")
def own():
    return load_control(EMBEDDED_FOLDER)


@pytest.fixture(scope="module")
def scenes():
    """Shapes at free places; half of the scenes of the score."""
    return control_scores.test_scenes(COUNT)[1]


def scores(models, branch, scenes, map_of):
    setting = control_scores.Setting("", models.model.family.fast, map_of)
    pictures = control_scores.draw_controlled(models, branch, scenes, setting)
    return [control_scores.edge_score(p, render(s)) for p, s in zip(pictures, scenes)]


def test_the_model_with_its_control_fits_its_budget():
    size = sum(f.stat().st_size for f in EMBEDDED_FOLDER.rglob("*") if f.is_file())
    assert (EMBEDDED_FOLDER / "controlnet").is_dir() and size <= 12_000_000, size


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAPS)
def test_outlines_are_those_of_the_map(models, own, scenes, kind):
    found = scores(models, own, scenes, MAPS[kind])
    assert np.mean(found) >= 0.8, f"{kind}: F {np.mean(found):.3f}, {np.round(found, 2)}"


@pytest.mark.slow
def test_without_control_they_are_not(models, scenes):
    found = scores(models, None, scenes, EDGES)
    assert np.mean(found) < 0.4, f"F {np.mean(found):.3f}: the scenes say nothing of the control"


def latent(models, scene, *controls):
    rows, columns = scene.height // 16, scene.width // 16
    table = sigmas(models.model.schedule, 4, rows * columns)
    request = Request(scene.width, scene.height, table, 5, 1, 2.0, controls=controls)
    encode = models.text_encoder.encode
    return denoise(models.model, encode(prompt(scene)).states, encode("").states, request)


@pytest.mark.slow
def test_strength_0_is_no_control_bit_for_bit(models, own, scenes):
    for scene in scenes[:3]:
        seen = torch.from_numpy(EDGES(render(scene))).float()[None] / 255
        canvas, plain = canvas_of(scene.width, scene.height), latent(models, scene)
        for strength in (0.0, 1.0):
            control = ControlInput(own, models.vae, seen, Effect(strength)).on(canvas)
            assert torch.equal(latent(models, scene, control), plain) == (strength == 0)


@pytest.mark.slow
def test_the_command_takes_it_without_a_file(tmp_path, scenes):
    scene = next(s for s in scenes if s.width == s.height)
    Image.fromarray(render(scene)).save(tmp_path / "seen.png")
    call = ["draw", prompt(scene), "--steps", "8", "--cfg", "1", "--quiet", "-o"]
    strengths = {"none": [], "1": [f"canny:{tmp_path / 'seen.png'}"]}
    strengths["0"] = [f"canny:{tmp_path / 'seen.png'}:0"]
    made = {}
    for name, asked in strengths.items():
        out = tmp_path / f"{name}.png"
        more = ["--control", *asked] if asked else []
        assert main([*call, str(out), *more]) == 0
        made[name] = np.array(Image.open(out))
    assert np.array_equal(made["0"], made["none"])
    near = {n: control_scores.edge_score(p, render(scene)) for n, p in made.items()}
    assert near["1"] > near["none"] + 0.2, near


@pytest.mark.slow
def test_a_file_that_is_named_is_taken_instead(tmp_path, scenes):
    Image.fromarray(render(scenes[0])).save(tmp_path / "seen.png")
    other = embedded_control(tmp_path / "other.safetensors", 1)
    call = ["draw", "a red circle", "--steps", "2", "--quiet", "--control"]
    call += [f"canny:{tmp_path / 'seen.png'}", "-o"]
    for name, more in (("own", []), ("other", ["--control-model", str(other)])):
        assert main([*call, str(tmp_path / f"{name}.png"), *more]) == 0
    own, other = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("own", "other"))
    assert not np.array_equal(own, other)


def test_the_node_offers_it(models, scenes):
    options = LoadControlNet.define_schema().inputs[0].options
    assert options[0] == EMBEDDED and LoadControlNet.validate_inputs(control=EMBEDDED) is True
    control = LoadControlNet.execute(EMBEDDED, "auto")[0]
    seen = torch.from_numpy(EDGES(render(scenes[0]))).float()[None] / 255
    positive = [[torch.zeros(1, 3, 128), {}]]
    assert ApplyControlNet.execute(positive, control, models.vae, seen, 1.0, 0.0, 1.0)[0]


def test_it_serves_no_other_model(own, models, tiny_folder):
    other = load_all(tiny_folder("qwen-image"))
    seen = torch.zeros(1, 64, 64, 3)
    control = ControlInput(own, other.vae, seen).on(canvas_of(64, 64))
    request = Request(64, 64, sigmas(other.model.schedule, 2, 16), 5, 1, 1.0, controls=(control,))
    with pytest.raises(InkstoneError, match="control"):
        denoise(other.model, torch.zeros(1, 3, 32), None, request)
