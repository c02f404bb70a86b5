"""Colours that a file states in a few numbers beside a profile: PNG's cICP, cHRM and gAMA, nclx of
AVIF and HEIC, "Adobe RGB" in a camera's EXIF. They are not converted, but named in one line: what
is read as sRGB though it is Display P3, BT.2020 or HDR has other colours.

Numbers: ITU-T H.273 (coding-independent code points).
"""

from __future__ import annotations

import logging
import struct
from pathlib import Path

log = logging.getLogger(__name__)

_PRIMARIES = {4: "BT.470 M", 8: "film", 9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3"}
_CURVES = {4: "gamma 2.2", 5: "gamma 2.8", 8: "linear", 16: "PQ (HDR)", 17: "DCI", 18: "HLG (HDR)"}
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # times 100,000
_NEAR = 600  # of a chromaticity: sRGB's as other programs round them
_USUAL_GAMMA = (42_000, 50_000)  # gAMA times 100,000 that is sRGB's 1 / 2.2, roughly
ADOBE = "Adobe RGB"


def from_numbers(primaries: int, curve: int) -> str:
    """The name of what is not sRGB; nothing for sRGB and its relatives of television."""
    names = (_PRIMARIES.get(primaries), _CURVES.get(curve))
    return ", ".join(name for name in names if name)


def from_cicp(data: bytes) -> str:
    """The name by a PNG's cICP chunk."""
    return from_numbers(data[0], data[1]) if len(data) == 4 else ""


def from_gamma(data: bytes) -> str:
    """The name by a PNG's gAMA chunk."""
    value = int.from_bytes(data, "big") if len(data) == 4 else 0
    if not value or _USUAL_GAMMA[0] <= value <= _USUAL_GAMMA[1]:
        return ""
    return "linear" if value == 100_000 else f"gamma {100_000 / value:.2g}"


def from_chromaticities(data: bytes) -> str:
    """The name by a PNG's cHRM chunk."""
    if len(data) != 32:
        return ""
    pairs = zip(struct.unpack(">8I", data), _SRGB_CHROMATICITIES, strict=True)
    return "" if all(abs(a - b) <= _NEAR for a, b in pairs) else "primaries of its own"


def from_boxes(head: bytes) -> str:
    """The name by the nclx box of an AVIF or HEIC, by the first bytes of the file."""
    place = head.find(b"colrnclx")
    if head[4:8] != b"ftyp" or place < 0 or len(head) < place + 12:
        return ""
    return from_numbers(*struct.unpack(">HH", head[place + 8 : place + 12]))


def note(path: Path, name: str, converted: bool) -> None:
    """One line for colours that are not sRGB. converted: a profile says it too, except for HDR."""
    if name and not (converted and "HDR" not in name):
        log.warning(
            "%s: its colours are marked as %s and are read as sRGB, so they look different. Save "
            "it with sRGB colours, or with a colour profile",
            path.name,
            name,
        )
