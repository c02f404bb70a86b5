"""Marks that core nodes hang on a CONDITIONING: refused by name, or without effect at all."""

from __future__ import annotations

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.nodes.conditioning import conditioning, text_states
from inkstone.nodes.latents import warn_of_batch_index

HALF = torch.zeros(1, 8, 8)
HALF[:, :, :4] = 1
LOST = {  # as core's nodes write them
    "Set Mask": {"mask": HALF, "set_area_to_bounds": False, "mask_strength": 1.0},
    "Set Mask, weak": {"mask": HALF * 0 + 1, "set_area_to_bounds": False, "mask_strength": 0.5},
    "Set Area": {"area": (8, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False},
    "Set Area (Percentage)": {"area": ("percentage", 0.5, 1.0, 0.0, 0.0), "strength": 1.0},
    "Set Area Strength": {"strength": 0.5},
    "SetTimestepRange, late": {"start_percent": 0.5, "end_percent": 1.0},
    "SetTimestepRange, early": {"start_percent": 0.0, "end_percent": 0.4},
    "Apply ControlNet": {"control": object(), "control_apply_to_uncond": False},
    "Cond Set Props, hooks": {"hooks": object()},
    "Set CLIP Hooks, scheduled": {"clip_start_percent": 0.0, "clip_end_percent": 0.5},
    "another family's encoder": {"pooled_output": torch.zeros(1, 768)},
    "InpaintModelConditioning": {"concat_latent_image": torch.zeros(1, 4, 8, 8)},
    "GLIGENTextboxApply": {"gligen": ("position", object(), [])},
    "unCLIPConditioning": {"unclip_conditioning": [{}]},
}
NEUTRAL = {
    "range of everything": {"start_percent": 0.0, "end_percent": 1.0},
    "strength 1": {"strength": 1.0},
    "whole area": {"area": ("percentage", 1.0, 1.0, 0.0, 0.0), "strength": 1.0},
    "mask of ones": {"mask": HALF * 0 + 1, "set_area_to_bounds": True, "mask_strength": 1.0},
    "no pooled output": {"pooled_output": None},
    "no control": {"control": None, "hooks": None},
    "default": {"default": True},
}


def states(options: dict, name: str = "positive") -> torch.Tensor:
    return text_states(conditioning(torch.ones(1, 3, 4), options), name)


@pytest.mark.parametrize("name", ["positive", "negative"])
@pytest.mark.parametrize("node", LOST)
def test_mark_that_would_be_lost_is_refused(node, name):
    key = next(k for k in LOST[node] if k not in ("set_area_to_bounds",))
    with pytest.raises(InkstoneError, match=rf"The {name} conditioning has '\w+'.*: \w+") as caught:
        states(LOST[node], name)
    refused = str(caught.value).split("'")[1]
    assert refused in LOST[node] and (refused == key or LOST[node][refused] is not None)


@pytest.mark.parametrize("node", NEUTRAL)
def test_mark_without_effect_passes_in_silence(node, caplog):
    assert states(NEUTRAL[node]).shape == (1, 3, 4)
    assert not caplog.records


def test_unknown_mark_gets_one_line(caplog):
    states({"other_pack_style": 3, "empty": None})
    assert [r.getMessage() for r in caplog.records] == [
        "the positive conditioning has other_pack_style from a node of another pack: Inkstone "
        "Sampler does not know it and ignores it"
    ]


def test_our_own_keys_are_known(caplog):
    states({"inkstone_prompt": "x", "reference_latents": [], "attention_mask": torch.ones(1, 3)})
    assert not caplog.records


@pytest.mark.parametrize("index, lines", [(None, 0), ([0, 1], 0), ([3], 1), ([0, 0], 1)])
def test_noise_index_of_a_batch_is_named(index, lines, caplog):
    warn_of_batch_index({} if index is None else {"batch_index": index})
    assert len(caplog.records) == lines
