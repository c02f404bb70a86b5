"""Regional prompts on the embedded model: words and shapes at asked places, counted.

Each picture has 2 to 4 regions; of each it is asked for a word or a shape in a colour, on one
ground. The prompt of the whole picture is the ground's, or (--plain) names everything with its
place, as one must without regions; that prompt alone is the row to compare with. A picture is right
if every region holds its item, read in the region's own box, in its colour, on the right ground.
Prompts are seeded; picture k is drawn with seed k.

python bench/regions.py --count 200
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from inkstone.sampling.region_choices import (
    COMPOSED,
    USUAL_BASE,
    RegionSettings,
    parse_region_method,
)

if TYPE_CHECKING:
    import numpy as np

    from inkstone.loaders.arch.family import Preset
    from inkstone.loaders.models.bundle import Bundle

SEED = 4719  # of the prompts
PLACES = {
    2: (("on the left", "on the right"), ("at the top", "at the bottom")),
    4: (("at the top left", "at the top right", "at the bottom left", "at the bottom right"),),
}
# canvases of two regions are the trained ones; a quarter must hold a shape of 40 pixels
CANVASES = {2: ((128, 128), (160, 96), (96, 160)), 3: ((160, 160),), 4: ((160, 160),)}
_STEP = 4  # pixels between the places at which a word is looked for
Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(frozen=True)
class Item:
    """A word or a shape, its colour, where it is asked for, and the place as a prompt says it."""

    word: str
    shape: str
    colour: str
    box: Box
    place: str

    def text(self) -> str:
        """As a prompt names it."""
        if self.word:
            return f'the word "{self.word}" in {self.colour}'
        return f"{article(self.colour)} {self.shape}"


@dataclass(frozen=True)
class Layout:
    """One picture that is asked for."""

    size: tuple[int, int]
    ground: str
    items: tuple[Item, ...]

    def plain(self) -> str:
        """Everything in one prompt."""
        things = " and ".join(f"{item.text()} {item.place}" for item in self.items)
        return f"{things} on {article(self.ground)} background"


@dataclass(frozen=True)
class Outcome:
    """What one way of drawing got right, in percent. words and shapes: of the single items."""

    way: str
    regions: int
    right: float
    interval: float  # half of the 95 % interval of `right`
    words: float
    shapes: float
    ground: float
    seconds: float


def article(colour: str) -> str:
    """A colour as a noun's first word."""
    return f"{'an' if colour[0] == 'o' else 'a'} {colour}"


def layouts(count: int, regions: int) -> list[Layout]:
    """Random pictures with so many regions."""
    import numpy as np

    rng = np.random.default_rng(SEED + regions)
    return [_layout(rng, regions) for _ in range(count)]


def _layout(rng: np.random.Generator, regions: int) -> Layout:
    from inkstone.training import grammar

    canvases = CANVASES[regions]
    width, height = canvases[int(rng.integers(len(canvases)))]
    ground = grammar.pick(rng, list(grammar.COLOURS))
    w, h = width // 2, height // 2
    if regions == 2:
        across = width > height or (width == height and rng.random() < 0.5)
        boxes = [(0, 0, w, height), (w, 0, w, height)]
        boxes = boxes if across else [(0, 0, width, h), (0, h, width, h)]
        places = PLACES[2][0 if across else 1]
    else:
        boxes = [(x, y, w, h) for y in (0, h) for x in (0, w)]
        places = PLACES[4][0]
    items = tuple(_item(rng, ground, box, place) for box, place in zip(boxes, places))
    return Layout((width, height), ground, items[:regions])


def _item(rng: np.random.Generator, ground: str, box: Box, place: str) -> Item:
    from inkstone.training import grammar

    colour, word, shape = grammar.ink(rng, ground), "", ""
    if rng.random() < 0.5:
        most = box[2] // grammar.CELL[0] - 1
        word = grammar.pick(rng, [text for text in grammar.WORDS if len(text) <= most])
    else:
        shape = grammar.pick(rng, grammar.KINDS)
    return Item(word, shape, colour, box, place)


class Painter:
    """The embedded model, drawing layouts."""

    def __init__(self, bundle: Bundle, preset: Preset) -> None:
        from inkstone.training.evaluate import Models

        self.models, self.preset = Models.of(bundle), preset

    def draw(
        self, layout: Layout, prompt: str, settings: RegionSettings | None, seed: int
    ) -> np.ndarray:
        """uint8 [H,W,3]. settings: of regions; None = without them."""
        import torch

        from inkstone.sampling.geometry import token_grid
        from inkstone.sampling.regions import Region, Regional, cells_of
        from inkstone.sampling.request import Request
        from inkstone.sampling.sampler import denoise
        from inkstone.sampling.schedule import sigmas

        models, (width, height), encode = self.models, layout.size, self.models.text_encoder.encode
        regions = []
        for item in layout.items if settings else ():
            x, y, w, h = item.box
            mask = torch.zeros(height, width)
            mask[y : y + h, x : x + w] = 1
            text = f"{item.text()} on {article(layout.ground)} background"
            regions.append(Region(encode(text).states, cells_of(mask)))
        tokens = math.prod(token_grid(width, height))
        request = Request(
            width,
            height,
            sigmas(models.model.schedule, self.preset.steps, tokens),
            seed,
            cfg=self.preset.cfg,
            regional=Regional(tuple(regions), settings) if settings else None,
        )
        negative = encode(self.preset.negative).states if self.preset.cfg > 1 else None
        return models.decode(denoise(models.model, encode(prompt).states, negative, request))


def judge(picture: np.ndarray, layout: Layout) -> tuple[bool, list[bool]]:
    """(the ground is right, and each item)."""
    from inkstone.training import reader

    ground, ink = reader.ground_and_ink(picture)
    items = [
        (_reads if item.word else _shows)(picture.astype("float32"), ink, ground, item)
        for item in layout.items
    ]
    return reader.nearest_colour(ground) == layout.ground, items


def _reads(pixels: np.ndarray, ink: np.ndarray, ground: np.ndarray, item: Item) -> bool:
    """The word stands somewhere in its box."""
    from inkstone.training import reader
    from inkstone.training.grammar import CELL, Word

    x, y, w, h = item.box
    for top in range(y, y + h - CELL[1] + 1, _STEP):
        for left in range(x, x + w - CELL[0] * len(item.word) + 1, _STEP):
            word = Word(item.word, item.colour, "", left, top)
            letters, colour = reader.read_word(pixels, word, ground)
            if letters == len(item.word) and colour:
                return True
    return False


def _shows(pixels: np.ndarray, ink: np.ndarray, ground: np.ndarray, item: Item) -> bool:
    """The ink in its box is one shape of this kind, as high as wide, with this colour."""
    import numpy as np

    from inkstone.training import reader

    x, y, w, h = item.box
    part, seen = ink[y : y + h, x : x + w], pixels[y : y + h, x : x + w]
    ys, xs = reader.extent(part.sum(1)), reader.extent(part.sum(0))
    if ys is None or xs is None:
        return False
    box = part[ys[0] : ys[1], xs[0] : xs[1]]
    if min(box.shape) < 16 or not 0.7 < box.shape[0] / box.shape[1] < 1.4:
        return False
    colour = reader.nearest_colour(np.median(seen[ys[0] : ys[1], xs[0] : xs[1]][box], axis=0))
    return reader.kind_of(box) == item.shape and colour == item.colour


def outcome(
    painter: Painter, way: str, asked: Sequence[Layout], settings: RegionSettings | None, full: bool
) -> Outcome:
    """Draws and counts. full: the prompt of the whole picture names everything."""
    import numpy as np

    began, right, grounds = time.perf_counter(), [], []
    by_kind: dict[bool, list[bool]] = {True: [], False: []}
    for seed, layout in enumerate(asked):
        prompt = layout.plain() if full else f"{article(layout.ground)} background"
        ground, items = judge(painter.draw(layout, prompt, settings, seed), layout)
        right.append(ground and all(items))
        grounds.append(ground)
        for item, done in zip(layout.items, items):
            by_kind[bool(item.word)].append(done)
    share = float(np.mean(right))
    return Outcome(
        way=way,
        regions=len(asked[0].items),
        right=100 * share,
        interval=196 * math.sqrt(share * (1 - share) / len(asked)),
        words=100 * float(np.mean(by_kind[True])),
        shapes=100 * float(np.mean(by_kind[False])),
        ground=100 * float(np.mean(grounds)),
        seconds=time.perf_counter() - began,
    )


def table(outcomes: Sequence[Outcome]) -> common.Cells:
    """Rows of the table."""
    cells = [("regions", "drawn by", "all right", "words", "shapes", "ground")]
    for o in outcomes:
        rates = (f"{o.words:.1f}", f"{o.shapes:.1f}", f"{o.ground:.1f}")
        cells.append((str(o.regions), o.way, f"{o.right:.1f} +- {o.interval:.1f}", *rates))
    return cells


def main() -> None:
    """Draws everything and prints the table."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--count", type=int, default=200, help="pictures of each row")
    p.add_argument("--regions", default="2,3,4", help="numbers of regions")
    p.add_argument(
        "--methods",
        default=f"{COMPOSED}:{USUAL_BASE:g}",
        help="METHOD[:BASE][:START-END], separated by commas; with +plain the prompt names all",
    )
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--cfg", type=float, default=2.0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    args = p.parse_args()
    import torch

    from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all

    torch.set_num_threads(args.threads)
    bundle = load_all(EMBEDDED_FOLDER)
    preset = replace(bundle.model.family.preset, steps=args.steps, cfg=args.cfg)
    painter, outcomes = Painter(bundle, preset), []
    for regions in map(int, args.regions.split(",")):
        asked = layouts(args.count, regions)
        outcomes.append(outcome(painter, "the prompt alone", asked, None, full=True))
        for name in args.methods.split(","):
            settings = parse_region_method(name.removesuffix("+plain"))
            full = name.endswith("+plain")
            outcomes.append(outcome(painter, name, asked, settings, full))
            print(json.dumps(asdict(outcomes[-1])), file=sys.stderr, flush=True)
    facts = {**common.facts(args), "steps": args.steps, "cfg": args.cfg, "count": args.count}
    if args.json:
        print(json.dumps({**facts, "results": [asdict(o) for o in outcomes]}, indent=1))
        return
    title = f"Regional prompts, {args.count} pictures a row, {args.steps} steps, CFG {args.cfg:g}"
    print(common.report(title, table(outcomes), facts))


if __name__ == "__main__":
    main()
