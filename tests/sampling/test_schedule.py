"""Schedules against the reference scheduler and written-out numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.geometry import token_grid
from inkstone.sampling.schedule import (
    CORE_21,
    LIGHTNING,
    LIGHTNING_21,
    LINEAR,
    QWEN,
    TURBO_21,
    from_config,
    sigmas,
)

from ..support.oracle import library
from .test_canvas import CANVASES

PIPELINE = "diffusers.pipelines.qwenimage.pipeline_qwenimage"
QWEN_CONFIG = dict(
    use_dynamic_shifting=True,
    base_image_seq_len=256,
    max_image_seq_len=8192,
    base_shift=0.5,
    max_shift=0.9,
    shift_terminal=0.02,
    time_shift_type="exponential",
)


LOG3 = math.log(3)


LIGHTNING_CONFIG = dict(QWEN_CONFIG, base_shift=LOG3, max_shift=LOG3, shift_terminal=None)


SCHEDULES = {
    "Qwen-Image": (QWEN, QWEN_CONFIG),
    "Lightning": (LIGHTNING, LIGHTNING_CONFIG),
    "plain linear": (LINEAR, {}),
    "fixed shift": (None, dict(shift=3.1)),
    "fixed shift with terminal": (None, dict(shift=2.0, shift_terminal=0.1)),
    "time_shift_type linear": (None, dict(QWEN_CONFIG, time_shift_type="linear")),
}


def reference_sigmas(config: dict, steps: int, tokens: int) -> torch.Tensor:
    scheduler = library("diffusers").FlowMatchEulerDiscreteScheduler(**config)
    c = scheduler.config
    mu = library(PIPELINE).calculate_shift(
        tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("steps", [1, 2, 8, 50, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_equals_the_reference_scheduler(name, steps):
    record, config = SCHEDULES[name]
    read = from_config(dict(library("diffusers").FlowMatchEulerDiscreteScheduler(**config).config))
    for width, height in CANVASES:
        tokens = math.prod(token_grid(width, height))
        got = sigmas(read, steps, tokens)
        stretched = steps == 1 and config.get("shift_terminal")  # 0/0 in the reference
        want = torch.tensor([1.0, 0]) if stretched else reference_sigmas(config, steps, tokens)
        assert got.shape == want.shape and got.dtype == torch.float32
        error = (got - want).abs().max().item()
        assert error <= 1e-6, f"{width}x{height}: sigmas differ by {error:.1e}"
        assert got[0] == 1 and got[-1] == 0 and (got.diff() < 0).all(), got
        if record is not None:
            assert torch.equal(sigmas(record, steps, tokens), got)


def test_schedule_numbers_written_out():
    def near(got, want):
        error = (got - torch.tensor(want)).abs().max().item()
        assert error < 1e-6, f"{error:.1e}: {got.tolist()}"

    near(sigmas(LIGHTNING, 4, 6889), [1, 0.9, 0.75, 0.5, 0])
    near(sigmas(LIGHTNING, 8, 64), [1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3, 0])
    near(sigmas(LINEAR, 4, 6889), [1, 0.75, 0.5, 0.25, 0])
    assert QWEN.mu(83 * 83) == pytest.approx(0.834325, abs=1e-6)
    some = sigmas(QWEN, 20, 83 * 83)[[1, 2, 10, 18, 19]]
    near(some, [0.975452, 0.949432, 0.667359, 0.125102, 0.02])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(time_shift_type="cosine"), "time_shift_type"),
        (dict(stochastic_sampling=True), "stochastic_sampling"),
        (dict(use_karras_sigmas=True), "use_karras_sigmas"),
        (dict(_class_name="UniPCMultistepScheduler"), "UniPCMultistepScheduler"),
    ],
)
def test_scheduler_configs_of_other_samplers_are_refused(change, words):
    with pytest.raises(InkstoneError, match=words):
        from_config({**QWEN_CONFIG, **change})


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_step_counts(steps):
    with pytest.raises(InkstoneError, match=f"Steps is {steps}: expected 1 to 1000"):
        sigmas(QWEN, steps, 64)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"base_shift": "0.5"}, "base_shift to '0.5'"),
        ({"max_shift": 1e308}, "max_shift to '1e+308'"),
        ({"shift": [3]}, "shift to '[3]'"),
        ({"shift": 0}, "shift to '0'"),
        ({"shift": float("nan")}, "shift to 'nan'"),
        ({"shift_terminal": 1}, "shift_terminal to '1'"),
        ({"base_image_seq_len": True}, "base_image_seq_len to 'True'"),
        ({"max_image_seq_len": 256}, "another number than base_image_seq_len"),
        ({"use_dynamic_shifting": "yes"}, "expected true or false"),
        ({"time_shift_type": {}}, "time_shift_type"),
        ({"_class_name": 3}, "names 3"),
    ],
)
def test_wrong_values_of_a_scheduler_config_are_named(change, words):
    with pytest.raises(InkstoneError) as caught:
        from_config(change)
    assert words in str(caught.value)


def test_a_shift_that_runs_away_is_refused():
    steep = {"use_dynamic_shifting": True, "base_image_seq_len": 1, "max_image_seq_len": 2}
    with pytest.raises(InkstoneError, match="shifts the sigmas of 4096 tokens"):
        sigmas(from_config(steep), 4, 4096)
    assert from_config({"shift": None, "base_shift": None}) == from_config({})


def test_distilled_schedules_of_2_1():
    """Lightning's as the card gives them at 1024x1024, Turbo's exactly; other numbers of steps."""
    four = sigmas(LIGHTNING_21, 4, 64 * 64)
    want = torch.tensor([1, 0.857192, 0.666756, 0.400096, 0])
    assert (four - want).abs().max() < 1e-6, four
    assert sigmas(TURBO_21, 8, 1).tolist() == torch.tensor([*TURBO_21.levels, 0.0]).tolist()
    half = sigmas(TURBO_21, 4, 1)
    assert half.tolist() == torch.tensor([*TURBO_21.levels, 0.0])[::2].tolist()
    assert (sigmas(TURBO_21, 11, 1).diff() < 0).all()
    core = sigmas(CORE_21, 40, 128 * 128)
    apart = (core - sigmas(QWEN, 40, 128 * 128)).abs().max().item()
    assert abs(apart - 0.125) < 0.002, f"{apart:.4f} from the reference"
