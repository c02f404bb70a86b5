"""The door of picture files: profiles, side data that is broken, formats, and bounds."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from inkstone.errors import InkstoneError
from inkstone.files import opening
from inkstone.files.images import channel, frames, glance, read_picture, sound

from ..conftest import ROOT


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A red 6x4 PNG with extra chunks behind its header."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 60, 60)).save(buffer, "PNG")
    data = buffer.getvalue()
    extra = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return data[:33] + extra + data[33:]


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


BROKEN = {
    "exif": (b"eXIf", b"no header of a TIFF"),
    "exif cut": (b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "profile": (b"iCCP", b"x\0\0junk"),
    "profile that is none": (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
    "profile bomb": (b"iCCP", b"x\0\0" + zlib.compress(bytes(32 << 20))),
    "text bomb": (b"zTXt", b"prompt\0\0" + zlib.compress(b"[]," * (4 << 20))),
    "text that is none": (b"zTXt", b"prompt\0\0junk"),
    "international text": (b"iTXt", b"a"),
    "time": (b"tIME", b""),
    "density": (b"pHYs", b"\0"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_side_data_does_not_stop_a_picture(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(png_with(BROKEN[kind]))
    ((colours, alpha),) = frames(path)
    assert alpha is None and (np.round(colours * 255) == (200, 60, 60)).all()
    assert glance(path).size == (6, 4)


def test_a_checksum_of_a_text_does_not_stop_a_picture(tmp_path):
    data = png_with((b"tEXt", b"a\0b"))
    place = data.index(b"tEXt") + 7
    (tmp_path / "a.png").write_bytes(data[:place] + b"?" + data[place + 1 :])
    assert frames(tmp_path / "a.png")[0][0].shape == (4, 6, 3)


def test_a_profile_of_other_colours_is_skipped_with_a_line(tmp_path, caplog):
    Image.new("RGB", (6, 4), (200, 60, 60)).save(tmp_path / "a.png", icc_profile=lab_profile())
    ((colours, _),) = frames(tmp_path / "a.png")
    assert (np.round(colours * 255) == (200, 60, 60)).all()
    assert "is for lab and is skipped" in caplog.text.lower()


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_a_profile_of_srgb_changes_nothing_and_says_nothing(tmp_path, ending, caplog):
    caplog.set_level("INFO")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (16, 16), (200, 60, 60)).save(path, icc_profile=profile)
    plain = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    assert np.array_equal(frames(path)[0][0], plain) and not caplog.records


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(tmp_path, orientation):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert np.array_equal(np.round(frames(tmp_path / "a.png")[0][0] * 255), wanted)
    assert glance(tmp_path / "a.png").size == wanted.shape[1::-1]


def test_only_pictures_are_opened(tmp_path):
    files = {
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n%%EOF",
        "ppm.png": b"P6 1 1 255 \0\0\0",
        "none.png": b"",
        "text.png": b"hello",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InkstoneError, match="cannot be read as a picture"):
            frames(tmp_path / name)
    with pytest.raises(InkstoneError, match="it is a folder, expected a file"):
        read_picture(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", type(tmp_path)("/dev/zero")):
        with pytest.raises(InkstoneError, match="it is a (FIFO|device), expected a file"):
            read_picture(path)


def test_pixels_are_bounded_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("L", (64, 64)).save(tmp_path / "mask.png")
    monkeypatch.setattr(opening, "SMALL_ROOM", 40_000)
    monkeypatch.setattr(opening, "MANY", 63 * 64)
    monkeypatch.setattr(Image.Image, "crop", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InkstoneError, match="64x64 pixels, which take .* expected at most"):
        frames(tmp_path / "a.png")
    monkeypatch.undo()
    monkeypatch.setattr(opening, "SMALL_ROOM", 40_000)
    monkeypatch.setattr(opening, "MANY", 63 * 64)
    mask = channel(tmp_path / "mask.png", "red")
    assert mask is not None and mask.shape == (64, 64), "one channel takes less"


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_frames_are_bounded_and_one_is_enough(tmp_path, ending, monkeypatch):
    path = tmp_path / f"a.{ending}"
    pictures = [Image.new("RGB", (64, 64), (20 * n, 0, 90)) for n in range(9)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    assert glance(path).animated and len(frames(path)) == 9
    monkeypatch.setattr(opening, "SMALL_ROOM", 300_000)
    with pytest.raises(InkstoneError, match="9 frames of 64x64"):
        frames(path)
    assert len(frames(path, most=1)) == 1


def test_a_tiff_with_tags_of_wrong_types_is_a_sentence(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    start, faults = struct.unpack("<I", data[4:8])[0], 0
    for tag in range(struct.unpack("<H", data[start : start + 2])[0]):
        for kind in (2, 5, 7, 12, 99):
            place = start + 2 + 12 * tag + 2
            (tmp_path / "b.tif").write_bytes(
                data[:place] + struct.pack("<H", kind) + data[place + 2 :]
            )
            try:
                frames(tmp_path / "b.tif")
            except InkstoneError:
                faults += 1
    assert faults


def swapped_profile() -> bytes:
    """sRGB's profile with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"tXYZ"), (b"gXYZ", b"rXYZ"), (b"tXYZ", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    return profile


@pytest.mark.parametrize(
    "ending, mode",
    [
        ("png", "RGB"),
        ("png", "RGBA"),
        ("png", "P"),
        ("tif", "RGB"),
        ("webp", "RGB"),
        ("jpg", "RGB"),
    ],
)
def test_a_profile_is_converted_with_one_line(tmp_path, ending, mode, caplog):
    caplog.set_level("INFO")
    path = tmp_path / f"a.{ending}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(ending, {})
    picture = Image.new("RGB", (600, 500), (200, 60, 90))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(path, icc_profile=swapped_profile(), **options)
    colours = np.round(frames(path)[0][0] * 255)
    assert np.abs(colours - (60, 200, 90)).max() <= 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "colours are converted from its profile" in lines[0]
    red = channel(path, "red")
    assert red is not None and abs(red[0, 0] * 255 - 200) <= 2, "a mask is no colour"


_PEAK = """
import resource, sys
from pathlib import Path
from tests import conftest
import numpy, torch, PIL.Image
from inkstone.files.images import frames
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
colours, alpha = frames(Path(sys.argv[1]), 1)[0]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, colours[-1, -1], alpha[0, 0])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the module resource is POSIX's")
def test_a_large_picture_takes_little_more_than_its_floats(tmp_path):
    """4096x4096 RGBA: 268 MB of floats. Pillow's 67 MB were there beside them."""
    Image.new("RGBA", (4096, 4096), (255, 0, 51, 51)).save(tmp_path / "a.png")
    call = [sys.executable, "-c", _PEAK, str(tmp_path / "a.png")]
    run = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    kilobytes, _, values = run.stdout.partition(" ")
    assert int(kilobytes) * 1024 < 4 * 4 * 4096**2 * 1.1
    assert values.strip() == "[1.  0.  0.2] 0.2"


@pytest.mark.parametrize("count", range(1, 140, 23))
def test_bytes_become_floats_in_place(tmp_path, count):
    """Rows are read before they are overwritten, whatever their number."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 5, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colours, alpha = frames(tmp_path / "a.png")[0]
    want = pixels.astype(np.float32) / 255
    assert np.array_equal(colours, want[..., :3]) and np.array_equal(alpha, want[..., 3])
    assert np.array_equal(channel(tmp_path / "a.png", "green"), want[..., 1])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_picture_is_sound_or_said_to_be_damaged(tmp_path, form):
    path = tmp_path / "a"
    Image.effect_noise((90, 70), 80).convert("RGB").save(path, form)
    assert sound(path) == glance(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InkstoneError, match="cannot be read as a picture"):
        sound(path)


def test_a_sound_photo_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (90, 70)).save(tmp_path / "a.jpg", exif=exif)
    assert sound(tmp_path / "a.jpg") == ((70, 90), False, False)
