"""Captions in `.txt` files: reading them, and writing those that are missing."""

from __future__ import annotations

from pathlib import Path

from ...files.paths import read_regular

MOST_CAPTION = 1 << 16  # bytes: 10,000 words; no text encoder here takes as much
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Unusable(ValueError):
    """A caption that cannot be used; its text says why, for a line of the report."""


def read_caption(path: Path) -> str:
    """The whole text of a file without white space at its ends: UTF-8, or UTF-16 with its mark as
    Windows' editors write it. Raises Unusable.
    """
    try:
        data = read_regular(path, MOST_CAPTION)
    except OSError as error:
        raise Unusable(f"{path.name}: {error.strerror or error}") from None
    try:
        text = data.decode(_MARKS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        raise Unusable(f"{path.name}: it is not UTF-8: save it again as UTF-8") from None
    return checked_caption(text, path.name)


def checked_caption(text: str, where: str) -> str:
    """A caption without white space at its ends. Raises Unusable; where: for its text."""
    if "\0" in text:
        raise Unusable(f"{where}: it has a NUL, so it is no text in UTF-8")
    return text.strip()
