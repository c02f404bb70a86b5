"""Draws with a VAE that has alpha: transparent results are RGBA PNGs with straight alpha, opaque
ones RGB, and the alpha is that of the result, not of the picture that it was made from.
"""

from __future__ import annotations

import json
import logging

import numpy as np
import torch
from PIL import Image

from inkstone.headless.cli.main import main
from inkstone.kernels.configs import ResidualVAEConfig, VAEConfig
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.vae import build_vae

from ...support.draw_graphs import check, drawn, folders, kinds
from ...support.oracle import fill

PROMPT = "a red circle on a white background"


def rgba_vae(name: str, opacity: float | None) -> tuple[str, str]:
    """The option for a random VAE with alpha; opacity: alpha in -1..1 everywhere, None: random."""
    torch.manual_seed(4)
    network = fill(build_vae(VAEConfig(base=12, res_blocks=1, channels=4)))
    if opacity is not None:
        with torch.no_grad():
            network.decoder.conv_out.weight[3] = 0
            network.decoder.conv_out.bias[3] = opacity
    save_safetensors(f"models/vae/{name}.safetensors", network.state_dict(), {})
    return "--vae", f"models/vae/{name}.safetensors"


def test_alpha_reaches_the_file_where_something_is_transparent(place, caplog):
    folders(place)
    clear, solid = rgba_vae("clear", None), rgba_vae("solid", 0.97)
    made = drawn(PROMPT, *clear, "--cfg", "1", steps=1)
    check(made)
    picture = made["made.png"]
    assert picture.shape[2] == 4 and 0 < (picture[..., 3] < 128).mean() < 1
    with caplog.at_level(logging.INFO):
        made = drawn(PROMPT, *solid, "--cfg", "1", steps=1)
    assert made["made.png"].shape[2] == 3 and "the result is RGB" in caplog.text
    check(made)


def test_the_result_s_own_alpha_is_kept(place):
    """A VAE without alpha: the picture's alpha comes back. With alpha: what it draws."""
    folders(place)
    own = np.asarray(Image.open("input/clear.png"))[..., 3]
    start = ("--image", "input/clear.png", "--strength", "0.5", "--cfg", "1")
    made = drawn(PROMPT, *start)["made.png"]
    assert np.array_equal(made[..., 3], own) and kinds("made.png").count("JoinImageWithAlpha") == 2
    made = drawn(PROMPT, *rgba_vae("clear", None), *start)
    assert made["made.png"].shape[2] == 4 and not np.array_equal(made["made.png"][..., 3], own)
    assert kinds("made.png").count("JoinImageWithAlpha") == 1, "only that of its input"
    check(made)


def test_a_vae_of_the_other_family_is_refused_before_anything_is_drawn(place, capsys):
    folders(place)
    torch.manual_seed(4)
    network = fill(build_vae(ResidualVAEConfig(base=8, decoder_base=8)))
    save_safetensors("models/vae/newer.safetensors", network.state_dict(), {})
    assert main(["draw", PROMPT, "--vae", "models/vae/newer.safetensors", "-o", "made.png"]) == 1
    said = capsys.readouterr().err
    assert "newer.safetensors is for 64 at 1/16 (of Qwen-Image-2.1)" in said, said
    assert "latents of 16 channels at 1/8 size" in said and "step 1" not in said, said


def test_the_size_that_a_png_names_is_the_picture_s_in_both_families(place, tiny_folder):
    for kind, size in (("2.1", (96, 64)), ("edit", (80, 64))):
        options = ["--model", str(tiny_folder(kind)), "--size", "x".join(map(str, size))]
        options += ["--image", "in.png"] if kind == "edit" else []
        Image.new("RGB", size, "red").save("in.png")
        assert main(["draw", PROMPT, *options, "--steps", "1", "--cfg", "1", "-o", "made.png"]) == 0
        made = Image.open("made.png")
        assert made.size == size and json.loads(made.text["inkstone"])["size"] == options[3]
