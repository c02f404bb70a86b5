"""Small copies of pictures as data: addresses, for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ...errors import InkstoneError
from ...files.paths import below
from ...score.results import PictureResult
from .call import read_pixels

_SIDE = 512  # pixels; smaller pictures stay as they are
_QUALITY = 85


def thumbnails(folder: Path) -> Callable[[PictureResult], str]:
    """The function that gives the address of a picture below a folder, "" where there is none."""

    def address(picture: PictureResult) -> str:
        if picture.error:
            return ""
        try:
            image = Image.fromarray(read_pixels(below(folder, picture.file)))
        except (InkstoneError, OSError):
            return ""
        kind = "png" if max(image.size) <= _SIDE // 2 else "jpeg"
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        image.save(data, kind, quality=_QUALITY)
        return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"

    return address
