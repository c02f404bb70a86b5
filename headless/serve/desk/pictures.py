"""Pictures that come with a request: files in the order's folder, through the one picture door."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from ....errors import InkstoneError
from ....files.images import channel, glance, sound
from ....files.png import save_png
from ....sampling.masks import NEARLY
from ...node_types import Json
from .refusal import Refusal
from .settings import Limits

_SPACES = b" \t\r\n"  # `base64 photo.png` breaks lines
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def save_picture(
    data: bytes, folder: Path, name: str, limits: Limits, given: str | None = None
) -> str:
    """Keeps a picture, once its header and then its pixels were found sound; returns its name.
    given: what the client calls it. Raises Refusal.
    """
    param = "pictures" if given is not None else name.split("_")[0]
    called = name if given is None else repr(given[:60])
    path = folder / f"{name}.png"  # whatever its format: it is found by its content
    path.write_bytes(data)
    try:
        width, height = glance(path).size
        if width * height > limits.pixels:
            raise Refusal(
                f"{called} is {width}x{height}: this server takes at most {limits.pixels} pixels. "
                "Make the picture smaller.",
                param=param,
            )
        sound(path)
    except Refusal:
        raise
    except InkstoneError as error:
        message = str(error).replace(str(path), called)
        raise Refusal(message, param=param) from None
    return path.name


def save_mask(data: bytes, folder: Path, limits: Limits) -> str:
    """Keeps a mask as OpenAI's clients mean it: what is transparent is changed, whatever colour it
    has; without transparency, what is white. (A mask that is given by its path may also be white
    paint on a transparent layer, which is the opposite.) Returns its name; raises Refusal.
    """
    import numpy as np

    name = save_picture(data, folder, "mask", limits)
    alpha = channel(folder / name, "alpha")
    if alpha is not None and alpha.min() < 1 - NEARLY:
        save_png(folder / name, np.rint((1 - alpha) * 255).astype(np.uint8))
    return name


def picture_bytes(value: Json, param: str) -> bytes:
    """The bytes of a picture in JSON: base64, alone or as a data URL. Raises Refusal."""
    if isinstance(value, dict) and isinstance(value.get("image_url"), str):
        value = value["image_url"]  # as newer clients of OpenAI write it
    text = value if isinstance(value, str) else ""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        text = text if head.endswith(";base64") else ""
    data = _decoded(text)
    if not data:
        raise Refusal(
            f"{param}: expected a picture as base64 or as data:image/png;base64,...; addresses and "
            "paths are not read.",
            param=param,
        )
    return data


def _decoded(text: str) -> bytes:
    """The bytes of base64, broken into lines or not, of either alphabet; b"" where it is none."""
    try:
        plain = text.encode("ascii").translate(None, _SPACES)
        if not (b"+" in plain or b"/" in plain):  # of two alphabets at once it would be a guess
            plain = plain.translate(_URL_SAFE)
        plain += b"=" * (-len(plain) % 4)  # which the URL-safe form may leave out
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        return b""
