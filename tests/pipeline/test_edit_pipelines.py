"""Edits, image to image, inpainting and layers against diffusers' pipelines, float32.

Final latents within 1e-4 relative, on the same weights, noise and pictures. References are
corrected, see tests/support/edits.py; where that matters the difference is shown.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas, tail
from inkstone.sampling.vision_sizes import area_size

from ..support.edits import AREA, Pair, build, copy_of, corrected, encoded, raw
from ..support.oracle import measured, relative
from ..support.vision import image

PROMPT, NEGATIVE = "make the sky red and the cat larger", "blurry"
LIMIT = 1e-4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Each kind is built once."""
    made: dict[str, Pair] = {}

    def get(kind: str) -> Pair:
        if kind not in made:
            torch.manual_seed(11)
            made[kind] = build(kind, tmp_path_factory.mktemp(kind) / "model")
        return made[kind]

    return get


def reference(kind: str, pipe, call: dict, seeds: list[int], types: bool = True) -> torch.Tensor:
    """Packed latents of the reference."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad(), corrected(kind, pipe, types):
        return pipe(
            prompt=PROMPT,
            generator=generators,
            num_images_per_prompt=len(seeds),
            output_type="latent",
            **call,
        ).images


def levels(bundle, size: tuple[int, int], steps: int) -> torch.Tensor:
    return sigmas(bundle.model.schedule, steps, size[0] // 16 * (size[1] // 16))


def compare(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape, f"{list(got.shape)}, expected {list(want.shape)}"
    error, most = measured(got, want), (got - want).abs().max().item()
    print(f"latents {error:.1e} relative, at most {most:.1e}")
    assert error < LIMIT, f"latents differ by {error:.2e} relative, at most {most:.2e}"


EDITS = [
    # kind, sizes of the pictures, size drawn (None: by the last picture), steps, cfg, batch
    ("edit", [(90, 61)], None, 3, 4.0, 1),
    ("edit", [(61, 90)], (112, 80), 3, 4.0, 2),
    ("edit", [(90, 61)], (80, 48), 4, 1.0, 1),
    ("edit-2509", [(90, 61)], None, 3, 4.0, 1),
    ("edit-2509", [(61, 90), (120, 50)], None, 3, 4.0, 1),
    ("edit-2509", [(64, 64), (150, 51), (51, 150)], (112, 80), 3, 4.0, 1),
    ("edit-2509", [(64, 64), (90, 61)], (80, 112), 3, 1.0, 2),
    ("edit-2511", [(90, 61)], None, 3, 1.0, 1),
    ("edit-2511", [(61, 90), (120, 50)], (112, 80), 3, 4.0, 1),
    ("edit-2511", [(64, 64), (150, 51), (51, 150)], None, 4, 4.0, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", EDITS, ids=lambda c: f"{c[0]} {len(c[1])} {c[2]} cfg{c[4]:g} b{c[5]}"
)
def test_edits(pair, case):
    kind, sizes, size, steps, cfg, batch = case
    pipe, bundle = pair(kind).pipe, load_all(pair(kind).folder, LoadOptions(torch.float32))
    assert bundle.model.variant.name == kind
    theirs, ours = zip(*(image(*one, seed=n) for n, one in enumerate(sizes)))
    seeds = [5 + k for k in range(batch)]
    call = dict(
        image=theirs[0] if kind == "edit" else list(theirs),
        true_cfg_scale=cfg,
        negative_prompt=NEGATIVE,
        num_inference_steps=steps,
    ) | (dict(width=size[0], height=size[1]) if size else {})
    first, size = size is None, size or area_size(*sizes[-1], AREA)
    want = raw(pipe, reference(kind, pipe, call, seeds), size)
    texts = encoded(bundle, (PROMPT, NEGATIVE if cfg > 1 else None), list(ours))
    references = tuple(bundle.vae.encode(copy_of(picture)) for picture in theirs)
    request = Request(
        *size,
        levels(bundle, size, steps),
        seed=5,
        batch=batch,
        cfg=cfg,
        references=references,
        encoded_for=kind,
    )
    compare(denoise(bundle.model, *texts, request), want)
    if first:  # what the pipeline draws as it is: picture tokens are numbered like text
        trap = relative(raw(pipe, reference(kind, pipe, call, seeds, types=False), size), want)
        assert trap > 2 * LIMIT, f"the reference without token types differs by only {trap:.1e}"


def masked(size: tuple[int, int]) -> tuple[Image.Image, torch.Tensor]:
    """A PIL mask of a size, and the reference's rule for latents: every eighth pixel."""
    width, height = size
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2 + 5, width // 3 :] = 1
    pixels = (mask[0, 0] * 255).to(torch.uint8).numpy()
    return Image.fromarray(pixels), F.interpolate(mask, size=(height // 8, width // 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "strength, steps, cfg, batch", [(0.6, 5, 4.0, 1), (0.33, 7, 1.0, 2), (1.0, 3, 4.0, 2)]
)
@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_from_a_picture(pair, kind, strength, steps, cfg, batch):
    size = (112, 80)
    pipe, bundle = pair(kind).pipe, load_all(pair(kind).folder, LoadOptions(torch.float32))
    picture, pixels = image(*size)
    seeds = [5 + k for k in range(batch)]
    call = dict(
        image=picture,
        width=size[0],
        height=size[1],
        strength=strength,
        true_cfg_scale=cfg,
        negative_prompt=NEGATIVE,
        num_inference_steps=steps,
    )
    mask, repaint = masked(size) if kind == "inpaint" else (None, None)
    want = reference(kind, pipe, call | (dict(mask_image=mask) if mask else {}), seeds)
    texts = encoded(bundle, (PROMPT, NEGATIVE if cfg > 1 else None), [])
    latent = bundle.vae.encode(pixels[None])
    request = Request(
        *size,
        tail(levels(bundle, size, steps), strength),
        seed=5,
        batch=batch,
        cfg=cfg,
        latent=latent,
        repaint=repaint,
    )
    got = denoise(bundle.model, *texts, request)
    compare(got, raw(pipe, want, size))
    if repaint is not None:
        kept = (got - latent).abs() * (repaint[:, :, None] == 0)
        assert kept.max() < 1e-5, f"what is kept moved by {kept.max():.1e}"
        assert ((got - latent).abs() * repaint[:, :, None]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("strength, steps, cfg", [(0.6, 5, 4.0), (1.0, 3, 1.0)])
def test_inpainting_with_an_edit_model(pair, strength, steps, cfg):
    pipe, bundle = (
        pair("edit-inpaint").pipe,
        load_all(pair("edit-inpaint").folder, LoadOptions(torch.float32)),
    )
    picture, pixels = image(90, 61)
    size = area_size(90, 61, AREA)
    mask, repaint = masked(size)
    call = dict(
        image=picture,
        mask_image=mask,
        strength=strength,
        true_cfg_scale=cfg,
        negative_prompt=NEGATIVE,
        num_inference_steps=steps,
    )
    want = reference("edit-inpaint", pipe, call, [5])
    texts = encoded(bundle, (PROMPT, NEGATIVE if cfg > 1 else None), [pixels])
    latent = bundle.vae.encode(copy_of(picture))
    request = Request(
        *size,
        tail(levels(bundle, size, steps), strength),
        seed=5,
        cfg=cfg,
        latent=latent,
        references=(latent,),
        repaint=repaint,
    )
    compare(denoise(bundle.model, *texts, request), raw(pipe, want, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layers, picture, cfg", [(2, (90, 61), 4.0), (3, (61, 90), 1.0), (1, (64, 64), 4.0)]
)
def test_layers(pair, layers, picture, cfg):
    """Latents, and the pictures with alpha that the VAE makes of them."""
    pipe, bundle = (
        pair("layered").pipe,
        load_all(pair("layered").folder, LoadOptions(torch.float32)),
    )
    assert bundle.model.variant.name == "layered" and bundle.vae.network.config.channels == 4
    g = torch.Generator().manual_seed(1)
    rgba = torch.randint(0, 256, (picture[1], picture[0], 4), generator=g, dtype=torch.uint8)
    theirs, size, seen = Image.fromarray(rgba.numpy()), area_size(*picture, AREA), []
    with torch.no_grad(), corrected("layered", pipe):
        pictures = pipe(  # it cannot return latents
            image=theirs,
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            true_cfg_scale=cfg,
            layers=layers,
            num_inference_steps=3,
            generator=[torch.Generator().manual_seed(5)],
            output_type="pt",
            callback_on_step_end=lambda p, i, t, state: seen.append(state["latents"]) or state,
        ).images[0]
    want = raw(pipe, seen[-1], size, layers + 1)[:, :, 1:]
    texts = encoded(bundle, (PROMPT, NEGATIVE if cfg > 1 else None), [])
    request = Request(
        *size,
        levels(bundle, size, 3),
        seed=5,
        cfg=cfg,
        layers=layers,
        references=(bundle.vae.encode(copy_of(theirs)),),
    )
    got = denoise(bundle.model, *texts, request)
    compare(got, want)
    made = bundle.vae.decode(got)
    assert made.shape == (layers, size[1], size[0], 4)
    worst = (made.permute(0, 3, 1, 2) - pictures).abs().max().item()
    assert worst < 1 / 255, f"pictures differ by {worst * 255:.2f}/255"


def test_the_layered_schedule():
    """mu = sqrt(tokens of a layer / 256), linear, no terminal: the published numbers."""
    from inkstone.sampling.schedule import LAYERED

    for side, index, value in ((640, 1, 0.991903), (1024, 1, 0.994924), (640, 49, 0.048544)):
        got = sigmas(LAYERED, 50, (side // 16) ** 2)
        assert abs(got[index].item() - value) < 1e-6 and got[-1] == 0, f"{side}: {got[index]}"


@pytest.mark.parametrize(
    "steps, strength, done",
    [(50, 0.6, 30), (50, 0.33, 17), (30, 0.85, 26), (50, 1.0, 50), (4, 0.3, 2), (1, 0.5, 1)],
)
def test_the_tail_of_a_schedule(steps, strength, done):
    whole = torch.linspace(1, 0, steps + 1)
    assert torch.equal(tail(whole, strength), whole[steps - done :])
