"""Layers that a step leaves as they are: which, and that a stopped run leaves out the same."""

from __future__ import annotations

import pytest
from PIL import Image

import inkstone
from inkstone.training.lora.objective import Draws, Objective, layers_of

NAMES = [f"transformer_blocks.{n}.attn.to_q" for n in range(400)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_the_layers_is_left_out(share):
    objective = Objective(module_dropout=share)
    counts = [len(layers_of(objective, NAMES, Draws(0.5, n, False))) for n in range(50)]
    got = 1 - sum(counts) / len(counts) / len(NAMES)
    assert abs(got - share) < 0.02, f"{got:.3f} of {share}"


def test_they_follow_from_the_noise_and_one_is_always_there():
    objective, all_ones = Objective(module_dropout=0.9), Objective()
    sets = [layers_of(objective, NAMES, Draws(0.5, n, False)) for n in (1, 2, 1)]
    assert sets[0] == sets[2] != sets[1], "a resumed run leaves out the same"
    assert all(len(layers_of(objective, NAMES[:1], Draws(0.5, n, False))) == 1 for n in range(50))
    assert layers_of(all_ones, NAMES, Draws(0.5, 1, False)) == NAMES


def test_a_run_that_was_stopped_ends_on_the_same_bytes(tmp_path):
    """And on others than without it."""
    data = tmp_path / "pictures"
    data.mkdir()
    for n in range(4):
        Image.new("RGB", (64, 64), (60 * n, 0, 0)).save(data / f"{n}.png")
        (data / f"{n}.txt").write_text("a red circle")
    usual = {"resolution": 64, "rank": 2, "steps": 6, "batch": 2, "accumulate": 2, "save_every": 2}
    files = {}
    for name, share in (("none", 0.0), ("half", 0.5), ("stopped", 0.5)):
        (tmp_path / name).mkdir()
        call = {**usual, "module_dropout": share, "output": tmp_path / name / "x.safetensors"}
        if name == "stopped":
            with pytest.raises(ZeroDivisionError):
                inkstone.train_lora(data, **call, on_step=lambda one: 1 / (one.line.step - 4))
        file = inkstone.train_lora(data, **call).read_bytes()
        files[name] = file[8 + int.from_bytes(file[:8], "little") :]  # the header has the date
    assert files["stopped"] == files["half"] != files["none"]
