"""The variant that a model shows, and the choice of one that it does not show."""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.family import EDIT, EDIT_21, EDIT_PLUS, QWEN_IMAGE_21, EditTemplate
from inkstone.loaders.arch.variant import CHOICES, CLASSES, VARIANTS, choose_variant, detect_variant
from inkstone.loaders.models.image_processor import rgb_bytes
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.edit import seen_pictures
from inkstone.pipeline.weight_rows import Matrices
from inkstone.sampling.pixel_lock import lock, over_white, visible
from inkstone.sampling.schedule import LAYERED, QWEN, sigmas

from ..support.edit_models import WAITING, single


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, name",
    [
        ("qwen-image", "qwen-image"),
        ("img2img", "qwen-image"),
        ("edit", "edit"),
        ("edit-inpaint", "edit"),
        ("edit-2509", "edit-2509"),
        ("edit-2511", "edit-2511"),
        ("layered", "layered"),
    ],
)
def test_a_folder_says_its_variant(folder, kind, name):
    for root in (folder(kind), folder(kind) / "transformer"):
        model = load_diffusion_model(root, WAITING)
        assert model.variant is VARIANTS[name] and model.apart == (name == "edit-2511")
        same = choose_variant(model.variant, name, "qwen-image", root)
        assert same is model.variant
    templates = {"edit": EDIT, "edit-2509": EDIT_PLUS, "edit-2511": EDIT_PLUS}
    assert model.edit is templates.get(name)
    if name == "layered":  # its schedule follows one layer's tokens, as the pipeline does it
        assert model.schedule.by_root and model.schedule.mu(1024) == 2
        assert torch.equal(sigmas(model.schedule, 9, 300), sigmas(LAYERED, 9, 300))
    else:
        assert model.schedule == QWEN


@pytest.mark.parametrize("kind", ["qwen-image", "edit-2509"])
def test_a_file_without_marks_says_nothing(folder, kind, tmp_path):
    """Tensors of base, Edit and Edit-2509 are identical; the user says it, and can be wrong only
    where nothing speaks against it."""
    path = single(folder(kind), tmp_path)
    assert load_diffusion_model(path, WAITING).variant is None
    for name in (n for n in CHOICES if VARIANTS[n].family == "qwen-image"):
        want = LoadOptions(torch.float32, wait=True, variant=name)
        if name == "layered":
            with pytest.raises(InkstoneError, match="lacks the tensor .*addition_t_embedding"):
                load_diffusion_model(path, want)
        else:
            assert load_diffusion_model(path, want).variant is VARIANTS[name]


def test_a_file_with_a_mark_says_it(folder, tmp_path):
    path = single(folder("qwen-image"), tmp_path, None, {"__index_timestep_zero__": torch.empty(0)})
    assert load_diffusion_model(path, WAITING).variant is VARIANTS["edit-2511"]
    path = single(folder("layered"), tmp_path)
    assert load_diffusion_model(path, WAITING).variant is VARIANTS["layered"]
    assert load_diffusion_model(path, WAITING).schedule == LAYERED
    path = single(folder("qwen-image"), tmp_path, {"inkstone_variant": "edit"})
    assert load_diffusion_model(path, WAITING).variant is VARIANTS["edit"]
    path = single(folder("qwen-image"), tmp_path, {"inkstone_variant": "another"})
    assert load_diffusion_model(path, WAITING).variant is None
    path = single(folder("qwen-image"), tmp_path, {"inkstone_variant": "layered"})
    with pytest.raises(InkstoneError, match="addition_t_embedding.*got nothing"):
        load_diffusion_model(path, WAITING)


@pytest.mark.parametrize(
    "kind, wanted",
    [
        ("edit-2511", "edit-2509"),
        ("edit-2509", "edit-2511"),
        ("layered", "qwen-image"),
        ("qwen-image", "edit"),
    ],
)
def test_a_choice_against_the_model_is_refused(folder, kind, wanted):
    with pytest.raises(InkstoneError, match=f"chosen variant is {wanted}.* is {kind} "):
        load_diffusion_model(folder(kind), LoadOptions(torch.float32, wait=True, variant=wanted))


def test_unknown_choices(folder):
    with pytest.raises(
        InkstoneError, match="'edit-2600' is not one.*or choose one of qwen-image, e"
    ):
        load_diffusion_model(folder("edit"), LoadOptions(wait=True, variant="edit-2600"))
    with pytest.raises(InkstoneError, match="'edit' is not one of the inkstone-embedded models"):
        load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(wait=True, variant="edit"))


def test_weights_count_more_than_the_folder(folder, caplog):
    """A 2511 transformer in a folder of the first Edit."""
    assert (
        detect_variant("qwen-image", "edit-2511", "QwenImageEditPipeline") is VARIANTS["edit-2511"]
    )
    assert "weights are those of edit-2511" in caplog.text
    caplog.clear()
    assert (
        detect_variant("qwen-image", "edit-2511", "QwenImageEditPlusPipeline")
        is VARIANTS["edit-2511"]
    )
    assert detect_variant("qwen-image", "", "FluxPipeline") is None
    assert detect_variant("inkstone-embedded", "", "QwenImagePipeline") is VARIANTS["embedded"]
    assert (
        detect_variant("inkstone-embedded", "embedded-edit", "QwenImagePipeline").edit
        == "references"
    )
    assert not caplog.text
    assert {name for names in CLASSES.values() for name in names} <= set(CHOICES)


def test_the_embedded_model_is_one_without_or_with_edits(tmp_path):
    made = load_diffusion_model(EMBEDDED_FOLDER, WAITING)
    assert made.variant is VARIANTS["embedded-edit"] and made.apart
    source = EMBEDDED_FOLDER / "transformer"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"zero_cond_t": False}))
    made = load_diffusion_model(tmp_path, WAITING)
    assert made.variant is VARIANTS["embedded"] and not made.apart


def test_a_quantized_copy_keeps_the_variant(folder):
    for kind in ("edit-2511", "edit-2509"):
        with Matrices(folder(kind)) as model:
            assert model.metadata == {"inkstone_variant": kind}
    with Matrices(EMBEDDED_FOLDER) as model:
        assert model.metadata["inkstone_variant"].startswith("embedded")


def test_templates_without_pictures_encode_the_prompt(folder):
    """Small models get pictures only in the diffusion model."""
    words = load_all(folder("edit")).text_encoder
    blind = EditTemplate("references", "{}", "", 0, 1, 2, 2, steps=1, cfg=1.0, sees=False)
    picture = torch.rand(20, 20, 3)
    assert torch.equal(
        words.encode_edit("a cat", [picture], blind).states, words.encode("a cat").states
    )
    assert words.vision._model is None, "the vision tower was opened"
    with pytest.raises(InkstoneError, match="take 2 picture, got 3"):
        words.encode_edit("a cat", [picture] * 3, blind)


@pytest.mark.parametrize("area", [None, 96 * 64])
def test_a_transparent_reference_is_laid_over_white_once(area):
    """By the vision tower, from the copy that the VAE encodes: the reference's order. At its own
    size a picture gives the bytes of one that was laid over white before."""
    picture = torch.rand(1, 140, 180, 4, generator=torch.Generator().manual_seed(5))
    picture[:, :50, :50, 3], picture[:, 60:90, :, 3] = 0, 1
    own = lock(180, 140, area, latents=QWEN_IMAGE_21.latents)
    assert (own.work == own.picture) == (area is None)
    (seen,) = seen_pictures(EDIT_21, [picture], [own])
    assert torch.equal(seen, own.to_canvas(visible(picture)))
    got = rgb_bytes(seen, white=True)
    want = over_white(seen)[0].mul(255).round().to(torch.uint8)
    assert torch.equal(got, want)
    before = rgb_bytes(own.to_canvas(over_white(picture)), white=True)
    levels = (got.int() - before.int()).abs()
    assert torch.equal(got, before) or area, f"{levels.max()} levels"
    assert levels.float().mean() < 0.2, f"{levels.float().mean():.2f} levels on average"
