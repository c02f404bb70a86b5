"""The contact sheet of a training's samples: a row for each step, a column for each prompt.

It is made of the pictures on the disk, so a resumed run goes on with the same sheet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...errors import InkstoneError
from ...files.atomic import atomic
from ...files.opening import opened

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET = "sheet.png"
MOST_ROWS = 24  # of more steps the first, the last, and evenly chosen ones between them
_CELL, _GAP, _SIDE, _HEAD, _TEXT = 256, 8, 74, 44, 15  # pixels
_PAPER, _INK, _EMPTY = (255, 255, 255), (40, 44, 52), (226, 229, 234)
_NAME = re.compile(r"step-(\d{6,})-(\d+)\.png")


def sample_path(folder: Path, step: int, number: int) -> Path:
    """Where the picture of a prompt, from 1, at a step is."""
    return folder / f"step-{step:06}-{number}.png"


def steps_in(folder: Path) -> list[int]:
    """The steps that have pictures, in order."""
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted({int(name[1]) for name in names if name})


Own: TypeAlias = "Callable[[Path, str], bool]"
"""(file of a picture, prompt of its column) -> whether it belongs into the sheet."""


def write_sheet(folder: Path, prompts: Sequence[str], own: Own = lambda *_: True) -> Path:
    """Draws the sheet of the pictures in a folder; it is replaced whole. InkstoneError where it
    cannot be written.
    """
    path = folder / SHEET
    with atomic(path) as file:
        draw_sheet(folder, prompts, own).save(file, "PNG")
    return path


def draw_sheet(folder: Path, prompts: Sequence[str], own: Own = lambda *_: True) -> Image:
    """The sheet. A picture that is missing, cannot be read or is not `own` is an empty cell."""
    from PIL import Image, ImageDraw, ImageFont

    cells = {
        step: [path if own(path, prompt) else None for path, prompt in zip(paths, prompts)]
        for step in steps_in(folder)
        for paths in [[sample_path(folder, step, n + 1) for n in range(len(prompts))]]
    }
    steps = _chosen([step for step, paths in cells.items() if any(paths)])
    width = _SIDE + len(prompts) * (_CELL + _GAP)
    image = Image.new("RGB", (width, _HEAD + max(1, len(steps)) * (_CELL + _GAP)), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=_TEXT)
    for column, prompt in enumerate(prompts):
        left = _SIDE + column * (_CELL + _GAP)
        text = label(prompt, column + 1, lambda t: draw.textlength(t, font) <= _CELL)
        draw.text((left, _HEAD // 2), text, _INK, font, anchor="lm")
        for row, step in enumerate(steps):
            cell = _cell(cells[step][column])
            top = _HEAD + row * (_CELL + _GAP)
            image.paste(cell, (left + (_CELL - cell.width) // 2, top + (_CELL - cell.height) // 2))
    for row, step in enumerate(steps):
        middle = _HEAD + row * (_CELL + _GAP) + _CELL // 2
        draw.text((_SIDE - 10, middle), str(step), _INK, font, anchor="rm")
    return image


def label(prompt: str, number: int, fits: Callable[[str], bool]) -> str:
    """A prompt's heading: as much of it as fits, or its number where the font lacks its letters."""
    plain = " ".join(prompt.split())
    if not plain.isascii():  # the font that comes with Pillow has plain Latin letters only
        return f"prompt {number}"
    if fits(plain):
        return plain
    return next(short for n in range(len(plain), -1, -1) if fits(short := plain[:n] + "..."))


def _chosen(steps: Sequence[int]) -> list[int]:
    """At most MOST_ROWS of them."""
    if len(steps) <= MOST_ROWS:
        return list(steps)
    return [steps[round(row * (len(steps) - 1) / (MOST_ROWS - 1))] for row in range(MOST_ROWS)]


def _cell(path: Path | None) -> Image:
    """A picture that fits a cell; never enlarged beyond twice its size."""
    from PIL import Image

    if path is None:
        return Image.new("RGB", (_CELL, _CELL), _EMPTY)
    try:
        with opened(path) as file:
            file.check_room(3)
            picture = _flat(file.image)
    except (InkstoneError, OSError):
        return Image.new("RGB", (_CELL, _CELL), _EMPTY)
    scale = min(_CELL / picture.width, _CELL / picture.height, 2.0)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _flat(picture: Image) -> Image:
    """Without alpha, over white."""
    from PIL import Image

    if "A" not in picture.getbands():
        return picture.convert("RGB")
    flat = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    flat.alpha_composite(picture.convert("RGBA"))
    return flat.convert("RGB")
