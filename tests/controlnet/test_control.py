"""Controls on the embedded model, with random weights: when they run, what they add, how they lie
on the canvas, what is refused, and nodes and command line against the functions.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from inkstone.controlnet.canvas import canvas_of
from inkstone.controlnet.control_picture import ControlInput, Effect
from inkstone.controlnet.masks import region
from inkstone.errors import InkstoneError
from inkstone.kernels.control_instantx import ControlBranch, Spread
from inkstone.loaders.arch.variant import VARIANTS
from inkstone.loaders.memory import placement, residency
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.geometry import FITS, check_canvas
from inkstone.sampling.inpaint import crop_for
from inkstone.sampling.pixel_lock import lock, resized
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support.controls import mask_of
from ..support.locked import picture
from ..support.oracle import measured, relative

SIZE, STEPS = (64, 48), 4
G = torch.Generator().manual_seed(5)
POSITIVE, NEGATIVE = torch.randn(1, 9, 128, generator=G), torch.randn(1, 2, 128, generator=G)


def control(model, bundle, seed=0, mask=None, effect=(), size=SIZE, count=1):
    pictures = torch.cat([picture(*size, seed=seed + k) for k in range(count)])
    return ControlInput(model, bundle.vae, pictures, Effect(*effect), mask).on(canvas_of(*SIZE))


def drawn(model, *controls, batch=1, cfg=3.0, seed=3, **more):
    request = Request(
        *SIZE, sigmas(LINEAR, STEPS, 12), seed=seed, cfg=cfg, batch=batch, controls=controls, **more
    )
    return denoise(model, POSITIVE, NEGATIVE if cfg > 1 else None, request)


@pytest.fixture
def runs(monkeypatch):
    """Counts the passes of control branches."""
    seen, walk = Counter(), ControlBranch.walk

    def count(self, *args):
        seen[id(self)] += 1
        return walk(self, *args)

    monkeypatch.setattr(ControlBranch, "walk", count)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("effect", [(0.0,), (1.0, 0.1, 0.3), (1.0, 0.8, 1.0)])
def test_without_effect_is_without_control(bundle, union, effect, runs):
    plain = drawn(bundle.model)
    got = drawn(bundle.model, control(union, bundle, effect=effect))
    assert torch.equal(got, plain) and not runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "start, end, steps", [(0, 1, 4), (0, 0.5, 2), (0.25, 0.8, 2), (0.75, 1, 1)]
)
def test_it_runs_once_in_each_step_in_which_it_acts(bundle, union, runs, start, end, steps):
    plain = drawn(bundle.model)
    got = drawn(bundle.model, control(union, bundle, effect=(1.0, start, end)))
    assert runs[id(union.network)] == steps, runs
    assert relative(got, plain) > 1e-3


def test_what_a_spread_adds():
    samples, x = [torch.randn(1, 3, 8) for _ in range(2)], torch.randn(1, 5, 8)
    twice = [Spread(samples, s) for s in (0.5, 1.0)]
    added = [s(3, 5, x.clone()) - x for s in twice]  # no gradients are asked of x
    with torch.no_grad():
        inplace = twice[1](3, 5, x.clone()) - x
    assert torch.equal(added[1], inplace) and torch.allclose(2 * added[0], added[1], atol=1e-6)
    assert torch.allclose(added[1][:, :3], samples[1], atol=1e-6)
    assert not added[1][:, 3:].any(), "references behind the target stay as they are"
    assert torch.allclose(twice[1](2, 5, x.clone())[:, :3] - x[:, :3], samples[0], atol=1e-6)


@pytest.mark.slow
def test_two_halves_are_one_and_order_does_not_count(bundle, union, inpainting):
    half = control(union, bundle, effect=(0.5,))
    whole = drawn(bundle.model, replace(half, strength=1.0))
    error = measured(drawn(bundle.model, half, half), whole)
    assert error < 1e-5, f"two halves differ from one by {error:.1e}"
    other = control(inpainting, bundle, 4, mask_of(*SIZE))  # three samples together with two
    a, b = drawn(bundle.model, half, other), drawn(bundle.model, other, half)
    assert relative(a, b) < 1e-5 and relative(a, drawn(bundle.model, half)) > 1e-3


def test_a_batch_is_its_singles(bundle, union):
    masks = torch.cat([mask_of(*SIZE), torch.ones(1, 48, 64)])
    both = drawn(bundle.model, control(union, bundle, 7, masks, count=2), batch=2)
    for k in range(2):
        one = control(union, bundle, 7 + k, masks[k : k + 1])
        error = measured(both[k : k + 1], drawn(bundle.model, one, seed=3 + k))
        assert error < 1e-5, f"picture {k} of the batch: {error:.1e}"


@pytest.mark.slow
def test_where_it_acts(bundle, union):
    everywhere, nowhere = torch.ones(1, 48, 64), torch.zeros(1, 48, 64)
    plain, whole = drawn(bundle.model), drawn(bundle.model, control(union, bundle))
    assert region(everywhere) is None
    assert torch.equal(drawn(bundle.model, control(union, bundle, mask=everywhere)), whole)
    assert torch.equal(drawn(bundle.model, control(union, bundle, mask=nowhere)), plain)
    left = everywhere.clone()
    left[:, :, 24:] = 0
    made = region(left)
    assert made.shape == (1, 1, 3, 4) and made[0, 0, 0].tolist() == [1, 0.5, 0, 0]
    moved = (
        (drawn(bundle.model, control(union, bundle, mask=left)) - plain).abs().mean((0, 1, 2, 3))
    )
    assert moved[:4].mean() > 2 * moved[-2:].mean(), f"moved by column: {moved.tolist()}"


@pytest.mark.slow
def test_with_references_and_cfg_at_once(files, bundle, union, monkeypatch):
    """An edit model: controls move the target, and streaming changes no bit."""
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    want = LoadOptions(torch.float32, wait=True)
    model, branch = load_diffusion_model(EMBEDDED_FOLDER, want), load_control(files["union"], want)
    model = replace(model, variant=VARIANTS["embedded-edit"])
    one = control(branch, bundle)
    extra = dict(references=(bundle.vae.encode(picture(32, 48)),), batch=2)
    whole = drawn(model, one, **extra)
    assert model.weights.placement.streamed == 0 == branch.weights.placement.streamed
    assert relative(whole, drawn(model, **extra)) > 1e-3
    model.weights.park(), branch.weights.park()
    for keep in (True, False):  # the control stays whole, or is streamed too
        monkeypatch.setattr(
            placement,
            "place",
            lambda rest, groups, room, keep=keep: (
                placement.Placement(len(groups), 0, rest + sum(groups))
                if keep and len(groups) == 2
                else placement.Placement(0, len(groups), 1)
            ),
        )
        got = drawn(model, one, **extra)
        assert model.weights.placement.streamed == 6
        assert branch.weights.placement.streamed == (0 if keep else 2)
        assert torch.equal(got, whole), f"{(got - whole).abs().max():.2e}"
        model.weights.park(), branch.weights.park()


def test_room_for_a_control_is_made_and_kept(files, monkeypatch):
    """The control comes first, the model is streamed next to it; a second run moves nothing."""
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    want = LoadOptions(torch.float32, wait=True)
    model = load_diffusion_model(EMBEDDED_FOLDER, want).weights
    branch = load_control(files["union"], want).weights
    room = branch.nbytes + model.least + 1000
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    residency.settle_together(model, [branch], None, 500)
    assert not branch.placement.streamed and model.placement.streamed
    assert branch.reserved + model.reserved <= room - 500
    arranged = []
    with monkeypatch.context() as patch:
        patch.setattr(Residency, "_arrange", lambda self, wanted: arranged.append(wanted))
        residency.settle_together(model, [branch], None, 500)
    assert not arranged, arranged
    model.park(), branch.park()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bfloat16", "fp8"])
def test_any_storage_format(files, bundle, union, tmp_path, form):
    """The same control in fewer bits: packed matrices stay packed, and it draws nearly the same."""
    from inkstone.loaders.formats.open import open_weights
    from inkstone.loaders.formats.safetensors import save_safetensors

    source, tensors = open_weights(files["union"]), {}
    for name in source.entries:
        x = source.read(name)
        if form == "bfloat16" or x.dim() < 2:
            tensors[name] = x.bfloat16()
            continue
        scale = x.abs().amax() / 448
        tensors[name] = (x / scale).to(torch.float8_e4m3fn)
        tensors[name.replace(".weight", ".scale_weight")] = scale.reshape(())
    if form == "fp8":
        tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    path = tmp_path / "packed.safetensors"
    save_safetensors(path, tensors, dict(source.metadata))
    packed = load_control(path)
    assert bool(packed.file.packed) == (form == "fp8"), packed.weights_format
    whole = drawn(bundle.model, control(union, bundle))
    error = measured(drawn(bundle.model, control(packed, bundle)), whole)
    print(f"{form}: {error:.1e}")
    assert 1e-6 < error < (0.01 if form == "bfloat16" else 0.1), f"{form}: {error:.1e}"


def test_pictures_lie_on_the_canvas():
    """Pixel for pixel: the canvas's own size, a padded picture's, a part that is cut out."""
    same = picture(64, 48)
    assert torch.equal(canvas_of(64, 48).picture(same), same)
    odd = lock(61, 45)
    assert odd.canvas == (64, 48)
    placed = canvas_of(64, 48, odd).picture(same[:, :45, :61])
    assert torch.equal(placed[:, :45, :61], same[:, :45, :61])
    assert torch.equal(placed[:, 45:], placed[:, 44:45].expand(-1, 3, -1, -1))
    mask = mask_of(200, 150)
    crop = crop_for(mask, margin=16)
    large = picture(200, 150)
    cut = canvas_of(*crop.lock.canvas, crop)
    w, h = crop.box.size
    assert torch.equal(cut.picture(large)[:, :h, :w], crop.box.of(large))
    assert torch.equal(cut.mask(mask)[:, :h, :w], crop.box.of(mask))
    long = lock(20000, 10, 128 * 128)  # longer than a canvas: drawn smaller
    assert canvas_of(*long.canvas, long).picture(picture(20000, 10)).shape[2] == long.canvas[0]
    assert canvas_of(64, 48).picture(picture(128, 96)).shape == (1, 48, 64, 3)
    with pytest.raises(InkstoneError, match="control picture is 96x96, the result is 64x48"):
        canvas_of(64, 48).picture(picture(96, 96))
    with pytest.raises(InkstoneError, match="control picture is 400x300"):  # whole, or the part?
        cut.picture(picture(400, 300))


@pytest.mark.parametrize("fit", FITS)
def test_a_map_that_fits_is_never_changed(fit):
    for size, pictures in (((64, 48), picture(64, 48)), ((64, 48), picture(128, 96))):
        plain = canvas_of(*size).picture(pictures)
        assert torch.equal(canvas_of(*size).picture(pictures, fit), plain)


def test_a_map_of_another_ratio_is_cropped_stretched_or_padded(caplog):
    wide = picture(128, 48)
    on = canvas_of(64, 48)
    assert torch.equal(on.picture(wide, "crop"), wide[:, :, 32:96]), "its middle, not resampled"
    tall = wide.transpose(1, 2)
    assert torch.equal(canvas_of(48, 64).picture(tall, "crop"), tall[:, 32:96])
    assert torch.equal(on.picture(wide, "stretch"), resized(wide, (64, 48)))
    padded = on.picture(wide, "pad")
    assert torch.equal(padded[:, 12:36], resized(wide, (64, 24)))
    assert padded[:, :12].max() == padded[:, 36:].max() == 0
    for words in ("128x48, the result 64x48", "64x48, is used", "stretched", "64x24 with black"):
        assert words in caplog.text
    mask = mask_of(200, 150)
    crop = crop_for(mask, margin=16)
    cut, (w, h) = canvas_of(*crop.lock.canvas, crop), crop.box.size
    square = picture(300, 300)  # a part is drawn: the map shows the whole picture
    whole = resized(square[:, 37:262], (200, 150))
    assert torch.equal(cut.picture(square, "crop")[:, :h, :w], crop.box.of(whole))
    with pytest.raises(InkstoneError, match="Fit 'best' is unknown: expected one of crop, stretch"):
        on.picture(wide, "best")


def test_the_sizes_that_a_refusal_names_can_be_asked_for():
    draw, named = random.Random(3), 0
    for _ in range(200):
        size = draw.randint(8, 3000), draw.randint(8, 3000)
        with contextlib.suppress(InkstoneError):
            canvas_of(64, 48).picture(torch.zeros(1, 1, 1, 3).expand(1, size[1], size[0], 3))
            continue
        sentence = canvas_of(64, 48)._refusal("map", size)
        for w, h in re.findall(r"draw at (\d+)x(\d+)", sentence):
            named += 1
            check_canvas(int(w), int(h))
            fitted = canvas_of(int(w), int(h))._shows("map", size)
            assert fitted is not None, (size, w, h)
    assert named > 150, named


def test_refusals(files, bundle, union, inpainting):
    good, mask = control(union, bundle), mask_of(*SIZE)
    wide = load_control(files["wide"])
    cases = [
        (replace(good, strength=11.0), "strength of the control union.safetensors is 11"),
        (replace(good, strength=float("nan")), "strength of the control union.safetensors is nan"),
        (replace(good, start=0.5, end=0.5), "acts from 0.5 to 0.5"),
        (replace(good, end=1.5), "0 <= start < end <= 1"),
        (replace(good, branch=wide), "another family: it has width 192 where the model has 128"),
        (replace(good, latent=good.latent[..., :-1]), "the canvas is 64x48"),
        (replace(good, branch=inpainting), "takes a mask and got none"),
        (
            replace(control(inpainting, bundle, mask=mask), branch=union),
            "takes no mask and got one",
        ),
        (replace(good, latent=good.latent.expand(3, -1, -1, -1, -1)), "3 pictures for a batch"),
        (replace(good, where=torch.ones(1, 1, 6, 8)), "region of the control"),
        (replace(good, latent=good.latent * torch.nan), "not finite"),
    ]
    for bad, words in cases:
        with pytest.raises(InkstoneError) as caught:
            drawn(bundle.model, bad)
        assert words in str(caught.value), str(caught.value)
    with pytest.raises(InkstoneError, match="inpainting and got no mask"):
        control(inpainting, bundle)
    with pytest.raises(InkstoneError, match="2 pictures and 3 masks"):
        control(union, bundle, mask=torch.ones(3, 48, 64), count=2)
    with pytest.raises(InkstoneError, match="72 features per token, expected 64"):
        load_control(files["72"])
    with pytest.raises(InkstoneError, match="expected a ControlNet of Qwen-Image, got"):
        load_control(EMBEDDED_FOLDER / "transformer")
