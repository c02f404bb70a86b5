"""Pictures in the language model: states of prompts, against transformers and diffusers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import TextConfig
from inkstone.kernels.kv_cache import KeyValues
from inkstone.kernels.text_encoder import TextEncoder, picture_positions
from inkstone.kernels.vision import VisionTower
from inkstone.loaders.arch.family import EDIT, EDIT_PLUS, QWEN_IMAGE
from inkstone.loaders.memory.placement import place
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.vision_sizes import area_size

from ..support import tiny
from ..support.oracle import measured, relative
from ..support.vision import CONFIGS, PAD, Processor, image, random_qwen, save_encoder, with_types


@pytest.fixture(scope="module")
def encoder():
    return random_qwen()


def sequence(grids):
    """Ids with text before, between and behind pictures of these patch grids."""
    ids = [3, 9, 27]
    for rows, columns in grids:
        ids += [7, 259] + [PAD] * (rows * columns // 4) + [260]
    return [*ids, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "grids",
    [[(22, 36)], [(4, 6), (10, 28)], [(2, 2), (18, 4), (6, 6)]],
    ids=["one", "two", "three"],
)
def test_states_with_pictures(encoder, grids):
    """Against the reference with token types; without them it numbers picture tokens like text."""
    patches = [torch.randn(rows * columns, 588) for rows, columns in grids]
    ids = sequence(grids)
    both = torch.cat(patches).view(-1, 3, 1, 196).expand(-1, -1, 2, -1).flatten(1)
    call = dict(
        input_ids=torch.tensor([ids]),
        pixel_values=both,
        output_hidden_states=True,
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
    )
    tower = VisionTower(dataclasses.replace(CONFIGS["two full blocks"], out=32))
    text = TextEncoder(TextConfig(2, 32, 2, 1, 16, 64, 300))
    tower.load_state_dict(encoder.model.visual.state_dict())
    text.load_state_dict(encoder.model.language_model.state_dict())
    with torch.no_grad():
        want = with_types(encoder)(**call).hidden_states[-1]
        wrong = encoder(**call).hidden_states[-1]
        rows = torch.cat([tower(p, grid) for p, grid in zip(patches, grids)])
        embeds = text.embed(call["input_ids"])
        embeds[call["input_ids"] == PAD] = rows
        positions = picture_positions(ids, PAD, [(r // 2, c // 2) for r, c in grids])
        got = text(call["input_ids"], (), embeds, positions[:, None])
        cache = KeyValues(2)
        text(call["input_ids"][:, :3], [cache])
        tail = text(call["input_ids"][:, 3:], [cache], embeds[:, 3:], positions[:, None, 3:])
    types = (call["input_ids"] == PAD).int()
    theirs, _ = encoder.model.get_rope_index(call["input_ids"], types, call["image_grid_thw"])
    assert torch.equal(positions, theirs[:, 0])
    error, again, trap = measured(got, want), relative(tail, got[:, 3:]), relative(wrong, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert again < 1e-5, f"behind a kept prefix {again:.2e}"
    assert trap > 1e-2, f"the reference without token types differs by only {trap:.2e}"


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    return save_encoder(encoder, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def ours(folder):
    return load_text_encoder(folder)


def pipeline(name: str, model):
    import diffusers

    kind = {"edit": "QwenImageEditPipeline", "edit-plus": "QwenImageEditPlusPipeline"}[name]
    return getattr(diffusers, kind)(
        scheduler=None,
        vae=None,
        text_encoder=model,
        tokenizer=tiny.tokenizer(),
        processor=Processor(),
        transformer=None,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes, prompt",
    [
        ("edit", [(90, 61)], "make the {sky} red"),
        ("edit", [(33, 470)], " "),
        ("edit-plus", [(33, 47)], " "),
        ("edit-plus", [(640, 301), (47, 90)], "a 招牌"),
        ("edit-plus", [(64, 64), (300, 101), (101, 300)], "put 1 into 3"),
    ],
)
def test_states_of_an_edit(encoder, ours, monkeypatch, name, sizes, prompt):
    """prompt_embeds of the pipelines, with the positions that they mean."""
    edit = QWEN_IMAGE.edit(name)
    pictures = [image(*size, seed=n) for n, size in enumerate(sizes)]
    pipe = pipeline(name, encoder)
    copies = [
        pipe.image_processor.resize(theirs, *area_size(*theirs.size, edit.area)[::-1])
        for theirs, _ in pictures
    ]
    copies = copies[0] if name == "edit" else copies
    with torch.no_grad():
        wrong, _ = pipe.encode_prompt(prompt, image=copies)
        monkeypatch.setattr(encoder, "forward", with_types(encoder))
        want, mask = pipe.encode_prompt(prompt, image=copies)
    assert mask is None
    got = ours.encode_edit(prompt, [p for _, p in pictures], edit).states
    assert got.shape == want.shape, f"{list(got.shape)} {list(want.shape)}"
    error, trap = measured(got, want), relative(wrong, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert trap > 1e-2, f"the pipeline with plain positions differs by only {trap:.2e}"


def test_in_bf16(folder, ours):
    half = load_text_encoder(folder, LoadOptions(torch.bfloat16))
    _, picture = image(90, 61)
    got, want = (m.encode_edit("a", [picture], EDIT_PLUS).states for m in (half, ours))
    assert got.dtype == half.vision.open().network.merger.mlp[0].weight.dtype == torch.bfloat16
    error = measured(got, want)
    assert error < 4e-2, f"relative error {error:.2e}"


@pytest.mark.slow
def test_nothing_is_encoded_twice(folder, monkeypatch):
    model = load_text_encoder(folder)
    assert model.vision._model is None, "opened before an edit asks"
    model.encode("a cat")
    assert model.vision._model is None
    tower, calls = model.vision.open(), []
    assert tower.weights.placement is None, "read before an edit asks"
    encode, forward = tower._encode, TextEncoder.forward
    monkeypatch.setattr(tower, "_encode", lambda *a: calls.append("tower") or encode(*a))
    monkeypatch.setattr(
        TextEncoder, "forward", lambda self, *a: calls.append("text") or forward(self, *a)
    )
    pictures = [image(40, 30)[1], image(30, 40)[1]]
    first = model.encode_edit("red", pictures, EDIT_PLUS).states
    assert calls == ["tower", "tower", "text", "text"]  # of the latter one is the kept head
    assert torch.equal(
        model.encode_edit("red", [p.clone() for p in pictures], EDIT_PLUS).states, first
    )
    assert len(calls) == 4
    model.encode_edit("blue", pictures, EDIT_PLUS)
    assert calls[4:] == ["text"]
    swapped = model.encode_edit("red", pictures[::-1], EDIT_PLUS).states
    assert calls[5:] == ["text"] and not torch.equal(swapped, first)
    model.encode_edit("red", pictures[:1], EDIT)
    assert calls[6:] == ["tower", "text"]


def test_streamed_from_the_file(folder, ours):
    """The tower block by block gives the same bits."""
    model = load_text_encoder(folder)
    tower, (_, picture) = model.vision.open(), image(90, 61)
    rest, groups = tower.weights.sizes
    tower.weights._arrange(place(rest, groups, rest + 2 * max(groups)))
    assert tower.network.stream is not None
    monkey = tower.weights.settle
    tower.weights.settle = lambda *_: None
    got = tower.encode(picture, EDIT_PLUS.area).rows
    tower.weights.settle = monkey
    want = ours.vision.open().encode(picture, EDIT_PLUS.area).rows
    tower.weights.park()
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "pictures, prompt, edit, words",
    [
        ([], "a", EDIT, "take 1 picture, got 0. Connect a picture"),
        ([], "a", EDIT_PLUS, "at least 1 picture, got 0"),
        ([torch.rand(9, 9, 3)] * 2, "a", EDIT, "take 1 picture, got 2"),
        ([torch.rand(2, 9, 9, 3)], "a", EDIT, "one by one"),
        ([torch.rand(9, 9)], "a", EDIT, "expected one picture"),
        ([torch.rand(9, 9, 2)], "a", EDIT, "1, 3 or 4 channels"),
        ([torch.rand(0, 9, 3)], "a", EDIT, "expected one picture"),
        ([torch.full((9, 9, 3), torch.nan)], "a", EDIT, "not finite numbers"),
        ([torch.ones(9, 9, 3, dtype=torch.uint8)], "a", EDIT, "uint8"),
        ([torch.rand(10, 20000, 3)], "a", EDIT, "20000x10.*200:1. Crop"),
        ([torch.rand(190, 1, 3)], "a", EDIT, "1x190.*200:1"),  # its copy is narrower: 64 x 14112
        ([torch.rand(9, 9, 3)], "a <|image_pad|>", EDIT_PLUS, "Take it out of the prompt"),
    ],
)
def test_bad_calls_are_refused(ours, pictures, prompt, edit, words):
    with pytest.raises(InkstoneError, match=words):
        ours.encode_edit(prompt, pictures, edit)


def test_the_smallest_picture(ours):
    assert torch.isfinite(ours.encode_edit("", [torch.rand(1, 1, 4)], EDIT_PLUS).states).all()


def test_unknown_kinds_of_edit():
    with pytest.raises(InkstoneError, match="no edits of the kind 'layers'; it has edit, edit-p"):
        QWEN_IMAGE.edit("layers")


def test_places_must_fit_the_pictures():
    with pytest.raises(InkstoneError, match="has 2 <.image_pad.> tokens: expected 4, for 1 "):
        picture_positions([1, PAD, PAD, 2], PAD, [(2, 2)])
