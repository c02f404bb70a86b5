"""Colour profiles: the pixels of a file -> sRGB, which is what the models were trained on.

Without this the colours of a wide profile (Display P3 of phones, Adobe RGB of cameras) come out
pale, and CMYK is guessed. The conversion is Pillow's (LittleCMS), perceptual, 8 bits a channel; of
16-bit grey the curve of the profile is interpolated.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

log = logging.getLogger(__name__)

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> Pillow's mode
_STEP = 51  # of the probe's values: 0, 51 ... 255


class ToSRGB:
    """A conversion from one profile. mode: what it takes, "RGB", "L" or "CMYK"."""

    def __init__(self, mode: str, transform: ImageCmsTransform) -> None:
        self.mode, self._transform = mode, transform

    def __call__(self, pixels: Image) -> Image:
        """An image of any mode -> RGB in sRGB."""
        from PIL import ImageCms

        given = pixels if pixels.mode == self.mode else pixels.convert(self.mode)
        converted = ImageCms.applyTransform(given, self._transform)
        assert converted is not None, "only a conversion in place gives None"
        return converted

    def curve(self) -> np.ndarray:
        """[256] what each grey becomes, 0..1."""
        import numpy as np
        from PIL import Image

        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        return np.asarray(self(ramp), dtype=np.float32)[0, :, 1] / 255


def to_srgb(profile: bytes, mode: str, path: Path) -> ToSRGB | None:
    """The conversion for a file of this mode, with one line; None where the profile is sRGB's own,
    is broken, or is for another kind of colours (one line too).
    """
    if not profile:
        return None
    from PIL import ImageCms

    try:
        icc = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = icc.profile.xcolor_space.strip()
        wanted = _MODES.get(space)
        if wanted is None or not _fits(mode, wanted):
            log.warning("%s: its colour profile is for %s and is skipped", path.name, space)
            return None
        srgb = ImageCms.createProfile("sRGB")
        own = ToSRGB(wanted, ImageCms.buildTransform(icc, srgb, wanted, "RGB"))
        if _changes_nothing(own):
            return None
        name = (icc.profile.profile_description or "without a name").strip()
    except (OSError, ValueError, TypeError, AttributeError, ImageCms.PyCMSError) as error:
        log.warning("%s: its colour profile is broken and is skipped: %s", path.name, error)
        return None
    log.info('%s: colours are converted from its profile, "%.60s", to sRGB', path.name, name)
    return own


def _fits(mode: str, wanted: str) -> bool:
    """True where pixels of `mode` are of the kind that a profile for `wanted` describes."""
    grey = mode in ("1", "L", "LA", "La", "F") or mode[:1] == "I"
    kind = "CMYK" if mode == "CMYK" else "L" if grey else "RGB"
    return kind == wanted


def _changes_nothing(conversion: ToSRGB) -> bool:
    import numpy as np
    from PIL import Image

    if conversion.mode == "CMYK":
        return False
    axis = np.arange(0, 256, _STEP if conversion.mode == "RGB" else 1, dtype=np.uint8)
    if conversion.mode == "L":
        probe, wanted = axis[None], np.repeat(axis[None, :, None], 3, 2)
    else:
        grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(1, -1, 3)
        probe = wanted = grid
    got = np.asarray(conversion(Image.fromarray(probe))).astype(int)
    return bool(np.abs(got - wanted).max() <= 1)
