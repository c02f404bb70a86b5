"""The pixel lock: any size comes back as that size, with its bits, and nothing has moved."""

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.geometry import LARGEST, TOKEN, check_canvas
from inkstone.sampling.pixel_lock import colour, lock, resized, size_of, visible

from ..support.locked import SIZES, MockVAE, drift, is_large, picture
from ..support.slow import slow_where

NONE = 0.1  # pixels: phase correlation cannot tell less in a picture of 33x47 that lost detail


def null_edit(x: torch.Tensor, area: int | None = None) -> torch.Tensor:
    """Through canvas, mocked VAE and a denoiser that changes nothing."""
    held, vae = lock(*size_of(x), area), MockVAE()
    canvas = held.to_canvas(x)
    check_canvas(*size_of(canvas))
    assert size_of(canvas) == held.canvas
    z = vae.encode(canvas)
    assert list(z.shape[1:]) == [16, 1, held.canvas[1] // 8, held.canvas[0] // 8]
    return held.from_canvas(vae.decode(z))


@pytest.mark.parametrize("size", slow_where(is_large, SIZES), ids=lambda s: f"{s[0]}x{s[1]}")
def test_size_bits_and_place(size):
    x, held = picture(*size), lock(*size)
    back = held.from_canvas(held.to_canvas(x))
    assert torch.equal(back, x), "padding and cropping changed bits"

    pixels = size[0] * size[1]
    areas = (None, 2 * pixels if pixels < 2**18 else pixels // 3)
    for area in areas if pixels < 2**21 else areas[1:]:
        y = null_edit(x, area)
        assert y.shape == x.shape
        moved = drift(x[0], y[0])
        assert moved < NONE, f"moved by {moved:.3f} pixels at area {area}"


@pytest.mark.parametrize("size", [(37, 41), (211, 137), (541, 547), (1399, 1009)])
def test_drift_is_seen_where_there_is_some(size):
    """The measure itself: a shift, a zoom, a resize to the canvas without way back."""
    x = picture(*size)
    assert drift(x[0], x[0]) < 1e-9
    least = 0.7 if min(size) < 64 else 0.95  # the fade stands still: small windows tell less
    for by in (1, 2):
        moved = drift(x[0], x.roll(by, 2)[0])
        assert least * by < moved < 1.05 * by, f"rolled by {by}, measured {moved:.3f}"
    stretched = resized(x, lock(*size).canvas)[:, : size[1], : size[0]]
    assert drift(x[0], stretched[0]) > 5 * NONE
    if min(size) > 100:  # a picture of one window only has no corners
        zoomed = resized(x[:, 3:-3, 3:-3].contiguous(), size)
        assert drift(x[0], zoomed[0]) > 5 * NONE


def test_padding_repeats_the_last_row_and_column():
    x = picture(33, 47)
    canvas = lock(33, 47).to_canvas(x)
    assert size_of(canvas) == (48, 48)
    assert torch.equal(canvas[:, :47, :33], x)
    assert (canvas[:, :47, 33:] == x[:, :, -1:]).all()
    assert (canvas[:, 47:] == canvas[:, 46:47]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (17, 1), (16, 16), (4000, 1), (LARGEST, 3)])
@pytest.mark.parametrize("area", [None, 4096, 65536])
def test_small_and_narrow_pictures(size, area):
    x = torch.rand(1, size[1], size[0], 3)
    y = null_edit(x, area)
    assert y.shape == x.shape and y.isfinite().all()
    if area is None:
        held = lock(*size)
        assert torch.equal(held.from_canvas(held.to_canvas(x)), x)


def test_too_long_a_picture_is_refused_or_worked_on_smaller():
    with pytest.raises(InkstoneError, match="20000x10.*16384.*Crop"):
        lock(20000, 10)
    x = torch.rand(1, 10, 20000, 3)
    held = lock(20000, 10, 1024 * 1024)
    assert held.work == (16384, 8) and held.canvas == (16384, 16)
    assert null_edit(x, 1024 * 1024).shape == x.shape


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_channels_batches_and_dtypes_keep_their_bits(channels, dtype):
    x = torch.rand(3, 23, 31, channels).to(dtype)
    held = lock(31, 23)
    y = held.from_canvas(held.to_canvas(x))
    assert y.dtype == dtype and torch.equal(y, x)
    smaller = lock(31, 23, 300)
    z = smaller.from_canvas(smaller.to_canvas(x))
    assert z.shape == x.shape and z.dtype == dtype and 0 <= z.min() and z.max() <= 1
    alone = smaller.from_canvas(smaller.to_canvas(x[1:2]))
    assert torch.equal(z[1:2], alone), "a picture depends on its neighbours in the batch"


def test_sixteen_bit_values_survive():
    levels = torch.arange(65536, dtype=torch.float32).reshape(1, 64, 1024, 1) / 65535
    held = lock(1024, 64)
    back = (held.from_canvas(held.to_canvas(levels)) * 65535).round().flatten()
    assert torch.equal(back, torch.arange(65536.0))


def test_what_the_vae_sees():
    rgba, grey = torch.rand(1, 4, 5, 4), torch.rand(1, 4, 5, 1)
    assert torch.equal(colour(rgba), rgba[..., :3])
    assert torch.equal(colour(grey), grey.repeat(1, 1, 1, 3))


def test_work_size_has_the_area_and_the_ratio():
    for width, height in [*SIZES, (3000, 200), (7, 1000)]:
        for area in (65536, 1024 * 1024, 1328 * 1328):
            held = lock(width, height, area)
            (w, h), canvas = held.work, held.canvas
            scale = w * h / area
            assert 0.9 < scale < 1.11, f"{width}x{height} -> {w}x{h} for {area}"
            assert abs(w - width * h / height) <= 0.5 + 0.5 * width / height
            assert all(0 <= c - s < TOKEN and c % TOKEN == 0 for c, s in zip(canvas, (w, h)))
            small = lock(width, height, area, enlarge=False)
            assert small.work == ((w, h) if w < width else (width, height))


def test_a_picture_of_nearly_the_area_is_not_resampled():
    assert lock(1000, 1040, 1024 * 1024).work == (1000, 1040)
    assert lock(1024, 1024, 1024 * 1024).canvas == (1024, 1024)
    assert lock(1200, 1200, 1024 * 1024).work == (1024, 1024)


def test_an_even_picture_stays_even():
    x = torch.full((1, 67, 131, 3), 0.3)
    for area in (2000, 40000):
        held = lock(131, 67, area)
        error = (held.from_canvas(held.to_canvas(x)) - x).abs().max().item()
        assert error < 1e-6, f"largest error {error:.2e}"


BAD_PICTURES = {
    "NaN": (torch.full((1, 4, 4, 3), torch.nan), "numbers from 0 to 1"),
    "one NaN": (torch.rand(1, 4, 4, 3).index_fill(1, torch.tensor([2]), torch.nan), "nan"),
    "infinite": (torch.full((1, 4, 4, 3), torch.inf), "inf"),
    "8 bits as floats": (torch.rand(1, 4, 4, 3) * 255, "divide 8-bit values by 255"),
    "8 bits": (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "uint8.*Divide 8-bit"),
    "whole numbers": (torch.zeros(1, 4, 4, 3, dtype=torch.int64), "int64.*floats"),
    "no batch": (torch.rand(4, 4, 3), "expected .pictures, height, width, channels"),
    "channels first": (torch.rand(1, 3, 4, 4).movedim(1, 2)[:, :, :2, :2], "channels"),
    "no pictures": (torch.rand(0, 4, 4, 3), "at least one pixel"),
    "no pixels": (torch.rand(1, 0, 4, 3), "at least one pixel"),
    "two channels": (torch.rand(1, 4, 4, 2), "1 .grey., 3 .RGB. or 4"),
    "another size": (torch.rand(1, 5, 4, 3), "4x5, its pixel lock is for 4x4"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_are_refused_in_a_sentence(name):
    bad, words = BAD_PICTURES[name]
    with pytest.raises(InkstoneError, match=words):
        lock(4, 4).to_canvas(bad)


def test_results_of_another_canvas_are_refused():
    held = lock(33, 47)
    with pytest.raises(InkstoneError, match="result is 48x64, its pixel lock is for 48x48"):
        held.from_canvas(torch.rand(1, 64, 48, 3))
    with pytest.raises(InkstoneError, match="The result.*nan"):
        held.from_canvas(torch.full((1, 48, 48, 3), torch.nan))


@pytest.mark.parametrize("area", [0, -5, 255, 1.5e6, 10**10])
def test_bad_areas_are_refused(area):
    with pytest.raises(InkstoneError, match="area to work at.*1048576"):
        lock(100, 100, area)


def test_no_pixels_are_refused():
    with pytest.raises(InkstoneError, match="0x5"):
        lock(0, 5)


def test_what_a_transparent_pixel_hides_is_white():
    cut = torch.rand(1, 6, 8, 4)
    cut[..., 3] = (cut[..., 3] > 0.5).float()
    other = cut.clone()
    other[..., :3][cut[..., 3] == 0] = torch.rand(3)
    assert torch.equal(visible(cut), visible(other))
    shown = cut[..., 3] > 0
    assert torch.equal(visible(cut)[shown], cut[shown])
    assert (visible(cut)[~shown][:, :3] == 1).all()
    faint = torch.full((1, 2, 2, 4), 1 / 255)
    assert visible(faint) is faint and visible(cut[..., :3]).shape[-1] == 3


def cut_out(hidden: float, side: int = 48) -> torch.Tensor:
    """A soft disc in one colour; `hidden` is the colour of what nobody sees."""
    across = torch.arange(side) - side / 2 + 0.5
    distance = (across[:, None] ** 2 + across[None] ** 2).sqrt()
    alpha = ((side / 3 - distance) / 3 + 0.5).clamp(0, 1)[None, ..., None]
    colours = torch.tensor([0.9, 0.2, 0.4]).expand(1, side, side, 3)
    return torch.cat([torch.where(alpha > 0, colours, hidden), alpha], -1)


@pytest.mark.parametrize("size", [(31, 29), (20, 64), (96, 96)], ids=str)
def test_hidden_colours_do_not_reach_edges_when_resized(size):
    seen = [resized(cut_out(hidden), size) for hidden in (0.0, 0.5, 1.0)]
    shown = seen[0][..., 3:] > 1 / 255
    assert 0.1 < shown.float().mean() < 0.9
    for one in seen:
        error = ((one[..., :3] - torch.tensor([0.9, 0.2, 0.4])).abs() * shown).max().item()
        assert error <= 2e-3, f"edges differ from the disc's colour by {error:.1e}"
        assert torch.equal(one[..., 3], seen[0][..., 3])
    plain = resized(cut_out(1.0)[..., :3], size)
    leak = ((plain - torch.tensor([0.9, 0.2, 0.4])).abs() * shown).max().item()
    assert leak > 0.1, "the plain way shows no leak: this test sees nothing"


def test_an_opaque_alpha_changes_nothing_when_resized():
    x = picture(37, 41)
    joined = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    assert torch.equal(resized(joined, (20, 50))[..., :3], resized(x, (20, 50)))
