"""The node Regional Prompts: rows, masks, several in a row, and what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host import api
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.canvas import CUSTOM, EmptyLatent
from inkstone.nodes.conditioning import REGIONS, regional
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.inpaint import Inpaint
from inkstone.nodes.latents import SAMPLES
from inkstone.nodes.regions import ROWS, RegionalPrompts, row
from inkstone.nodes.sample import Denoise
from inkstone.pipeline.edit_choices import AUTO, CROPS

WORDS = ("a red circle on a white background", 'the word "HI" in blue on a white background')


@pytest.fixture(scope="module")
def bundle():
    return load_all(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))


@pytest.fixture(scope="module")
def prompts(bundle):
    return EncodePrompt.execute(bundle.text_encoder, "a white background", "").args


def with_rows(bundle, positive, **rows: object):
    return RegionalPrompts.execute(positive, bundle.text_encoder, **rows)[0]


def canvas(width: int = 96, height: int = 64):
    return EmptyLatent.execute(CUSTOM, width, height, 1)[0]


def drawn(bundle, positive, latent=None) -> torch.Tensor:
    latent = latent or canvas()
    return Denoise.execute(bundle.model, positive, 1, 1.0, latent=latent, steps=2)[0][SAMPLES]


def half(side: str, width: int = 96, height: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = side == "left"
    mask[..., width // 2 :] = side == "right"
    return mask


def test_boxes_masks_and_nodes_in_a_row_are_the_same(bundle, prompts):
    positive = prompts[0]
    boxes = row(1, WORDS[0], "0,0,48,64") | row(2, WORDS[1], "50%,0,50%,100%")
    want = drawn(bundle, with_rows(bundle, positive, **boxes))
    words = {f"prompt_{n}": text for n, text in enumerate(WORDS, 1)}
    masks = {"mask_1": half("left"), "mask_2": half("right")}
    grown = with_rows(bundle, positive, masks=masks, **words)
    fixed = with_rows(bundle, positive, **{f"masks.{n}": m for n, m in masks.items()}, **words)
    first = with_rows(bundle, positive, **row(3, WORDS[0], "0,0,48,64"))
    second = with_rows(bundle, first, **row(1, WORDS[1], "48,0,48,64"))
    for name, other in {"grown": grown, "fixed": fixed, "in a row": second}.items():
        assert torch.equal(drawn(bundle, other), want), name
    assert not torch.equal(drawn(bundle, positive), want)
    assert REGIONS not in positive[0][1]  # the conditioning that came in is as it was


def test_a_mask_of_another_size(bundle, prompts, caplog):
    """It is stretched over the picture, with a line."""
    caplog.set_level(logging.INFO)
    words = {"prompt_1": WORDS[0]}
    small = with_rows(bundle, prompts[0], mask_1=half("left", 24, 16), **words)
    same = with_rows(bundle, prompts[0], mask_1=half("left"), **words)
    assert torch.equal(drawn(bundle, small), drawn(bundle, same))
    assert "the mask of region 1 is 24x16: it is stretched over the picture, 96x64" in caplog.text


def test_boxes_are_those_of_the_picture_not_of_a_crop(bundle, prompts):
    """An inpainted part is a canvas of its own; a region lies where the picture has it."""
    picture, mask = torch.rand(1, 256, 256, 3), torch.zeros(1, 256, 256)
    mask[:, 176:208, 176:208] = 1  # its middle is at 192, the upper edge of the region
    latent = Inpaint.execute(bundle.vae, picture, mask, 0, 0, CROPS[1], AUTO)[0]
    positive = with_rows(bundle, prompts[0], **row(1, WORDS[0], "0,192,256,64"))
    whole = regional(positive, None, canvas(256, 256)).regions[0].cells
    part = regional(positive, None, latent).regions[0].cells
    assert whole.float().mean() == 0.25
    assert part[-1].all() and not part[0].any() and 0.4 < part.float().mean() < 0.6


def test_overlapping_regions(bundle, prompts):
    rows = row(1, WORDS[0], "0,0,100%,100%") | row(2, WORDS[1], "50%,0,50%,100%")
    assert drawn(bundle, with_rows(bundle, prompts[0], **rows)).isfinite().all()


@pytest.mark.parametrize(
    "rows, words",
    [
        ({}, "has no region"),
        (row(2, "a cat", ""), "Region 2 has a prompt and no place"),
        (row(2, "", "0,0,1,1"), "Region 2 has the box 0,0,1,1 and no prompt"),
        ({"mask_1": half("left")}, "Region 1 has a mask and no prompt"),
        (row(1, "a cat", "0,0,8,8") | {"mask_1": half("left")}, "a mask and the box 0,0,8,8"),
        (row(1, "a cat", "left"), "'left' is no box"),
        ({"prompt_1": "a cat", "mask_1": torch.ones(2, 4, 4)}, "Region 1 got a batch of 2 masks"),
        (row(1, "a cat", "0,0,8,8") | {"base": 1.0}, "base ratio"),
        (row(1, "a cat", "0,0,8,8") | {"method": "x"}, "no method 'x'"),
    ],
)
def test_what_is_refused(bundle, prompts, rows, words):
    with pytest.raises(InkstoneError, match=words):
        with_rows(bundle, prompts[0], **rows)


def test_what_is_refused_on_the_canvas(bundle, prompts):
    def fault(**rows: object) -> str:
        with pytest.raises(InkstoneError) as error:
            drawn(bundle, with_rows(bundle, prompts[0], **rows))
        return str(error.value)

    assert "the picture is 96x64" in fault(**row(1, WORDS[0], "0,0,200,64"))
    assert "Region 1 is empty" in fault(prompt_1=WORDS[0], mask_1=torch.zeros(1, 64, 96))
    with pytest.raises(InkstoneError, match="act in different ways, composed with base 0.1"):
        first = with_rows(bundle, prompts[0], **row(1, WORDS[0], "0,0,48,64"))
        with_rows(bundle, first, **row(1, WORDS[1], "48,0,48,64"), method="eligen")
    both = [with_rows(bundle, p, **row(1, WORDS[0], "0,0,48,64")) for p in prompts]
    with pytest.raises(InkstoneError, match="negative prompt has regions"):
        Denoise.execute(bundle.model, both[0], 1, 2.0, negative=both[1], latent=canvas(), steps=2)


def test_inputs_of_hosts_with_and_without_growing_inputs(monkeypatch):
    own = {item.id for item in RegionalPrompts.define_schema().inputs}
    assert {f"prompt_{ROWS}", f"box_{ROWS}", "method", "base"} <= own
    if hasattr(api.io, "Autogrow"):
        assert "masks" in own
        monkeypatch.delattr(api.io, "Autogrow")
        own = {item.id for item in RegionalPrompts.define_schema().inputs}
    assert "masks.mask_1" in own
