"""Controls through the nodes and the command line, against the functions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.host import headless, model_folders
from inkstone.nodes.control import ApplyControlNet, LoadControlNet
from inkstone.nodes.inpaint import Inpaint
from inkstone.nodes.sample import Denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support.controls import mask_of
from ..support.locked import picture
from .test_control import NEGATIVE, POSITIVE, SIZE, STEPS, control, drawn


@pytest.mark.parametrize("kind", ["union", "inpainting"])
def test_nodes_are_the_functions(files, bundle, kind, monkeypatch):

    with headless.using(headless.HeadlessHost(models=(files[kind].parent.parent,), device="cpu")):
        assert f"{kind}.safetensors" in model_folders.model_files("controlnet")
        (model,) = LoadControlNet.execute(f"{kind}.safetensors", "float32").args
        conditioning, mask = [[POSITIVE, {}]], mask_of(*SIZE)
        positive = conditioning
        for seed, effect in ((1, (0.8, 0.0, 0.5)), (2, (0.4, 0.0, 1.0))):
            image = picture(*SIZE, seed=seed)
            positive = ApplyControlNet.execute(
                positive, model, bundle.vae, image, *effect, mask
            ).args[0]
        assert conditioning == [[POSITIVE, {}]], "what came in stays as it is"
        latent = {"samples": torch.zeros(1, 16, 1, 6, 8)}
        levels = sigmas(LINEAR, STEPS, 12)
        got = Denoise.execute(
            bundle.model,
            positive,
            sigmas=levels,
            latent=latent,
            seed=3,
            cfg=3.0,
            negative=[[NEGATIVE, {}]],
        ).args[0]
        want = drawn(
            bundle.model,
            control(model, bundle, 1, mask, (0.8, 0.0, 0.5)),
            control(model, bundle, 2, mask, (0.4, 0.0, 1.0)),
        )
        assert torch.equal(got["samples"], want)
        with pytest.raises(InkstoneError, match="expected the output of Inkstone Load ControlNet"):
            ApplyControlNet.execute(conditioning, bundle.vae, bundle.vae, image, 1.0, 0.0, 1.0)


def test_a_control_follows_the_cut_out_part(bundle, union):
    """Inpaint cuts a part out of a large picture: the control's part is the same."""
    large, mask = picture(400, 300), torch.zeros(1, 300, 400)
    mask[:, 200:230, 100:140] = 1
    latent, stitch, part = Inpaint.execute(
        bundle.vae, large, mask, 0, 0, "on", "the picture's own"
    ).args
    positive = ApplyControlNet.execute(
        [[POSITIVE, {}]], union, bundle.vae, large, 1.0, 0.0, 1.0
    ).args[0]
    from inkstone.nodes.conditioning import controls

    (placed,) = controls(positive, latent)
    assert torch.equal(placed.latent, latent["samples"]), "the part itself, encoded alike"


@pytest.mark.slow
def test_the_command_line(files, place, capsys, fails):
    odd = picture(61, 45)
    Image.fromarray((odd[0] * 255).round().byte().numpy()).save(place / "map.png")
    call = ["draw", "a red circle", "--steps", "2", "-o", "x.png", "--json", "--quiet"]
    controls = ["--control", "map:map.png:0.7:0-0.5", "--control", "map:map.png"]
    files = {kind: str(path) for kind, path in files.items()}
    assert main([*call, *controls, "--control-model", files["union"]]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [c["control"] for c in facts["controls"]] == [
        "map:map.png:0.7:0-0.5",
        "map:map.png:1:0-1",
    ]
    drawn_picture = Image.open(place / "x.png")
    assert drawn_picture.size == (61, 45) and "controls" in drawn_picture.text["inkstone"]
    assert main(["plan", "--json"]) == 0 and json.loads(capsys.readouterr().out)["controls"] == 0
    assert main([*call, *controls, "--control-model", files["union"], "--plan"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["controls"] > 1e6 and "controls 0.00 GB" in planned["sentence"]


@pytest.mark.slow
def test_a_map_of_another_ratio_by_the_command_line(files, place, tmp_path, fails, caplog):
    """Cropped from the middle, as a file of the middle is; refused where that is asked for."""
    wide = (picture(128, 48)[0] * 255).round().byte().numpy()
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide[:, 32:96]).save(tmp_path / "middle.png")
    call = ["draw", "a red circle", "--steps", "2", "--size", "64x48", "--cfg", "1"]
    call += ["--control-model", str(files["union"])]
    refused = (*call, "--control", f"map:{tmp_path / 'wide.png'}", "--control-fit", "refuse")
    fails(refused, ("128x48, the result is 64x48", "draw at 128x48"), status=1)
    fails(
        (*call, "--control", f"map:{tmp_path / 'wide.png'}", "--control-fit", "best"),
        ("crop",),
        status=2,
    )
    drawings = {}
    for name, *more in (("middle",), ("wide",), ("wide", "--control-fit", "stretch")):
        out = f"{name}{len(more)}.png"
        assert main([*call, "--control", f"map:{tmp_path / name}.png", *more, "-o", out]) == 0
        drawings[out] = np.asarray(Image.open(place / out))
    assert "the control picture is 128x48, the result 64x48: the middle of it" in caplog.text
    assert (drawings["wide0.png"] == drawings["middle0.png"]).all()
    assert (drawings["wide2.png"] != drawings["middle0.png"]).any()


BAD = {
    "type": (("--control", "colour:a.png"), "type of map"),
    "steps": (("--control", "map:a.png:1:0.5-0.2"), "0 <= START < END <= 1"),
    "strength": (("--control", "map:a.png:99"), "strength from -10 to 10"),
    "no picture": (("--control", "map:no.png", "--control-model", "UNION"), "no such picture file"),
    "no model": (("--control", "map:PICTURE", "--model", "PICTURE"), "give --control-model F"),
    "no control": (("--control-model", "UNION"), "give --control TYPE:PICTURE"),
    "no file": (("--control", "map:PICTURE", "--control-model", "no"), "no such file or folder"),
    "two for three": (
        ("--control", "map:PICTURE") * 3 + ("--control-model", "UNION") * 2,
        "2 --control-model for 3 --control",
    ),
    "no mask": (("--control", "map:PICTURE", "--control-model", "INPAINTING"), "give --mask F"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_calls(files, fails, tmp_path, what):
    given = tmp_path / "given.png"
    Image.new("RGB", SIZE).save(given)
    arguments, words = BAD[what]
    named = {"PICTURE": given, "UNION": files["union"], "INPAINTING": files["inpainting"]}
    for name, path in named.items():
        arguments = tuple(a.replace(name, str(path)) for a in arguments)
    fails(("draw", "a red circle", *arguments), (words,), status=2)
