"""Enlarging: exact sizes, strength 0, alpha, batches, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.headless.draw.api import load
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.upscale import (
    Redraw,
    enlarged,
    enlarged_size,
    redrawn,
    tiles_for,
    upscaled_batch,
)
from inkstone.sampling.pixel_lock import resized, size_of
from inkstone.sampling.schedule import LINEAR, sigmas, tail

PRIMES = [17, 31, 43, 61, 89, 101, 127, 131, 149, 163]
SIZES = [(a, b) for k, a in enumerate(PRIMES) for b in (PRIMES[-1 - k], 64, 97, 113)]


@pytest.fixture(scope="module")
def bundle():
    return load_all(None, LoadOptions(torch.float32))


def redraw_of(bundle, size, steps=1, side=0, seed=0):
    return Redraw(
        model=bundle.model,
        vae=bundle.vae,
        tiles=tiles_for(bundle.model, size, side),
        positive=bundle.text_encoder.encode("a red circle").states,
        negative=None,
        sigmas=tail(sigmas(LINEAR, 10, 64), steps / 10),
        seed=seed,
    )


def picture(width, height, channels=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, height, width, channels, generator=generator)


def test_the_sizes_are_forty_and_hold_primes():
    assert len(set(SIZES)) == 40


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_size_is_exact(bundle, size):
    for factor, want in ((1, size), (1.5, None)):
        want = want or tuple(int(side * factor + 0.5) for side in size)
        assert enlarged_size(size, factor) == want
        out = redrawn(enlarged(picture(*size), want), redraw_of(bundle, want))
        assert size_of(out) == want and out.dtype == torch.uint8


@pytest.mark.parametrize("size", [(128, 128), (131, 96), (61, 149)])
@pytest.mark.parametrize("factor", [1, 1.3, 2, 3.7])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_strength_0_is_the_resampled_picture_bit_by_bit(size, factor, channels):
    source, target = picture(*size, channels), enlarged_size(size, factor)
    want = (resized(source, target) * 255).round().byte()
    want = want.expand(-1, -1, -1, 3) if channels == 1 else want
    assert torch.equal(enlarged(source, target), want)
    assert torch.equal(upscaled_batch(source, target), want.float() / 255)


def test_values_beyond_the_ends_do_not_wrap():
    assert enlarged(torch.full((1, 8, 8, 3), 1.2), (8, 8)).unique().tolist() == [255]


def test_pictures_of_a_batch_are_enlarged_one_by_one(bundle):
    pair = torch.cat([picture(100, 70), picture(100, 70, seed=2)])
    redraw = redraw_of(bundle, (200, 140), seed=2**64 - 1)
    both = upscaled_batch(pair, (200, 140), redraw)
    for k, seed in enumerate((2**64 - 1, 0)):
        own = upscaled_batch(pair[k : k + 1], (200, 140), replace(redraw, seed=seed))
        assert torch.equal(both[k : k + 1], own)
    assert not torch.equal(both[0], both[1])


def test_alpha_that_the_vae_does_not_draw_is_that_of_the_resampled_picture(bundle):
    source = picture(90, 70, 4)
    plain = enlarged(source, (180, 140))
    out = redrawn(plain.clone(), redraw_of(bundle, (180, 140)))
    assert out.shape[-1] == 4 and torch.equal(out[..., 3], plain[..., 3])
    assert not torch.equal(out[..., :3], plain[..., :3])


@pytest.mark.parametrize(
    ("size", "factor", "words"),
    [
        ((100, 100), 0.5, "factor is 0.5: expected 1 to 16"),
        ((100, 100), 17, "factor is 17: expected 1 to 16"),
        ((100, 100), float("nan"), "factor is nan: expected"),
        ((2000, 9000), 2, "is 4000x18000: expected up to 16384"),
    ],
)
def test_factors_that_cannot_be_are_refused(size, factor, words):
    with pytest.raises(InkstoneError, match=words):
        enlarged_size(size, factor)


def drawn(tmp_path, *options):
    out = tmp_path / "out.png"
    status = main(["draw", "a red circle on a white background", "-o", str(out), *options])
    return status, Image.open(out) if out.exists() else None


def test_draw_and_enlarge(tmp_path):
    status, image = drawn(tmp_path, "--size", "96x64", "--steps", "2", "--upscale", "1.5")
    assert status == 0 and image.size == (144, 96)
    assert "InkstoneUpscalePicture" in image.info["prompt"]
    assert '"upscale": 1.5' in image.info["inkstone"]
    _, plain = drawn(tmp_path, "--size", "96x64", "--steps", "2")
    assert plain.size == (96, 64)


def test_a_picture_of_ones_own_is_enlarged_as_it_is(tmp_path):
    own = tmp_path / "own.png"
    Image.fromarray((picture(61, 43)[0] * 255).byte().numpy()).save(own)
    source = torch.from_numpy(np.asarray(Image.open(own)).copy())[None].float() / 255
    call = ("--image", str(own), "--strength", "0", "--upscale", "2")
    status, image = drawn(tmp_path, *call, "--upscale-strength", "0")
    assert status == 0
    want = (resized(source, (122, 86)) * 255).round().byte()
    assert np.array_equal(np.asarray(image), want[0].numpy())
    status, image = drawn(tmp_path, *call)
    assert status == 0 and image.size == (122, 86)
    assert not np.array_equal(np.asarray(image), want[0].numpy())


def test_an_edit_is_enlarged_without_its_references(tmp_path):
    own = tmp_path / "own.png"
    Image.fromarray((picture(64, 64)[0] * 255).byte().numpy()).save(own)
    with load() as models:
        (image,) = models.draw("make the circle blue", image=str(own), steps=2, upscale=2)
    assert image.size == (128, 128)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--upscale-strength", "0.2"), "--upscale-strength is for --upscale"),
        (("--upscale", "2", "--save-latent", "z.safetensors"), "do not go together"),
        (("--image", "{own}", "--strength", "0"), "--strength 0 draws nothing"),
        (
            ("--image", "{own}", "--strength", "0", "--upscale", "2", "--mask", "{own}"),
            "--mask and --strength 0 do not go together",
        ),
        (
            ("--image", "{own}", "--image", "{own}", "--strength", "0", "--upscale", "2"),
            "2 --image with --strength 0: expected the one picture",
        ),
    ],
)
def test_calls_that_cannot_be_are_refused_before_anything_is_loaded(
    tmp_path, capsys, options, words
):
    own = tmp_path / "own.png"
    Image.new("RGB", (32, 32)).save(own)
    status, image = drawn(tmp_path, *(option.format(own=own) for option in options))
    assert status == 2 and image is None
    assert words in capsys.readouterr().err


def planned(capsys, *options):
    status = main(["draw", "a red circle", "--plan", "--json", *options])
    out = capsys.readouterr().out
    return status, json.loads(out)


def test_the_plan_is_that_of_the_tiles(tmp_path, capsys):
    _, plain = planned(capsys)
    status, facts = planned(capsys, "--upscale", "4")
    assert (
        status == 0 and "; enlarged in 49 tiles of 128x128, 2 steps: at most" in facts["sentence"]
    )
    assert abs(facts["peak"] / plain["peak"] - 1) < 0.02, "tiles are as large as the drawing"
    own = tmp_path / "own.png"
    Image.new("RGB", (256, 256)).save(own)
    call = ("--image", str(own), "--strength", "0", "--upscale", "4")
    status, facts = planned(capsys, *call, "--upscale-strength", "0.3")
    assert status == 0 and facts["sentence"].startswith("plan for 225 tiles of 128x128, 6 steps")
    assert abs(facts["peak"] / plain["peak"] - 1) < 0.02
