"""A result, which is a PNG on the disk, as the bytes that a client asked for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ....files.png import read_text_chunks
from ..desk.refusal import Refusal
from .wishes import Wish

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST = {"jpeg": 65_535, "webp": 16_383}  # pixels of a side that the format has
_WHITE = (255, 255, 255)  # behind a picture whose transparency was not wanted


def encoded(path: Path, wish: Wish) -> bytes:
    """A result in the format that was asked for; of a PNG with the graph that made it. Raises
    Refusal, FileNotFoundError.
    """
    if wish.format == "png" and not wish.opaque:
        return path.read_bytes()
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as picture:  # our own file
        _check_sides(picture, wish)
        if wish.format == "png" and not is_transparent(picture):
            return path.read_bytes()
        flat = wish.opaque or wish.format == "jpeg"
        result = _on_white(picture) if flat else picture
        data = io.BytesIO()
        if wish.format == "png":
            info = PngInfo()
            for key, text in read_text_chunks(path).items():
                info.add_text(key, text)
            result.save(data, "PNG", pnginfo=info)
        else:
            result.save(data, wish.format.upper(), quality=wish.quality)
    return data.getvalue()


def check_sides(path: Path, wish: Wish) -> None:
    """Raises Refusal where the format has no pictures of a result's size, FileNotFoundError."""
    from PIL import Image

    with Image.open(path) as picture:
        _check_sides(picture, wish)


def _check_sides(picture: Image, wish: Wish) -> None:
    most = _LONGEST.get(wish.format)
    if most is not None and max(picture.size) > most:
        raise Refusal(
            f"{wish.format} has no pictures of {picture.width}x{picture.height}: expected "
            f"sides of at most {most}. Ask for png.",
            param="output_format",
        )


def is_transparent(picture: Image) -> bool:
    """True for a picture with an alpha channel."""
    return picture.mode in ("RGBA", "LA")


def _on_white(picture: Image) -> Image:
    """The picture as RGB; what is transparent is white, not the colours that it hides."""
    from PIL import Image

    if not is_transparent(picture):
        return picture.convert("RGB")
    ground = Image.new("RGB", picture.size, _WHITE)
    picture = picture.convert("RGBA")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground
