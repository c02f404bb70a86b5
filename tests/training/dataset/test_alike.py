"""Pictures that were saved again are found, others that differ by little are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from inkstone.files.images import look
from inkstone.training.dataset.alike import alike
from inkstone.training.dataset.findings import lines
from inkstone.training.dataset.pictures import Picture
from inkstone.training.dataset.read import read


def photo(seed: int, size: tuple[int, int] = (331, 243), mode: str = "RGB") -> Image.Image:
    """Smooth colours with some edges and grain."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, len(mode)), dtype=np.uint8)
    image = Image.fromarray(small, mode).resize(size, Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).ellipse((40, 30, 160, 150), fill=tuple(rng.integers(0, 256, len(mode))))
    grain = rng.normal(0, 4, (size[1], size[0], len(mode)))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels, mode)


def found(folder) -> dict[str, str]:
    """Name -> what it looks like."""
    return {one.name: one.detail for one in read(folder).findings if one.kind == "alike"}


COPIES = {
    "png": ("b.png", {"compress_level": 1}),
    "jpeg": ("b.jpg", {"quality": 90}),
    "coarse jpeg": ("b.jpg", {"quality": 50}),
    "webp": ("b.webp", {"quality": 75}),
    "bmp": ("b.bmp", {}),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("copy", COPIES)
def test_another_encoding_is_found(copy, seed, tmp_path):
    name, options = COPIES[copy]
    image = photo(seed)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / name, **options)
    photo(seed + 10).save(tmp_path / "c.png")
    first, second = look(tmp_path / "a.png")[1], look(tmp_path / name)[1]
    apart = np.frombuffer(first, np.uint8).astype(int) - np.frombuffer(second, np.uint8)
    assert found(tmp_path) == {name: "as a.png"}, f"maximum difference {np.abs(apart).max()}"


def test_a_smaller_copy_and_a_turned_photo_are_found(tmp_path):
    image = photo(1, (1200, 800))
    image.save(tmp_path / "a.jpg", quality=92)
    image.resize((600, 400), Image.Resampling.LANCZOS).save(tmp_path / "b.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c.jpg", exif=exif, quality=92)
    assert found(tmp_path) == {"b.png": "as a.jpg", "c.jpg": "as a.jpg"}


def test_what_differs_in_a_part_or_in_its_edges_is_another_picture(tmp_path):
    image = photo(2, (256, 256))
    image.save(tmp_path / "a.png")
    other = image.copy()
    ImageDraw.Draw(other).rectangle((200, 200, 211, 211), fill=(0, 0, 0))
    other.save(tmp_path / "b.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "c.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "d.png")
    Image.new("RGB", (64, 128), "white").save(tmp_path / "e.png")
    assert found(tmp_path) == {}


def test_alpha_counts_and_hidden_colours_do_not(tmp_path):
    shown, hidden = photo(3, mode="RGBA"), None
    shown.putalpha(Image.new("L", shown.size, 0))
    shown.paste((200, 10, 10, 255), (50, 50, 150, 150))
    hidden = np.asarray(shown).copy()
    hidden[..., :3][hidden[..., 3] == 0] = 7
    shown.save(tmp_path / "a.png")
    Image.fromarray(hidden, "RGBA").save(tmp_path / "b.png")
    shown.convert("RGB").save(tmp_path / "c.png")
    assert found(tmp_path) == {"b.png": "as a.png"}


def test_copies_with_the_same_bytes_are_said_once(tmp_path):
    image = photo(4)
    for name in ("a.png", "b.png", "c.jpg", "d.jpg"):
        image.save(tmp_path / name)
    said = lines(read(tmp_path).findings)
    assert any(
        "with the same bytes, and count as often: b.png (as a.png), d.jpg" in x for x in said
    )
    assert any("looks the same as another, in other bytes" in x for x in said)
    assert found(tmp_path) == {"c.jpg": "as a.png"}


@pytest.mark.parametrize("spread", [0, 20])
def test_many_pictures_are_compared_quickly(spread):
    rng = np.random.default_rng(1)
    looks = np.clip(240 + rng.normal(0, spread, (4000, 16 * 16 * 4)), 0, 255).astype(np.uint8)
    pictures = [
        Picture(None, (64, 64), str(n), False, row.tobytes()) for n, row in enumerate(looks)
    ]
    start = time.process_time()
    same = alike(pictures)
    seconds = time.process_time() - start
    assert seconds < 10, f"{seconds:.1f} s"
    assert len(same) == (3_999 if spread == 0 else 0), len(same)
