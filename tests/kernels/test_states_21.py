"""Prompts of Qwen-Image-2.1 against the pipeline's `encode_prompt`: states, places, pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inkstone.loaders.arch.family import EDIT_21, QWEN_IMAGE, QWEN_IMAGE_21
from inkstone.loaders.memory.placement import place
from inkstone.loaders.models.load import load_text_encoder
from inkstone.sampling.vision_sizes import QWEN3_SIGHT, shared_sizes

from ..support.oracle import measured, relative
from ..support.vision import image, save_encoder
from ..support.vision_deep import encode_21, pipeline_21, random_qwen3


@pytest.fixture(scope="module")
def model():
    return random_qwen3()


@pytest.fixture(scope="module")
def pipe(model):
    return pipeline_21(model)


@pytest.fixture(scope="module")
def ours(model, pipe, tmp_path_factory):
    """With the head cut where the toy vocabulary ends it, as the pipeline counts it."""
    loaded = load_text_encoder(save_encoder(model, tmp_path_factory.mktemp("qwen3")))
    assert loaded.family is QWEN_IMAGE_21
    head = QWEN_IMAGE_21.template.partition("<|im_start|>user")[0]
    assert len(loaded.tokens(head)) == pipe._drop_idx
    return replace(loaded, family=replace(loaded.family, drop=pipe._drop_idx))


@pytest.fixture(scope="module")
def edit(pipe):
    return replace(EDIT_21, drop=pipe._drop_idx)


@pytest.mark.parametrize("prompt", ["a red {cat}", "", '招牌 says "INK"\n', "x" * 700])
def test_states_of_a_prompt(pipe, ours, prompt):
    """Before the final norm, without a limit; an empty prompt is a blank."""
    want, mask, pads = encode_21(pipe, prompt, None)
    got = ours.encode(prompt)
    error = measured(got.states, want)
    assert got.slots == () and mask is None and not pads.any()
    assert got.states.shape == want.shape and error < 1e-5, f"relative error {error:.2e}"
    if not prompt:
        assert torch.equal(got.states, ours.encode(" ").states)


SIZES = [(96, 64), (32, 160), (224, 96), (32, 32)]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("prompt", ["make it {blue}", ""])
def test_states_of_an_edit(pipe, ours, edit, count, prompt):
    pictures = [image(*size, seed=n) for n, size in enumerate(SIZES[:count])]
    want, mask, pads = encode_21(pipe, prompt, [theirs for theirs, _ in pictures])
    got = ours.encode_edit(prompt, [own for _, own in pictures], edit)
    assert mask is None
    text = want[:, ~pads[0]]
    error = measured(got.states, text)
    assert got.states.shape == text.shape and error < 1e-5, f"relative error {error:.2e}"
    starts = pads[0] & ~torch.cat([torch.tensor([False]), pads[0, :-1]])
    places = (~pads[0]).cumsum(0)[starts].tolist()
    assert got.slots == tuple(places) and len(places) == count
    cells = sum(width * height // 32**2 for width, height in SIZES[:count])
    assert int(pads.sum()) == cells, "one row for four latents"


def test_a_picture_with_alpha_is_seen_over_white(pipe, ours, edit):
    g = torch.Generator().manual_seed(4)
    alpha = torch.randint(0, 256, (64, 96, 1), generator=g).to(torch.uint8)
    _, colour = image(96, 64)
    pixels = torch.cat([colour.mul(255).round().to(torch.uint8), alpha], -1)
    from PIL import Image

    want, _, pads = encode_21(pipe, "cut it out", [Image.fromarray(pixels.numpy(), "RGBA")])
    got = ours.encode_edit("cut it out", [pixels.float() / 255], edit)
    error = measured(got.states, want[:, ~pads[0]])
    assert error < 1e-5, f"relative error {error:.2e}"
    dropped = ours.encode_edit("cut it out", [colour], edit)
    apart = relative(dropped.states, got.states)
    assert apart > 1e-3, f"alpha dropped differs by only {apart:.2e}"


def test_a_batch_of_prompts_is_each_alone(pipe, ours):
    """The reference pads on the left and packs again: rows are those of single prompts."""
    want, mask, _ = encode_21(pipe, ["a red cat", "b"], None)
    for row, prompt in enumerate(["a red cat", "b"]):
        got = ours.encode(prompt).states
        error = measured(got, want[row : row + 1, mask[row].bool()])
        assert error < 1e-5, f"{prompt}: relative error {error:.2e}"


def test_words_and_pictures_are_encoded_once(ours, edit, monkeypatch):
    from inkstone.kernels.text_encoder import TextEncoder

    calls, forward = [], TextEncoder.forward
    monkeypatch.setattr(
        TextEncoder, "forward", lambda self, *a: calls.append(1) or forward(self, *a)
    )
    picture = image(64, 64, seed=9)[1]
    first = ours.encode_edit("once", [picture], edit)
    count = len(calls)
    assert ours.encode_edit("once", [picture.clone()], edit) is first and len(calls) == count
    assert ours.encode_edit("twice", [picture], edit) is not first and len(calls) == count + 1


def test_the_tower_streamed_from_its_file(ours, edit):
    """Block by block it gives the same bits at every level."""
    tower, (_, picture) = ours.vision.open(), image(96, 160, seed=7)
    want = tower.encode(picture, 0, edit.sizes)
    tower._kept._results.clear()
    rest, groups = tower.weights.sizes
    tower.weights._arrange(place(rest, groups, rest + 2 * max(groups)))
    assert tower.network.stream is not None
    settle = tower.weights.settle
    tower.weights.settle = lambda *_: None
    got = tower.encode(picture, 0, edit.sizes)
    tower.weights.settle = settle
    tower.weights.park()
    assert got is not want and torch.equal(got.rows, want.rows) and len(got.deep) == 3
    assert all(torch.equal(a, b) for a, b in zip(got.deep, want.deep, strict=True))


def test_the_tower_sees_the_copy_of_the_vae():
    """A canvas is read at its own size, however small; other sizes become whole cells."""
    assert shared_sizes(96, 64, 0, QWEN3_SIGHT) == ((96, 64), (96, 64))
    assert shared_sizes(2752, 1536, 0, QWEN3_SIGHT)[1] == (2752, 1536)
    assert shared_sizes(100, 70, 0, QWEN3_SIGHT)[1] == (96, 64)
    assert shared_sizes(5, 7, 0, QWEN3_SIGHT)[1] == (32, 32)
    wide, high = shared_sizes(8192, 4096, 0, QWEN3_SIGHT)[1]
    assert wide * high <= 4096**2 and wide % 32 == high % 32 == 0


def test_template_tokens():
    """The words of the published templates."""
    text = EDIT_21.text("make it blue", 2)
    assert text == (
        "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
        "<|im_start|>user\n<image1><|vision_start|><|image_pad|><|vision_end|> "
        "<image2><|vision_start|><|image_pad|><|vision_end|>make it blue<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert QWEN_IMAGE_21.drop == EDIT_21.drop == 14
    assert QWEN_IMAGE_21.chat.text("What?", 1) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert QWEN_IMAGE.box_scale is None and QWEN_IMAGE_21.box_scale == (1000, 1000)
