"""Nodes that start from a picture, on tiny models and the embedded one in the headless host: the
result has the picture's size, outside the mask nothing changes, a new seed encodes nothing again.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.host.api import io
from inkstone.kernels.text_encoder import TextEncoder
from inkstone.kernels.vae import VAE
from inkstone.kernels.vision import VisionTower
from inkstone.loaders.arch.family import Preset
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.nodes.decode import Decode
from inkstone.nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent, SplitLayers
from inkstone.nodes.encode import EncodePrompt
from inkstone.nodes.inpaint import FILLS, Inpaint, PadForOutpaint, StitchPart
from inkstone.nodes.load import LoadDiffusionModel
from inkstone.nodes.sample import Denoise
from inkstone.nodes.schedule import SCHEDULES, ScheduleSigmas
from inkstone.pipeline.edit_choices import AUTO, LAYER_AREAS, MODEL, OWN
from inkstone.sampling import inpaint

from ..support.locked import picture

SIZES = [(33, 47), (71, 53), (64, 48), (17, 90)]


@pytest.fixture(scope="module")
def embedded():
    return load_all(None)


@pytest.fixture(scope="module")
def tiny_models(tiny_folder):
    return functools.cache(lambda kind: load_all(tiny_folder(kind), LoadOptions(torch.float32)))


def draw(models, positive, negative, latent, seed=1, steps=2, cfg=2.0, strength=1.0):
    sigmas = ScheduleSigmas.execute(models.model, latent, steps, SCHEDULES[0], strength)[0]
    drawn = Denoise.execute(
        models.model, positive, sigmas=sigmas, latent=latent, seed=seed, cfg=cfg, negative=negative
    )[0]
    return Decode.execute(models.vae, drawn)[0]


def prompts(models):
    return EncodePrompt.execute(models.text_encoder, "a red circle", "").args


def edit(models, *pictures, prompt="make it blue", work=AUTO):
    fixed = {f"images.picture_{n}": p for n, p in enumerate(pictures, 1)}
    args = (models.text_encoder, models.model, models.vae, prompt, " ", work)
    return EncodeEdit.execute(*args, **fixed).args


def mask_of(width, height):
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    return mask


def count_calls(monkeypatch, *kinds):
    """Every forward of these networks, and every encode of the VAE, by name."""
    calls = []
    for kind, name in kinds:
        real = getattr(kind, name)

        def counted(self, *a, real=real, kind=kind, **k):
            calls.append(kind.__name__)
            return real(self, *a, **k)

        monkeypatch.setattr(kind, name, counted)
    return calls


# --- sizes and masks


@pytest.mark.parametrize("size", SIZES)
def test_image_to_image_has_the_pictures_size(embedded, size):
    start = picture(*size)
    latent = ImageToLatent.execute(embedded.vae, start, AUTO)[0]
    assert latent["samples"].shape[-2:] == (-(-size[1] // 16) * 2, -(-size[0] // 16) * 2)
    made = draw(embedded, *prompts(embedded), latent, strength=0.5)
    assert made.shape == start.shape
    other = draw(embedded, *prompts(embedded), latent, seed=9, strength=0.5)
    assert not torch.equal(made, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", ["on", "off"])
def test_outside_the_mask_every_value_stays(embedded, size, crop):
    start = picture(*size)
    latent, stitch, part = Inpaint.execute(embedded.vae, start, mask_of(*size), 0, 3, crop, OWN)
    assert part.shape[1] % 16 == 0 and part.shape[2] % 16 == 0
    drawn = draw(embedded, *prompts(embedded), latent)
    done = StitchPart.execute(drawn, stitch)[0]
    kept = mask_of(*size)[0] == 0
    assert done.shape == start.shape and torch.equal(done[:, kept], start[:, kept])
    assert not torch.equal(done, start)


def test_a_part_is_enlarged_and_put_back_whoever_decoded_it(embedded):
    """The core's decode gives the whole canvas, ours the part's own size: both can be stitched."""
    start, mask = picture(320, 260), torch.zeros(1, 260, 320)
    mask[:, 40:60, 30:60] = 1
    latent, stitch, part = Inpaint.execute(embedded.vae, start, mask, 0, 0, AUTO, AUTO)
    assert stitch.crop.box.size != (320, 260), "larger than the model draws: only a part is drawn"
    whole = embedded.vae.decode(latent["samples"])
    ours = Decode.execute(embedded.vae, latent)[0]
    assert whole.shape == part.shape and ours.shape[1:3] != whole.shape[1:3]
    a, b = (StitchPart.execute(x, stitch)[0] for x in (whole, ours))
    assert torch.equal(a, b)


def test_core_masks_and_references_are_taken(tiny_models, embedded):
    """SetLatentNoiseMask and ReferenceLatent together with our own encoders give what ours give."""
    start, size = picture(48, 32), (48, 32)
    latent = ImageToLatent.execute(embedded.vae, start, OWN)[0]
    masked = CORE_NODES["SetLatentNoiseMask"].execute(latent, mask_of(*size))[0]
    ours = Inpaint.execute(embedded.vae, start, mask_of(*size), 0, 0, "off", OWN)[0]
    texts = prompts(embedded)
    assert torch.equal(draw(embedded, *texts, masked), draw(embedded, *texts, ours))

    models = tiny_models("edit-2509")
    positive, negative, canvas = edit(models, start)
    plain = [
        [[states, {k: v for k, v in said.items() if k == "pooled_output"}]]
        for ((states, said),) in (positive, negative)
    ]
    z = {"samples": models.vae.encode(start)[:, :, 0]}  # 4-D, as some core nodes give
    core = [CORE_NODES["ReferenceLatent"].execute(c, z)[0] for c in plain]
    assert torch.equal(draw(models, positive, negative, canvas), draw(models, *core, canvas))


@pytest.mark.parametrize("fill", FILLS)
def test_outpaint(embedded, fill):
    start = picture(45, 38)
    wider, mask = PadForOutpaint.execute(start, 5, 0, 19, 7, fill, 4).args
    assert wider.shape == (1, 45, 69, 3) and mask.shape == (1, 45, 69)
    latent, stitch, _ = Inpaint.execute(embedded.vae, wider, mask, 0, 0, "off", OWN)
    done = StitchPart.execute(draw(embedded, *prompts(embedded), latent), stitch)[0]
    assert done.shape == wider.shape
    assert torch.equal(done[:, :38, 5:50], start), "the old picture lies in the new one, unchanged"


def test_fills_are_those_of_the_function():
    assert FILLS == inpaint.FILLS


# --- edits


@pytest.mark.parametrize("kind", ["edit-2509", "edit-2511"])
def test_edit_of_three_pictures_has_the_size_of_the_first(tiny_models, kind):
    models = tiny_models(kind)
    pictures = [picture(47, 33, seed=1), picture(64, 48, seed=2), picture(30, 70, seed=3)]
    positive, negative, latent = edit(models, *pictures)
    said = positive[0][1]
    assert [tuple(z.shape[-2:]) for z in said["reference_latents"]] == [(6, 6), (6, 8), (10, 4)]
    assert said["inkstone_variant"] == kind
    made = draw(models, positive, negative, latent)
    assert made.shape == pictures[0].shape
    other = edit(models, pictures[0], pictures[2], pictures[1])
    assert not torch.equal(draw(models, *other), made), "the order of the pictures counts"


def test_edit_inside_a_mask(tiny_models):
    models, start = tiny_models("edit-2511"), picture(52, 41)
    latent, stitch, part = Inpaint.execute(models.vae, start, mask_of(52, 41), 2, 2, "on", OWN)
    positive, negative, own = edit(models, part)
    assert own["samples"].shape == latent["samples"].shape, "one grid for reference and canvas"
    done = StitchPart.execute(draw(models, positive, negative, latent), stitch)[0]
    kept = stitch.mask[0] == 0
    assert done.shape == start.shape and torch.equal(done[:, kept], start[:, kept])


def test_a_new_seed_encodes_nothing(tiny_models, monkeypatch):
    """Also where the host forgot what the nodes gave."""
    models, start = tiny_models("edit-2509"), picture(40, 40, seed=8)
    edit(models, start)
    calls = count_calls(
        monkeypatch, (TextEncoder, "forward"), (VisionTower, "forward"), (VAE, "moments")
    )
    draw(models, *edit(models, start.clone()), seed=5)
    assert calls == []
    edit(models, start.clone(), prompt="make it green")
    assert calls == ["TextEncoder"], "other words: the pictures are not encoded again"
    edit(models, 1 - start)
    assert sorted(set(calls)) == ["TextEncoder", "VAE", "VisionTower"]


def test_gaps_between_pictures_close_up(tiny_models):
    models, a, b = tiny_models("edit-2509"), picture(32, 32, seed=1), picture(32, 48, seed=2)
    given = {"images.picture_4": b, "images.picture_1": a, "images.picture_2": None}
    args = (models.text_encoder, models.model, models.vae, "make it blue", " ", AUTO)
    with_gap, plain = EncodeEdit.execute(*args, **given), edit(models, a, b)
    grown = EncodeEdit.execute(*args, images={"picture_1": a, "picture_4": b})
    assert torch.equal(with_gap[0][0][0], plain[0][0][0])
    assert torch.equal(grown[0][0][0], plain[0][0][0])


def test_pictures_grow_where_the_host_can(monkeypatch):
    class Autogrow:
        class TemplateNames:
            def __init__(self, input, names, min):
                self.input, self.names, self.min = input, names, min

        class Input:
            def __init__(self, id, template, tooltip):
                self.id, self.template, self.tooltip = id, template, tooltip

    fixed = [i for i in EncodeEdit.define_schema().inputs if i.id.startswith("images.")]
    assert [i.display_name for i in fixed] == [f"Picture {n}" for n in (1, 2, 3, 4)]
    assert [i.optional for i in fixed] == [False, True, True, True]
    monkeypatch.setattr(io, "Autogrow", Autogrow, raising=False)
    (grown,) = (i for i in EncodeEdit.define_schema().inputs if i.id == "images")
    assert [f"images.{n}" for n in grown.template.names[:4]] == [i.id for i in fixed]
    assert grown.template.input.get_io_type() == "IMAGE" and len(grown.template.names) <= 100


def test_layers(tiny_models, monkeypatch):
    models, start, area = tiny_models("layered"), picture(40, 33, channels=4), "640x640"
    monkeypatch.setitem(LAYER_AREAS, area, 4096)
    args = (models.text_encoder, models.vae, start, "a thing", " ", 2, area)
    positive, negative, latent = EncodeLayers.execute(*args).args
    layers = draw(models, positive, negative, latent)
    assert layers.shape == (2, 33, 40, 4)
    image, mask = SplitLayers.execute(layers).args
    assert torch.equal(image, layers[..., :3]) and torch.equal(mask, 1 - layers[..., 3])
    flat, none = SplitLayers.execute(layers[..., :3]).args
    assert torch.equal(flat, image) and none.shape == mask.shape and none.max() == 0


def test_the_size_to_work_at(embedded):
    """auto: own where the model draws that; larger ones at the model's, and back."""
    vae = embedded.vae
    sizes = {
        work: ImageToLatent.execute(vae, picture(200, 100), work)[0]["inkstone_lock"].work
        for work in (AUTO, OWN, MODEL)
    }
    assert sizes == {AUTO: (181, 91), OWN: (200, 100), MODEL: (181, 91)}
    assert ImageToLatent.execute(vae, picture(60, 40), AUTO)[0]["inkstone_lock"].work == (60, 40)
    large = replace(vae, family=replace(vae.family, preset=Preset(1, 1.0, "", (64, 64))))
    assert ImageToLatent.execute(large, picture(60, 40), MODEL)[0]["inkstone_lock"].work == (78, 52)


# --- what cannot be


def wrong_edit(models, **change):
    args = dict(models=models, work=AUTO, pictures=[picture(32, 32)]) | change
    return lambda: edit(args["models"], *args["pictures"], work=args["work"])


BAD = {
    "text-to-image model": ("qwen-image", {}, "qwen-image, which takes no reference pictures"),
    "layered model": ("layered", {}, "Inkstone Encode Layers"),
    "no picture": ("edit-2509", dict(pictures=[]), "take at least 1 picture, got 0"),
    "two for Edit": ("edit", dict(pictures=[picture(32, 32)] * 2), "take 1 picture, got 2"),
    "a batch": ("edit-2509", dict(pictures=[torch.cat([picture(32, 32)] * 3)]), "batch of 3"),
    "8-bit": ("edit-2509", dict(pictures=[torch.ones(1, 8, 8, 3, dtype=torch.uint8)]), "by 255"),
    "2 channels": ("edit-2509", dict(pictures=[torch.ones(1, 8, 8, 2)]), "1 .grey., 3 .RGB."),
    "NaN": ("edit-2509", dict(pictures=[picture(8, 8) * float("nan")]), "nan"),
    "too narrow": ("edit-2509", dict(pictures=[picture(2000, 4)]), "ratios up to 200:1"),
    "work size": ("edit-2509", dict(work="huge"), "'huge'"),
}


@pytest.mark.parametrize("what", BAD)
def test_wrong_edits_are_refused(tiny_models, what):
    kind, change, words = BAD[what]
    with pytest.raises(InkstoneError, match=words):
        wrong_edit(tiny_models(kind), **change)()


def test_a_model_that_does_not_say_is_asked(tiny_models):
    models = tiny_models("edit-2509")
    silent = replace(models, model=replace(models.model, variant=None))
    with pytest.raises(InkstoneError, match="Choose the variant where the model is loaded"):
        edit(silent, picture(32, 32))


def test_variants_do_not_mix(tiny_models):
    """A prompt encoded for one variant is refused by the other, and so are wrong methods."""
    plain, zero = tiny_models("edit-2509"), tiny_models("edit-2511")
    positive, negative, latent = edit(plain, picture(32, 32))
    with pytest.raises(InkstoneError, match="encoded for edit-2509, the diffusion model is edit-2"):
        draw(zero, positive, negative, latent)
    core = [[positive[0][0], {**positive[0][1], "reference_latents_method": "index_timestep_zero"}]]
    with pytest.raises(InkstoneError, match="choose variant edit-2511"):
        draw(plain, core, negative, latent)
    other = edit(plain, picture(32, 32), picture(48, 32))[1]
    with pytest.raises(InkstoneError, match="1 reference pictures, the negative 2"):
        draw(plain, positive, other, latent)


def test_wrong_parts_are_refused(embedded):
    start, vae = picture(48, 32), embedded.vae
    for mask, words in (
        (torch.zeros(1, 32, 48), "mask is empty"),
        (torch.zeros(1, 64, 64), "mask is empty"),  # what Load Image gives without alpha
        (torch.ones(3, 32, 48, 1), r"The mask has shape \[3, 32, 48, 1\]"),
    ):
        with pytest.raises(InkstoneError, match=words):
            Inpaint.execute(vae, start, mask, 0, 0, AUTO, AUTO)
    with pytest.raises(InkstoneError, match="Crop is 'maybe'"):
        Inpaint.execute(vae, start, mask_of(48, 32), 0, 0, "maybe", AUTO)
    with pytest.raises(InkstoneError, match="nothing to draw"):
        PadForOutpaint.execute(start, 0, 0, 0, 0, "edge", 0)
    _, stitch, _ = Inpaint.execute(vae, start, mask_of(48, 32), 0, 0, "off", OWN)
    with pytest.raises(InkstoneError, match="The result is 16x16"):
        StitchPart.execute(picture(16, 16), stitch)
    with pytest.raises(InkstoneError, match="Inkstone Inpaint"):
        StitchPart.execute(start, mask_of(48, 32))
    with pytest.raises(InkstoneError, match="without alpha"):
        EncodeLayers.execute(embedded.text_encoder, vae, start, "a", " ", 2, "640x640")
    with pytest.raises(InkstoneError, match="Denoising strength is 0"):
        ScheduleSigmas.execute(embedded.model, {"samples": vae.encode(start)}, 2, SCHEDULES[0], 0.0)


def test_a_mask_of_ones_draws_all_of_it(embedded):
    start, texts = picture(48, 32), prompts(embedded)
    latent, stitch, _ = Inpaint.execute(embedded.vae, start, torch.ones(1, 4, 4), 0, 5, "off", OWN)
    done = StitchPart.execute(draw(embedded, *texts, latent), stitch)[0]
    free = draw(embedded, *texts, {"samples": latent["samples"] * 0})
    assert torch.equal(done, free)


def test_the_loader_takes_the_variant():
    (combo,) = (i for i in LoadDiffusionModel.define_schema().inputs if i.id == "variant")
    assert combo.options[0] == combo.default == "auto" and "edit-2511" in combo.options
