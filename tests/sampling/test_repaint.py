"""Inpainting: paste, crop and stitch, outpainting, bit by bit."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.denoise import KeptRegion, euler
from inkstone.sampling.geometry import Box, Sides, check_canvas, context_box, pack, unpack
from inkstone.sampling.inpaint import Repaint, crop_for, pad_out, paste, stitch, whole
from inkstone.sampling.masks import latent_mask, mask_for, soften
from inkstone.sampling.pixel_lock import lock, size_of

from ..support.locked import SIZES, MockVAE, drift, is_large, picture
from ..support.masks import blobs, refuses, spot
from ..support.slow import slow_where

BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def edited(original: torch.Tensor, mask: torch.Tensor, done: torch.Tensor) -> int:
    """Checks what must hold of every result; the count of pixels that changed."""
    assert done.shape[1:3] == original.shape[1:3]
    bits = BITS[done.element_size()]
    changed = (done.view(bits) != original.view(bits)).any(-1)
    outside = mask <= 0
    assert not (changed & outside).any(), "outside the mask bits have changed"
    return int(changed.sum())


# --- the whole way, over all sizes


@pytest.mark.parametrize("size", slow_where(is_large, SIZES), ids=lambda s: f"{s[0]}x{s[1]}")
def test_hostile_edit_and_null_edit(size):
    """Crop on and off by turns. A denoiser that ruins everything changes nothing outside the mask,
    one that changes nothing leaves everything in its place."""
    width, height = size
    x, vae = picture(width, height), MockVAE()
    box = Box(width // 3, height // 4, width // 3 + max(9, width // 5), height // 4 + height // 3)
    mask = soften(mask_for(spot(width, height, box), size), 2, 5)
    cropped = SIZES.index(size) % 2 or width * height > 2**21
    crop = crop_for(mask, 16, 2**17) if cropped else whole(width, height)
    job = Repaint(x, mask, crop)

    canvas = job.canvas()
    check_canvas(*size_of(canvas))
    z, marked = vae.encode(canvas), job.latent_mask()
    assert marked.shape == (1, 1, *z.shape[-2:]) and marked.any()

    changed = edited(x, mask, job.stitch(1 - canvas))
    inside = int((mask > 0).sum())
    assert 0.98 * inside <= changed <= inside  # a grey of 0.5 is its own negative
    null = job.stitch(vae.decode(z))
    edited(x, mask, null)
    moved = drift(job.crop.box.of(x)[0], job.crop.box.of(null)[0])
    assert moved < (0.1 if min(size) > 64 else 0.2), f"moved by {moved:.3f} pixels"


@pytest.mark.parametrize("size", [(33, 47), (97, 89), (191, 193), (256, 256)])
def test_kept_latents_lie_under_kept_pixels(size):
    """Through the loop: cells off the mask come back as they were, whatever the velocity says."""
    mask, vae = mask_for(blobs(*size), size), MockVAE()
    job = Repaint(picture(*size), mask, whole(*size))
    z = vae.encode(job.canvas())
    tokens = pack(z[:, :, 0])
    kept = KeptRegion(
        tokens, torch.randn_like(tokens), pack(job.latent_mask().expand(-1, 16, -1, -1))
    )
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    x = euler(lambda x, i: (torch.full_like(x, 7.0), None), kept.noise, sigmas, kept_region=kept)
    after = unpack(x, z.shape[-2] // 2, z.shape[-1] // 2)[:, :, None]
    same = (after == z).all(1)
    assert torch.equal(same, job.latent_mask() == 0)
    cells = job.latent_mask().repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0]
    under = cells[:, : size[1], : size[0]]
    assert (under[mask > 0] == 1).all(), "a marked pixel lies on a kept cell"
    assert changed_only(job, vae.decode(after))


def changed_only(job: Repaint, result: torch.Tensor) -> bool:
    return edited(job.picture, job.mask, job.stitch(result)) > 0


# --- paste


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_paste_keeps_bits_outside_and_takes_the_result_inside(dtype, channels):
    x = torch.rand(1, 30, 40, channels).to(dtype)
    x[0, 0, :4] = torch.tensor([-0.0, 1e-40, 1.0, 5e-8], dtype=dtype)[:, None]
    mask = blobs(40, 30, soft=True)
    mask[0, 0, :4] = 0
    new = torch.rand(1, 30, 40, channels).to(dtype)
    done = paste(x, new, mask)
    assert done.dtype == dtype and edited(x, mask, done) > 100
    assert torch.equal(done[mask == 1], new[mask == 1])
    m = mask[..., None].double()
    error = (done - (x * (1 - m) + new * m)).abs().max().item()
    assert error <= 2 * torch.finfo(dtype).eps or dtype == torch.float64 and error < 1e-6, error


def test_masks_of_zeros_and_ones():
    x, new = torch.rand(2, 9, 7, 3), torch.rand(2, 9, 7, 3)
    assert torch.equal(paste(x, new, torch.zeros(1, 9, 7)), x)
    assert torch.equal(paste(x, new, torch.ones(1, 9, 7)), new)
    assert torch.equal(paste(x, new), new)
    held = lock(7, 9)
    assert latent_mask(torch.zeros(1, 9, 7), held).sum() == 0
    assert latent_mask(torch.ones(1, 9, 7), held).mean() == 1
    with pytest.raises(InkstoneError, match="mask is empty.*Paint"):
        crop_for(torch.zeros(1, 9, 7))
    assert crop_for(torch.ones(1, 9, 7)).box == Box(0, 0, 7, 9)


@pytest.mark.parametrize(
    "counts", [(1, 1, 1), (1, 4, 1), (4, 4, 1), (4, 1, 4), (1, 1, 4), (4, 4, 4)]
)
def test_counts_of_pictures_results_and_masks(counts):
    n = [torch.rand(c, 8, 9, 3) for c in counts[:2]]
    mask = torch.cat([blobs(9, 8, seed) for seed in range(counts[2])])
    done = paste(*n, mask)
    assert len(done) == max(counts)
    for i, item in enumerate(done):
        one = (t[i : i + 1] if len(t) > 1 else t for t in (*n, mask))
        assert torch.equal(item, paste(*one)[0])


def test_alpha_is_kept_and_grey_becomes_colour():
    rgba, rgb, grey = torch.rand(1, 8, 9, 4), torch.rand(1, 8, 9, 3), torch.rand(1, 8, 9, 1)
    mask = spot(9, 8, Box(2, 2, 6, 6))
    done = paste(rgba, rgb, mask)
    assert torch.equal(done[..., 3], rgba[..., 3]) and edited(rgba, mask, done) == 16
    assert torch.equal(paste(rgba, rgb)[..., :3], rgb)
    done = paste(grey, rgb, mask)
    assert edited(grey.repeat(1, 1, 1, 3), mask, done) == 16
    assert paste(grey, torch.rand(1, 8, 9, 1), mask).shape[-1] == 1
    assert edited(rgb, mask, paste(rgb, grey, mask)) == 16
    done = paste(rgb, rgba, mask)  # what brings an alpha of its own leaves the rest opaque
    assert torch.equal(done[mask == 1], rgba[mask == 1]) and (done[mask == 0][:, 3] == 1).all()
    own = paste(rgba, torch.rand(1, 8, 9, 4), mask)
    assert edited(rgba, mask, own) == 16 and not torch.equal(own[..., 3], rgba[..., 3])


def test_the_original_is_left_alone():
    x, new, mask = torch.rand(1, 40, 40, 3), torch.rand(1, 40, 40, 3), blobs(40, 40)
    before = [t.clone() for t in (x, new, mask)]
    done = paste(x, new, soften(mask, 2, 2))
    job = Repaint(x, mask, crop_for(mask, 0))
    pieces = [done, job.canvas(), job.stitch(job.canvas()), paste(x, new), pad_out(x, Sides(1))[0]]
    for piece in pieces:
        piece.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, (x, new, mask)))


# --- crop and stitch


def test_the_box_of_a_crop():
    draw = random.Random(5)
    for _ in range(500):
        width, height, margin = draw.randint(1, 900), draw.randint(1, 900), draw.randint(0, 99)
        left, top = draw.randrange(width), draw.randrange(height)
        inner = Box(left, top, draw.randint(left + 1, width), draw.randint(top + 1, height))
        box = context_box(inner, width, height, margin)
        context = inner.wider(margin, width, height)
        assert 0 <= box.left <= context.left and context.right <= box.right <= width
        assert 0 <= box.top <= context.top and context.bottom <= box.bottom <= height
        for side, other, room in ((0, 1, width), (1, 0, height)):
            length = box.size[side]
            full = length == room
            assert full or length % 16 == 0
            assert full or (length >= 64 and 3 * length >= box.size[other])


@pytest.mark.slow
def test_a_small_part_of_a_large_picture_is_edited_at_full_resolution():
    x = picture(2999, 1999, 4)
    mask = spot(2999, 1999, Box(2901, 7, 2960, 40))
    crop = crop_for(mask, 32, 512 * 512)
    assert crop.box.size == (128, 112) and crop.box.right <= 2999 and crop.box.top == 0
    assert abs(crop.lock.work[0] * crop.lock.work[1] / 512**2 - 1) < 0.1
    job = Repaint(x, mask, crop)
    done = job.stitch(torch.zeros_like(job.canvas()))
    assert edited(x, mask, done) == 59 * 33
    assert torch.equal(done[..., 3], x[..., 3]), "alpha is kept"
    large = crop_for(spot(2999, 1999, Box(10, 10, 2900, 1900)), 0, 512 * 512)
    assert large.lock.work[0] * large.lock.work[1] < 1.1 * 512**2
    assert crop_for(mask, 32, 512 * 512, enlarge=False).lock.work == crop.box.size


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (20000, 10), (10, 20000)])
def test_tiny_and_long_pictures(size):
    x = torch.rand(1, size[1], size[0], 3)
    mask = torch.zeros(1, size[1], size[0])
    mask[:, -1, -1] = 1
    for area in (None, 65536):
        job = Repaint(x, mask, crop_for(mask, 8, area))
        assert edited(x, mask, job.stitch(1 - job.canvas())) == 1
        assert job.latent_mask().sum() >= 1


def test_a_batch_is_cut_and_put_back_by_one_box():
    x, mask = torch.rand(2, 90, 200, 3), torch.cat([blobs(200, 90, s) for s in (1, 2)])
    mask[:, :, :50] = 0
    job = Repaint(x, mask, crop_for(mask, 4))
    assert len(job.canvas()) == len(job.latent_mask()) == 2
    assert edited(x, mask, job.stitch(1 - job.canvas())) > 0
    many = dataclasses.replace(job, picture=x[:1], mask=mask[:1])
    done = many.stitch(torch.rand(3, *job.canvas().shape[1:]))
    assert len(done) == 3 and edited(x[:1], mask[:1], done) > 0


# --- outpainting


@pytest.mark.parametrize("fill, mode", [("edge", "edge"), ("mirror", "symmetric"), ("grey", None)])
@pytest.mark.parametrize("sides", [(3, 0, 0, 0), (5, 7, 1, 2), (0, 0, 0, 40), (90, 0, 71, 33)])
def test_new_parts_on_the_sides(fill, mode, sides):
    sides, x = Sides(*sides), torch.rand(2, 13, 17, 4)
    got, mask = pad_out(x, sides, fill)
    if mode:
        around = ((0, 0), (sides.top, sides.bottom), (sides.left, sides.right), (0, 0))
        assert np.array_equal(got.numpy(), np.pad(x.numpy(), around, mode=mode))
    box = Box(sides.left, sides.top, sides.left + 17, sides.top + 13)
    assert torch.equal(box.of(got), x) and (box.of(mask) == 0).all()
    assert int(mask.sum()) == mask.numel() - 13 * 17
    if fill == "grey":
        assert (got[mask.expand(2, -1, -1) == 1] == torch.tensor([0.5, 0.5, 0.5, 1])).all()


def test_the_mask_of_new_parts_fades_in_them_only():
    x = torch.rand(1, 50, 60, 3)
    padded, mask = pad_out(x, Sides(right=32), feather=7)
    assert (mask[..., :60] == 0).all() and (mask[..., 60:] > 0).all()
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert mask[0, 0, 60:69].tolist() == pytest.approx([k / 8 for k in range(1, 9)] + [1])
    job = Repaint(padded, mask, whole(*size_of(padded)))
    done = job.stitch(1 - job.canvas())
    edited(padded, mask, done)
    assert torch.equal(done[:, :, :60], x)


# --- what is refused


def test_bad_calls_are_refused_in_a_sentence():
    x, mask = torch.rand(1, 40, 30, 3), torch.ones(1, 40, 30)
    refuses("Grow is 513.*usual", soften, mask, 513)
    refuses("Feather is -1", soften, mask, feather=-1)
    refuses("result is 31x40, the picture 30x40", paste, x, torch.rand(1, 40, 31, 3), mask)
    refuses(r"mask has shape \[1, 40, 31\]", paste, x, x, torch.ones(1, 40, 31))
    refuses("The result.*nan", paste, x, x * torch.nan, mask)
    refuses("2 pictures, 3 results", paste, x.repeat(2, 1, 1, 1), x.repeat(3, 1, 1, 1))
    refuses("2 masks", paste, x.repeat(3, 1, 1, 1), x, mask.repeat(2, 1, 1))
    refuses(r"\[1, 41, 30\]", latent_mask, torch.ones(1, 41, 30), lock(30, 40))
    refuses("margin around the mask is -1", crop_for, mask, -1)
    crop = crop_for(mask)
    refuses(
        "picture is 31x40, the crop was taken from 30x40",
        stitch,
        x[:, :, :1].repeat(1, 1, 31, 1),
        x,
        mask,
        crop,
    )
    refuses("result is 30x40, its pixel lock is for 32x48", stitch, x, x, mask, crop)
    refuses("Fill is 'blur': expected one of edge, mirror, grey", pad_out, x, Sides(1), "blur")
    refuses("-3 pixels.*at the top.*crop", pad_out, x, Sides(1, -3))
    refuses("2.5 pixels.*at the left", pad_out, x, Sides(2.5))
    refuses("All four sides", pad_out, x, Sides())
    refuses("outpainted picture is 16390x40", pad_out, x, Sides(16360))
