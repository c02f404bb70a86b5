"""Seeds: small pictures of every format, colour profiles, PNGs with texts, masks."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from inkstone.headless.workflow.load import find_graph

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    *(["AVIF"] if features.check("avif") else []),
)


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A ramp with noise."""
    width, height = size
    rng = np.random.default_rng(3)
    ramp = np.add.outer(np.arange(height) * 9, np.arange(width) * 7)[..., None]
    pixels = (ramp + rng.integers(0, 60, (height, width, 4))) % 256
    image = Image.fromarray(pixels.astype(np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert(mode)


def saved(image: Image.Image, form: str, **options) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_text(data: bytes, key: str, text: bytes, kind: bytes = b"tEXt") -> bytes:
    """A PNG with a text chunk behind its header."""
    body = kind + key.encode() + b"\0" + (b"\0" + zlib.compress(text) if kind == b"zTXt" else text)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def of_format(form: str) -> list[bytes]:
    """Pictures of one format, in the modes that it has."""
    modes = {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "TIFF": ("RGB", "RGBA", "L", "CMYK", "P", "1", "F"),
        "BMP": ("RGB", "L", "P", "1"),
        "GIF": ("P", "L"),
        "WEBP": ("RGB", "RGBA"),
        "AVIF": ("RGB", "RGBA"),
    }[form]
    seeds = [saved(_in_mode(mode), form) for mode in modes]
    if form in ("GIF", "WEBP", "PNG", "TIFF"):
        more = [picture(size=(12, 8)).rotate(90 * n) for n in range(3)]
        seeds.append(saved(more[0], form, save_all=True, append_images=more[1:]))
    if form in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = 6
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        seeds.append(saved(picture(), form, exif=exif.tobytes(), icc_profile=profile))
    if form == "TIFF":
        seeds += [saved(picture(), form, compression=c) for c in ("tiff_lzw", "tiff_deflate")]
    return seeds


def _in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 150)
    return picture(mode)


def pictures() -> list[bytes]:
    """Of every format."""
    return [seed for form in FORMATS for seed in of_format(form)]


def masks() -> list[bytes]:
    """White, black, grey, coloured and transparent ones."""
    flat = [Image.new("L", (20, 12), value) for value in (0, 1, 255)]
    return [saved(image, "PNG") for image in (*flat, picture("L"), picture("RGBA"), picture("P"))]


def profiles() -> list[bytes]:
    """Profiles that Pillow can make, and one with a matrix of its own."""
    made = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
    srgb = ImageCms.ImageCmsProfile(made[0]).tobytes()
    shifted = bytearray(srgb)
    at = srgb.find(b"XYZ ", 128 + 4 + 12 * 12)
    shifted[at + 8 : at + 12] = struct.pack(">i", 33000)
    grey = srgb[:16] + b"GRAY" + srgb[20:]
    return [srgb, ImageCms.ImageCmsProfile(made[1]).tobytes(), bytes(shifted), grey]


def png_texts() -> list[bytes]:
    """PNGs with a graph in them, in every kind of text chunk."""
    plain = saved(picture(), "PNG")
    ui = find_graph(Path("text_to_image_embedded")).read_bytes()
    api = b'{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}}}'
    return [
        with_text(plain, "prompt", api),
        with_text(plain, "workflow", ui),
        with_text(plain, "workflow", ui, b"zTXt"),
        with_text(plain, "prompt", b"\0\0\0\0" + api, b"iTXt"),
        with_text(plain, "inkstone", b'{"prompt": "a red circle"}'),
    ]
