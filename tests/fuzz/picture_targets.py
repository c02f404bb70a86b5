"""Targets: pictures, colour profiles, masks."""

from __future__ import annotations

import torch

from inkstone.errors import InkstoneError
from inkstone.files import images
from inkstone.files.colour_profile import to_srgb
from inkstone.headless.core_nodes.load_save import LoadImage, LoadImageMask
from inkstone.host.headless import HeadlessHost, using
from inkstone.sampling.masks import bounds, mask_for, soften

from .files import emptied, folder, written

_MODES = ("RGB", "L", "CMYK", "P", "I;16")


def fuzz_picture(data: bytes) -> None:
    """Every way to read a picture, by the one door."""
    path, errors = written("picture", data), []
    for read in (images.glance, images.frames, images.is_grey, images.read_picture):
        try:
            read(path)
        except InkstoneError as error:  # the others are tried too
            errors.append(error)
    images.channel(path, "alpha"), images.channel(path, "red")
    if errors:
        raise errors[0]


def fuzz_profile(data: bytes) -> None:
    """A colour profile, used on a picture of its kind."""
    from PIL import Image

    for mode in _MODES:
        conversion = to_srgb(data, mode, folder() / "picture.png")
        if conversion is not None:
            conversion(Image.new(conversion.mode, (4, 4)))
            if conversion.mode == "L":
                conversion.curve()


def fuzz_mask(data: bytes) -> None:
    """A mask file, made fit for a picture."""
    home = emptied("input")
    (home / "mask.png").write_bytes(data)
    with using(HeadlessHost(models=(), input=home, output=home)):
        for channel in ("red", "alpha"):
            mask = LoadImageMask.execute("mask.png", channel).args[0]
            if mask.numel() <= 1 << 20:
                fitted = mask_for(mask, (48, 32))
                soften(fitted, 2, 3)
                bounds(fitted)
        image = LoadImage.execute("mask.png").args[0]
    assert isinstance(image, torch.Tensor)
