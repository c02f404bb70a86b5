"""Models that Lightning was merged into are known by their folder's scheduler or their name."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.family import EMBEDDED, QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.merged import merged
from inkstone.sampling.lightning import Distilled
from inkstone.sampling.schedule import LIGHTNING, LIGHTNING_21, QWEN
from inkstone.sampling.step_cache import check_step_cache
from inkstone.sampling.step_cache_choices import StepCache

NAMES = {
    "svdq-int4_r32-qwen-image-lightningv1.0-4steps.safetensors": 4,
    "svdq-fp4_r128-qwen-image-edit-2509-lightningv2.0-8steps.safetensors": 8,
    "qwen_image_edit_2511_fp8_e4m3fn_scaled_lightning_comfyui_4steps_v1.0.safetensors": 4,
    "Qwen-Image-Lightning-8-steps-merged": 8,
    "qwen-image-Lightning-Q4_K_M.gguf": None,
}
OTHERS = ("qwen-image-Q4_K_M.gguf", "qwen-image-enlightning-4steps.gguf", "lightnings.gguf", "x")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_says_so(name):
    found = merged(Path(name), QWEN, QWEN_IMAGE)
    assert found == Distilled(NAMES[name], "by its name", LIGHTNING, "this model")
    newer = merged(Path(name), QWEN, QWEN_IMAGE_21)
    assert newer is not None and newer.schedule == LIGHTNING_21


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_say_nothing(name):
    assert merged(Path(name), QWEN, QWEN_IMAGE) is None


def test_a_schedule_says_so_where_it_is_not_the_familys_own():
    found = merged(Path("model"), LIGHTNING, QWEN_IMAGE)
    assert found == Distilled(None, "by its folder's scheduler", LIGHTNING, "this model")
    assert merged(Path("model"), LIGHTNING_21, QWEN_IMAGE_21) is not None
    assert merged(Path("model"), LIGHTNING, EMBEDDED) is None
    assert merged(Path("lightning"), LIGHTNING, EMBEDDED) is None


@pytest.mark.parametrize("kind", ["scheduler", "name"])
def test_a_step_cache_is_refused_at_any_number_of_steps(kind, tiny_folder, tmp_path):
    folder = tmp_path / ("model" if kind == "scheduler" else "Qwen-Image-Lightning-4steps")
    shutil.copytree(tiny_folder("edit-2509"), folder)
    config = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(config.read_text("utf-8"))
    plain = load_diffusion_model(folder)
    if kind == "scheduler":
        assert plain.trained_for is None
        own = {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
        config.write_text(json.dumps(settings | own), "utf-8")
    model = load_diffusion_model(folder)
    levels = torch.linspace(1, 0, 21)
    what = r"this model is a distilled Lightning one \((4|4 or 8) steps\), by its"
    what += " folder's scheduler" if kind == "scheduler" else " name"
    with pytest.raises(InkstoneError, match=what):
        check_step_cache(StepCache("fbcache", 0.2), levels, model.trained_for)
    check_step_cache(StepCache("fbcache", 0.2, forced=True), levels, model.trained_for)
