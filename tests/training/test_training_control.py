"""Training of the control branch: its data, a stopped run that resumes bit for bit, what is trained
and what stays, and the file that comes out.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from inkstone.headless.cli.main import main
from inkstone.kernels.control_instantx import ControlInputs
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER
from inkstone.loaders.models.tokenizer import load_tokenizer
from inkstone.sampling.geometry import unpack
from inkstone.training import control_flow, control_scores, edit_flow, recipe
from inkstone.training.grammar import PLACES, SIZES, held_out, prompt, sample
from inkstone.training.loop import PictureStage
from inkstone.training.packed import save_gguf
from inkstone.training.render import render

from .test_training import Stop, same, stop_after

STAGE = PictureStage(
    name="control", steps=5, batch=2, lr=1e-3, save_every=2, pictures={"free": 6, "scenes": 2}
)


@pytest.fixture(scope="module")
def codec():
    """VAE and tokenizer of the shipped model."""
    return recipe.codec_of(EMBEDDED_FOLDER, load_tokenizer(EMBEDDED_FOLDER / "tokenizer"))


def base():
    return edit_flow.start(EMBEDDED_FOLDER, EMBEDDED_FOLDER / "tokenizer")


def shifted(picture, by):
    """Moved to the right, the gap filled with the ground."""
    out = np.empty_like(picture)
    out[:] = picture[0, 0]
    out[:, by:] = picture[:, : picture.shape[1] - by]
    return out


# --- data


def test_no_prompt_of_a_free_shape_says_where_or_how_large():
    rng = np.random.default_rng(1)
    for scene in (control_flow.free_scene(rng) for _ in range(200)):
        words = set(prompt(scene).replace(",", "").split())
        assert not words & {*PLACES, *filter(None, SIZES), "above", "below"}, prompt(scene)
        for s in scene.items:
            assert s.diameter // 2 < s.x < scene.width - s.diameter // 2
            assert s.diameter // 2 < s.y < scene.height - s.diameter // 2


def test_hold_out_is_strict():
    rng = np.random.default_rng(2)
    assert not any(held_out(control_flow.free_scene(rng)) for _ in range(200))
    assert all(held_out(scene) for half in control_scores.test_scenes(30) for scene in half)


def test_maps_survive_the_vae(codec):
    """It was trained on coloured pictures; the branch sees maps through it."""
    (group, *_) = control_flow.encode_maps(codec, "free", 4, 3)
    assert group.maps.shape == (len(group.ids), 2, group.grid[0] * group.grid[1], 64)
    rng, brightness = np.random.default_rng(4), []
    for _ in range(8):
        edges = control_flow.EDGES(render(control_flow.free_scene(rng)))
        tokens = codec.latents([edges]).float()
        grid = edges.shape[0] // 16, edges.shape[1] // 16
        with torch.no_grad():
            latent = unpack(tokens, *grid) * codec.std + codec.mean
            back = codec.vae.decode(latent)[0] / 2 + 0.5
        lines = edges[..., 0] > 127
        grey = back.mean(0).numpy()
        brightness.append((grey[lines].mean(), grey[~lines].mean()))
    on, off = np.mean(brightness, 0)
    assert on > 0.35 and off < 0.12, f"lines come back at {on:.2f}, the ground at {off:.2f}"


@pytest.mark.parametrize("kind", ["scenes", "shapes"])
def test_a_filled_map_is_white_where_something_stands(kind):
    rng = np.random.default_rng(5)
    for _ in range(20):
        picture = render(sample(rng, kind))
        filled = control_flow.filled(picture)
        ground = (picture == picture[0, 0]).all(-1)
        assert filled.shape == picture.shape and not filled[ground].any()
        assert (filled[~ground] > 0).any(-1).all()


# --- the step


def test_a_branch_starts_as_no_control():
    torch.manual_seed(1)
    model = control_flow.ControlledModel(base(), control_flow.ControlWeights(base()))
    x, maps, ids = torch.randn(2, 12, 64), torch.randn(2, 12, 64), torch.ones(2, 4).long()
    sigma = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        got = model(x, sigma, ids, (3, 4), maps)
        (flow,) = model._flow
        plain = flow(x, sigma, ids, torch.ones(2, 4).bool(), (3, 4))
    assert torch.equal(got, plain)


def train(folder, codec):
    return control_flow.train_control(codec, base(), folder, 1)


@pytest.mark.slow
def test_resume_is_bit_exact_and_the_model_stays(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(control_flow, "STAGES", (STAGE,))
    whole = train(tmp_path / "whole", codec)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, control_flow, "flow_loss", 3)
        train(tmp_path / "cut", codec)
    model = base()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    again = control_flow.train_control(codec, model, tmp_path / "cut", 1)
    assert not same(whole, again)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    start = control_flow.ControlWeights(base())
    assert set(same(whole, start)) == set(whole.state_dict()), "all of the branch learns"


# --- the file


def test_the_file_is_small_and_near_the_weights(tmp_path):
    torch.manual_seed(2)
    control = control_flow.ControlWeights(base())
    for p in control.parameters():
        torch.nn.init.normal_(p, std=0.1)
    recipe.export_control(tmp_path, control)
    shipped = sum(f.stat().st_size for f in EMBEDDED_FOLDER.rglob("*") if f.is_file())
    size = sum(f.stat().st_size for f in (tmp_path / "controlnet").iterdir())
    own = EMBEDDED_FOLDER / "controlnet"
    shipped -= sum(f.stat().st_size for f in own.iterdir()) if own.is_dir() else 0
    assert shipped + size <= 12_000_000, (shipped, size)
    opened = load_control(tmp_path)
    assert not opened.masked and opened.family.name == "inkstone-embedded"
    x, maps, txt = torch.randn(1, 12, 64), torch.randn(1, 12, 64), torch.randn(1, 5, 128)
    sigma = torch.tensor([0.5])
    with torch.no_grad():
        want = control.branch(ControlInputs(x, maps, txt, control.table(sigma), (1, 3, 4)))
        got = opened.network(ControlInputs(x, maps, txt, opened.modulation(sigma), (1, 3, 4)))
    for a, b in zip(want, got):
        off = ((a - b).norm() / a.norm()).item()
        assert off < 0.05, f"{off:.4f} of the samples is lost"


def test_a_small_network_as_gguf(tmp_path):
    tensors = {"a.weight": torch.randn(3, 64), "a.bias": torch.randn(3)}
    metadata = {"general.architecture": "qwen_image"}
    save_gguf(tmp_path / "x.gguf", tensors, lambda _: "Q8_0", metadata)
    with open_weights(tmp_path / "x.gguf") as file:
        assert {n: tuple(e.shape) for n, e in file.entries.items()} == {
            "a.weight": (3, 64),
            "a.bias": (3,),
        }
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


# --- scores and the command


def test_edges_that_moved_score_less():
    rng = np.random.default_rng(6)
    for _ in range(10):
        picture = render(control_flow.free_scene(rng))
        assert control_scores.edge_score(picture, picture) == 1
        near, far = (control_scores.edge_score(shifted(picture, by), picture) for by in (1, 9))
        assert near == 1 and far < 0.75, (near, far)
        empty = np.full_like(picture, 128)
        assert control_scores.edge_score(empty, picture) == 0
        assert control_scores.edge_score(empty, empty) == 1


@pytest.mark.slow
def test_only_the_control_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(control_flow, "STAGES", (STAGE,))
    out = tmp_path / "model"
    call = ["train", "--out", str(out), "--only", "control", "--prompts", "1", "--quiet"]
    assert main(call) == 2 and "--start" in capsys.readouterr().err
    monkeypatch.setattr(control_scores, "report", lambda folder, count: f"{folder} {count}")
    assert main([*call, "--start", str(EMBEDDED_FOLDER)]) == 0
    assert capsys.readouterr().out.strip() == f"{out} 1"
    for name in ("transformer", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (out / file).read_bytes() == (EMBEDDED_FOLDER / file).read_bytes()
    config = json.loads((out / "controlnet" / "config.json").read_text(encoding="utf-8"))
    assert (config["num_layers"], config["extra_condition_channels"]) == (2, 0)
    assert load_control(out).weights_format.startswith("Q8_0")


def test_a_model_without_control_has_no_table(tmp_path):
    model = shutil.copytree(
        EMBEDDED_FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("controlnet")
    )
    assert "no control" in control_scores.report(model, 1)
