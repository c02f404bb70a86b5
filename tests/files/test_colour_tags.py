"""Colours and orientation that a file states beside profile and EXIF: named, obeyed, harmless."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, features

from inkstone.errors import InkstoneError
from inkstone.files import opening
from inkstone.files.images import channel, frames, glance

from .test_pictures import png_with, swapped_profile

P3_PRIMARIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
NAMED = {
    "Display P3": (b"cICP", bytes([12, 13, 0, 1])),
    "BT.2020, PQ (HDR)": (b"cICP", bytes([9, 16, 0, 1])),
    "BT.2020, HLG (HDR)": (b"cICP", bytes([9, 18, 0, 1])),
    "linear": (b"gAMA", struct.pack(">I", 100_000)),
    "gamma 1.8": (b"gAMA", struct.pack(">I", 55_556)),
    "primaries of its own": (b"cHRM", P3_PRIMARIES),
}
PLAIN = {
    "sRGB": [(b"cICP", bytes([1, 13, 0, 1]))],
    "television": [(b"cICP", bytes([1, 1, 0, 1]))],
    "gamma": [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", SRGB_PRIMARIES)],
    "sRGB decides": [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 55_556))],
    "cut": [(b"cICP", b"\x0c"), (b"gAMA", b""), (b"cHRM", b"1234")],
}


def lines(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "are marked as" in r.getMessage()]


@pytest.mark.parametrize("name", NAMED)
def test_other_colours_of_a_png_are_named(tmp_path, name, caplog):
    (tmp_path / "a.png").write_bytes(png_with(NAMED[name]))
    ((colours, _),) = frames(tmp_path / "a.png")
    assert (np.round(colours * 255) == (200, 60, 60)).all()
    (line,) = lines(caplog)
    assert f"a.png: its colours are marked as {name} and are read as sRGB" in line


@pytest.mark.parametrize("name", PLAIN)
def test_usual_colours_of_a_png_say_nothing(tmp_path, name, caplog):
    (tmp_path / "a.png").write_bytes(png_with(*PLAIN[name]))
    assert len(frames(tmp_path / "a.png")) == 1 and not lines(caplog)


def test_a_profile_says_it_too_except_for_hdr(tmp_path, caplog):
    profile = (b"iCCP", b"x\0\0" + zlib.compress(swapped_profile()))
    for numbers, count in (((12, 13), 0), ((9, 16), 1)):
        (tmp_path / "a.png").write_bytes(png_with(profile, (b"cICP", bytes([*numbers, 0, 1]))))
        frames(tmp_path / "a.png")
        assert len(lines(caplog)) == count
    assert channel(tmp_path / "a.png", "red") is not None and len(lines(caplog)) == 1, "a mask"


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_other_colours_of_an_avif_are_named(tmp_path, caplog):
    path = tmp_path / "a.avif"
    Image.new("RGB", (64, 64), (200, 60, 60)).save(path)
    data = path.read_bytes()
    place = data.index(b"colrnclx") + 8
    frames(path)
    assert not lines(caplog), "Pillow writes sRGB"
    path.write_bytes(data[:place] + struct.pack(">HH", 9, 16) + data[place + 4 :])
    frames(path)
    assert "BT.2020, PQ (HDR)" in lines(caplog)[0]


def test_adobe_rgb_of_a_camera_is_named(tmp_path, caplog):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03"}
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", exif=exif)
    frames(tmp_path / "a.jpg")
    assert "Adobe RGB" in lines(caplog)[0]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
KEY = b"XML:com.adobe.xmp\0"
TURNED = {
    "XMP": [(b"iTXt", KEY + b"\0\0\0\0" + XMP)],
    "XMP packed": [(b"iTXt", KEY + b"\1\0\0\0" + zlib.compress(XMP))],
    "XMP as an element": [
        (b"iTXt", KEY + b"\0\0en\0\0" + b"<tiff:Orientation>6</tiff:Orientation>")
    ],
    "ImageMagick's": [],
    "EXIF before XMP": [(b"iTXt", KEY + b"\0\0\0\0" + XMP)],
}


@pytest.mark.parametrize("name", TURNED)
def test_every_orientation_of_a_png_is_pillows(tmp_path, name):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    chunks = TURNED[name]
    if name == "EXIF before XMP":
        chunks = [*chunks, (b"eXIf", exif.tobytes()[6:])]
    if name == "ImageMagick's":
        digits = exif.tobytes().hex().encode()
        text = b"\nexif\n%8d\n" % (len(digits) // 2) + digits
        chunks = [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))]
    path = tmp_path / "a.png"
    path.write_bytes(png_with(*chunks))
    with Image.open(path) as picture:
        picture.load()
        size = ImageOps.exif_transpose(picture).size
    assert glance(path).size == size == ((6, 4) if "E" in name[:1] or "I" in name[:1] else (4, 6))


@pytest.mark.parametrize("ending", ["jpg", "webp", "tif"])
def test_xmp_of_other_formats_is_pillows(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (32, 16)).save(path, xmp=XMP, tiffinfo={700: XMP})
    with Image.open(path) as picture:
        size = ImageOps.exif_transpose(picture).size
    assert glance(path).size == size == (16, 32)


def test_many_packed_chunks_are_unpacked_once(tmp_path):
    bomb = zlib.compress(bytes(64 << 20), 9)[: 60 << 10]
    many = [(b"iCCP", b"x\0\0" + bomb), (b"zTXt", b"Raw profile type exif\0\0" + bomb)] * 8
    many += [(b"iTXt", KEY + b"\1\0\0\0" + bomb)] * 8
    (tmp_path / "a.png").write_bytes(png_with(*many * 2))
    start = time.process_time()
    assert len(frames(tmp_path / "a.png")) == 1 and time.process_time() - start < 1


def test_a_flat_picture_of_a_usual_size_is_no_bomb(tmp_path, monkeypatch):
    """Small files of large flat pictures: cut-outs, and photos as AVIF."""
    monkeypatch.setattr(opening, "SMALL_ROOM", 30_000)
    for ending, mode in (("png", "RGBA"), ("webp", "RGBA"), ("png", "P"), ("jpg", "RGB")):
        path = tmp_path / f"a.{ending}"
        Image.new(mode, (64, 64)).save(path)
        assert frames(path)[0][0].shape == (64, 64, 3), ending
    monkeypatch.setattr(opening, "MANY", 4000)
    with pytest.raises(InkstoneError, match="64x64 pixels"):
        frames(tmp_path / "a.png")
