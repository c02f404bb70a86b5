"""Inpaints of random sizes and boxes at hardly any strength: the part has to stay in its place.

Everything is real: canvas, crop, mask, VAE, sampler, stitch, by every face. The last of 200 steps
returns the latents of the picture nearly as they are, so what is in the mask afterwards is the
picture through the VAE, and where it is best found in the original says what the geometry did.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import inkstone
from inkstone.errors import InkstoneError
from inkstone.headless.cli import main
from inkstone.headless.draw.api import LoadedModels
from inkstone.headless.draw.graph import FEATHER
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER

LEAST_BOX = 64  # pixels: less holds too few blocks to measure a drift
MARGIN, CANVAS = 64, 128 * 128  # pixels around a mask, and of the embedded model
REACH = 8  # pixels that are looked at in each direction
MOVED = 2.0  # pixels of drift: more is a part that moved; see `Case.allowed`
SMALL = (96, 640)  # sides of pictures for the embedded model, whose own size is 128x128
LARGE = (1_800_000, 1_950_000)  # pixels: around 1.1 times Qwen-Image's, where a crop begins
PROMPT = "a red star on a white background"
Options = Mapping[str, object]
OPTIONS = {"strength": 0.005, "steps": 200, "cfg": 1.0}  # one step from the last noise level


@dataclass(frozen=True)
class Case:
    """A picture and the box of its mask."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]  # left, top, right, bottom
    seed: int

    def __str__(self) -> str:
        return "{}x{}, mask {},{} to {},{}".format(*self.size, *self.box)

    def save(self, folder: Path) -> dict[str, str]:
        """Writes picture and mask; the options that name them."""
        names = {"image": str(folder / "p.png"), "mask": str(folder / "m.png")}
        pixels = blocks(self.size, self._cell(), self.seed)
        Image.fromarray(pixels).save(names["image"], compress_level=1)
        mask = Image.new("L", self.size)
        left, top, right, bottom = self.box
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
        mask.save(names["mask"], compress_level=1)
        return names

    def drift(self, before: np.ndarray, after: np.ndarray) -> float:
        """Pixels by which the part behind the seam moved; infinite where anything outside of the
        mask changed.
        """
        left, top, right, bottom = self.box
        outside = np.ones(before.shape[:2], bool)
        outside[top:bottom, left:right] = False
        if before.shape != after.shape or not np.array_equal(before[outside], after[outside]):
            return float("inf")
        inside = (top + FEATHER, bottom - FEATHER), (left + FEATHER, right - FEATHER)
        return max(_shift(before, after, *part) for part in _parts(*inside))

    def allowed(self) -> float:
        """Pixels of drift that the VAE may cause: MOVED, or one of the canvas of a large part."""
        left, top, right, bottom = self.box
        width, height = (
            min(part + 2 * MARGIN, whole)
            for part, whole in zip((right - left, bottom - top), self.size)
        )
        large = self.size[0] * self.size[1] >= LARGE[0]
        return MOVED if large else max(MOVED, (width * height / CANVAS) ** 0.5)

    def _cell(self) -> int:
        """The side of a block: it has to come through the VAE where the part is drawn small."""
        left, top, right, bottom = self.box
        return max(16, min(right - left, bottom - top) // 4)


def blocks(size: tuple[int, int], cell: int, seed: int) -> np.ndarray:
    """[H,W,3] blocks of eight colours; neighbours differ."""
    (width, height), dice = size, np.random.default_rng(seed)
    cells = dice.integers(0, 2, (height // cell + 1, width // cell + 1, 3), np.uint8) * 255
    cells[..., 1] = np.indices(cells.shape[:2]).sum(0) % 2 * 255
    return np.kron(cells, np.ones((cell, cell, 1), np.uint8))[:height, :width]


Span = tuple[int, int]


def _parts(rows: Span, columns: Span) -> Iterator[tuple[Span, Span]]:
    """The whole and its quarters: a zoom moves these."""
    yield rows, columns
    halves = [((a, (a + b) // 2), ((a + b) // 2, b)) for a, b in (rows, columns)]
    yield from ((down, across) for down in halves[0] for across in halves[1])


def _shift(before: np.ndarray, after: np.ndarray, rows: Span, columns: Span) -> float:
    """The pixels by which a part of `after` is found elsewhere in `before`, by least squares."""
    part = after[slice(*rows), slice(*columns)].astype(np.float32)
    errors = {}
    for y in range(max(-REACH, -rows[0]), min(REACH, len(before) - rows[1]) + 1):
        for x in range(max(-REACH, -columns[0]), min(REACH, before.shape[1] - columns[1]) + 1):
            there = before[rows[0] + y : rows[1] + y, columns[0] + x : columns[1] + x]
            errors[y, x] = float(np.square(part - there).mean())
    y, x = min(errors, key=lambda step: (errors[step], step))
    return (y * y + x * x) ** 0.5


def small(count: int, seed: int = 14) -> Iterator[Case]:
    """Any size, for the embedded model."""
    dice = random.Random(seed)
    for n in range(count):
        size = dice.randint(*SMALL), dice.randint(*SMALL)
        yield Case(size, _box(dice, size), n)


def large(count: int, seed: int = 14) -> Iterator[Case]:
    """Sizes of LARGE, of any usual aspect ratio, for Qwen-Image."""
    dice = random.Random(seed)
    for n in range(count):
        area, ratio = dice.randint(*LARGE), 2 ** dice.uniform(-1, 1)
        width = round((area * ratio) ** 0.5)
        size = width, area // width
        yield Case(size, _box(dice, size), n)


def _box(dice: random.Random, size: tuple[int, int]) -> tuple[int, int, int, int]:
    sides = [dice.randint(LEAST_BOX, side) for side in size]
    left, top = (dice.randint(0, side - part) for side, part in zip(size, sides))
    return left, top, left + sides[0], top + sides[1]


def qwen_layout(folder: Path) -> Path:
    """A tiny model that counts as Qwen-Image (canvas and crop of 1328x1328): one block and the VAE
    of the embedded one, without its family's name.
    """
    shutil.copytree(EMBEDDED_FOLDER, folder, ignore=shutil.ignore_patterns("controlnet"))
    for path in folder.glob("*/*.safetensors"):
        with SafetensorsFile(path) as file:
            tensors = {name: file.read(name).clone() for name in file.entries if _kept(name)}
            metadata = {k: v for k, v in file.metadata.items() if k != "inkstone_family"}
        path.unlink()
        save_safetensors(path, tensors, metadata)
    config = folder / "transformer/config.json"
    fields = json.loads(config.read_text()) | {"num_layers": 1, "zero_cond_t": False}
    config.write_text(json.dumps(fields))
    return folder


@dataclass
class Tally:
    """Counts of one face."""

    done: int = 0
    moved: int = 0
    refused: int = 0
    unlike: int = 0  # pixels are not those of the first face
    worst: float = 0.0  # pixels of drift


def tally(
    cases: Iterable[Case], faces: Sequence[str], model: Path | None, note: Callable[[str], None]
) -> dict[str, Tally]:
    """Inpaints every case by every face, in the working folder; `note` gets a line for a fault."""
    tallies = {face: Tally() for face in faces}
    options = OPTIONS | ({"model": str(model)} if model else {})
    Path("input").mkdir(exist_ok=True)
    for case in cases:
        named, first = options | case.save(Path("input")), None
        before = np.asarray(Image.open(str(named["image"])))
        for face, counts in tallies.items():
            counts.done += 1
            try:
                after = FACES[face](named)
            except InkstoneError as error:
                counts.refused += 1
                note(f"{face}, {case}: refused: {error}")
                continue
            first = after if first is None else first
            drift, unlike = case.drift(before, after), not _alike(first, after)
            counts.moved += drift > case.allowed()
            counts.unlike += unlike
            counts.worst = max(counts.worst, drift)
            if drift > case.allowed() or unlike:
                note(f"{face}, {case}: moved {drift:.1f} px{', unlike' if unlike else ''}")
    return tallies


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to 1 of 255: Save Image cuts values where a draw rounds them."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1


def _by_api(options: Options) -> np.ndarray:
    rest = {name: value for name, value in options.items() if name != "model"}
    (picture,) = _loaded(options.get("model")).draw(PROMPT, **rest)
    return np.asarray(picture)


@cache
def _loaded(model: object) -> LoadedModels:
    return inkstone.load(model=model)


def _by_draw(options: Options) -> np.ndarray:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return _by_command("o.png", "draw", PROMPT, "-o", "o.png", "--quiet", *words)


def _by_run(options: Options) -> np.ndarray:
    """By the graph that the picture of `_by_draw` carries."""
    shutil.rmtree("ran", ignore_errors=True)
    return _by_command("ran/**/*.png", "run", "o.png", "--output", "ran")


def _by_queue(options: Options) -> np.ndarray:
    shutil.rmtree("queue", ignore_errors=True)
    Path("jobs.jsonl").write_text(json.dumps({"id": "job", "prompt": PROMPT, **options}))
    words = "batch", "jobs.jsonl", "--output", "queue", "--quiet"
    return _by_command("queue/job*.png", *words)


def _by_command(result: str, *words: str) -> np.ndarray:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as lines:
        status = main(list(words))
    if status:
        raise InkstoneError(lines.getvalue().strip() or f"status {status}")
    return np.asarray(Image.open(next(Path().glob(result))).convert("RGB"))


FACES = {"draw": _by_draw, "run": _by_run, "queue": _by_queue, "API": _by_api}


def _kept(name: str) -> bool:
    block = name.removeprefix("transformer_blocks.")
    return name != "__index_timestep_zero__" and (block == name or block.startswith("0."))
