"""The grammar of the embedded model's pictures: coloured grounds, shapes, words, and their
prompts.

A scene is data; `prompt` is its text, `render.render` its pixels. Held-out scenes (by a checksum of
the prompt, or of the word) are never rendered for training.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "red": (215, 35, 35),
    "green": (30, 140, 50),
    "blue": (35, 60, 200),
    "yellow": (250, 220, 40),
    "orange": (245, 135, 25),
    "purple": (125, 40, 160),
    "pink": (250, 160, 195),
    "cyan": (70, 205, 220),
}
KINDS = ("circle", "square", "triangle", "star")
TAUGHT = ("hexagon",)  # not of the grammar: rendered and read to see what a LoRA learns
SIZES = {"small": 24, "": 40, "large": 60}  # diameters in pixels
PLACES = ("left", "right", "top", "bottom", "center")
PLACE_WORDS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
CANVASES = ((128, 128), (160, 96), (96, 160))  # width, height
STRIP = (128, 32)
CELL = (16, 32)  # width and height of a letter: one token column, two token rows
WORDS = tuple(
    """A I AT BE BY DO GO HI IN IT ME MY NO OF OK ON OR SO TO UP WE ART BAR BIG BOX BUS CAR CAT DAY
    DOG EAT END FAR FIX FLY FOX FUN HAT HOT ICE INK JAM JOY KEY LAB LAW MAP MIX NEW NOW OLD ONE
    OPEN OUT OWL PAN PEN PIN RED RUN SEA SKY SUN TAX TEA TOP TWO USE VAN WAR WAX WEB WIN YES ZIP
    ZOO BABY BAND BANK BIRD BLUE BOOK CAFE CITY COOL DARK DOOR EAST EXIT FAST FIRE FISH FREE GAME
    GIFT GOLD HELP HOME IDEA JAZZ JUMP KING LAKE LIFE LOVE MOON NEWS NEXT NORD PARK PLAY QUIZ
    RAIN ROCK SALE SHOP SLOW SNOW STAR STOP TAXI TIME TREE WAVE WIND ZERO APPLE BREAD CHAIR CLOUD
    DANCE EARTH FRESH GREEN HAPPY HELLO HOTEL HOUSE JUICE LIGHT MAGIC MUSIC NIGHT OCEAN PAPER
    PEACE PIZZA QUEEN RIVER SMILE SPACE STONE TIGER TODAY TRAIN WATER WORLD BRIDGE COFFEE FLOWER
    FOREST FRIEND GARDEN GUITAR ISLAND MARKET ORANGE PLANET ROCKET SCHOOL SILVER SPRING STREET
    SUMMER TICKET WINDOW WINTER YELLOW""".split()
)


@dataclass(frozen=True)
class Shape:
    """A filled shape; centre and diameter in pixels."""

    kind: str
    colour: str
    size: str
    place: str
    x: int
    y: int
    diameter: int


@dataclass(frozen=True)
class Word:
    """Letters in cells of 16x32; left top corner in pixels; `plate` is a sign's colour or empty."""

    text: str
    colour: str
    place: str
    x: int
    y: int
    plate: str = ""


@dataclass(frozen=True)
class Scene:
    """A picture: size in pixels, ground colour, items in drawing order, and its text."""

    width: int
    height: int
    ground: str
    items: tuple[Shape | Word, ...]
    text: str


def prompt(scene: Scene) -> str:
    """The prompt of a scene."""
    return scene.text.replace("a orange", "an orange")


def luminance(colour: str) -> float:
    """Rec. 601 luminance, 0..255."""
    r, g, b = COLOURS[colour]
    return 0.299 * r + 0.587 * g + 0.114 * b


def held_out(scene: Scene) -> bool:
    """True for scenes that training never sees: 1 prompt in 20, and every scene with 1 word in
    10.
    """
    if zlib.crc32(scene.text.encode()) % 20 == 0:
        return True
    words = [item.text for item in scene.items if isinstance(item, Word)]
    return any(zlib.crc32(b"word " + w.encode()) % 10 == 0 for w in words)


def sample(
    rng: np.random.Generator, kind: str, size: tuple[int, int] | None = None, split: str = "train"
) -> Scene:
    """A random scene of a kind ("strips", "shapes" or "scenes") on one side of the hold-out."""
    for _ in range(10_000):
        width, height = size or (
            STRIP if kind == "strips" else CANVASES[int(rng.integers(len(CANVASES)))]
        )
        scene = _MAKERS[kind](rng, width, height)
        if held_out(scene) == (split == "test"):
            return scene
    raise RuntimeError(f"no {split} scene of kind {kind!r} in 10,000 tries")


def pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """A random one of the options."""
    return options[int(rng.integers(len(options)))]


def ink(rng: np.random.Generator, *grounds: str) -> str:
    """A colour that stands out from all grounds (luminance differs by 50 or more)."""
    fit = [c for c in COLOURS if all(abs(luminance(c) - luminance(g)) >= 50 for g in grounds)]
    return pick(rng, fit)


def random_word(rng: np.random.Generator) -> str:
    """A word of the list, or random letters."""
    if rng.random() < 0.5:
        return pick(rng, WORDS)
    length = int(rng.choice(6, p=(0.04, 0.08, 0.16, 0.22, 0.24, 0.26))) + 1
    return "".join(LETTERS[int(i)] for i in rng.integers(len(LETTERS), size=length))


def _word(
    rng: np.random.Generator, width: int, y: int, colour: str, place: str, plate: str = ""
) -> Word:
    text = random_word(rng)
    x = (width - CELL[0] * len(text)) // 2 // CELL[0] * CELL[0]
    return Word(text, colour, place, x, y, plate)


def _strip(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground = pick(rng, list(COLOURS))
    word = _word(rng, width, 0, ink(rng, ground), "center")
    return Scene(
        width,
        height,
        ground,
        (word,),
        f'the word "{word.text}" in {word.colour} on a {ground} background',
    )


def centre(place: str, width: int, height: int, d: int) -> tuple[int, int]:
    """The centre of a shape of diameter d: its edge 6 px from the canvas edge, or centred."""
    x = {"left": 6 + d // 2, "right": width - 6 - d // 2}.get(place, width // 2)
    y = {"top": 6 + d // 2, "bottom": height - 6 - d // 2}.get(place, height // 2)
    return x, y


def _shape(
    rng: np.random.Generator, width: int, height: int, ground: str, place: str, size: str
) -> Shape:
    x, y = centre(place, width, height, SIZES[size])
    return Shape(pick(rng, KINDS), ink(rng, ground), size, place, x, y, SIZES[size])


def _name(shape: Shape) -> str:
    return f"{shape.size} {shape.colour} {shape.kind}".strip()


def _one_shape(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground, place = pick(rng, list(COLOURS)), pick(rng, PLACES)
    shape = _shape(rng, width, height, ground, place, pick(rng, list(SIZES)))
    where = f" {PLACE_WORDS[place]}" if place != "center" or rng.random() < 0.3 else ""
    return Scene(
        width, height, ground, (shape,), f"a {_name(shape)}{where} on a {ground} background"
    )


def _two_shapes(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground = pick(rng, list(COLOURS))
    first, second = (
        ("left", "right")
        if width >= height and rng.random() < 0.6 or width > height
        else ("top", "bottom")
    )
    a = _shape(rng, width, height, ground, first, "")
    b = _shape(rng, width, height, ground, second, "")
    text = f"a {_name(a)} {PLACE_WORDS[first]} and a {_name(b)} {PLACE_WORDS[second]} on "
    text += f"a {ground} background"
    return Scene(width, height, ground, (a, b), text)


def _word_only(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground, place = pick(rng, list(COLOURS)), pick(rng, ("top", "bottom", "center"))
    y = {"top": 0, "bottom": height - CELL[1]}.get(place, (height - CELL[1]) // 2 // 16 * 16)
    word = _word(rng, width, y, ink(rng, ground), place)
    where = f" {PLACE_WORDS[place]}" if place != "center" or rng.random() < 0.3 else ""
    return Scene(
        width,
        height,
        ground,
        (word,),
        f'the word "{word.text}" in {word.colour}{where} on a {ground} background',
    )


def _word_and_shape(rng: np.random.Generator, width: int, height: int) -> Scene:
    ground, above, sign = pick(rng, list(COLOURS)), rng.random() < 0.5, rng.random() < 0.33
    plate = ink(rng, ground) if sign else ""
    colour = ink(rng, plate or ground)
    margin = 16 if height > 96 else 0
    y = margin if above else height - margin - CELL[1]
    word = _word(rng, width, y, colour, "top" if above else "bottom", plate)
    gap = (y + CELL[1], height) if above else (0, y)
    middle = (gap[0] + gap[1]) // 2
    shape = Shape(
        pick(rng, KINDS), ink(rng, ground), "", "bottom" if above else "top", width // 2, middle, 40
    )
    name = (
        f'a {plate} sign that says "{word.text}" in {colour}'
        if sign
        else f'the word "{word.text}" in {colour}'
    )
    text = f"{name} {'above' if above else 'below'} a {_name(shape)} on a {ground} background"
    return Scene(width, height, ground, (shape, word), text)


def _shapes(rng: np.random.Generator, width: int, height: int) -> Scene:
    return (_one_shape if rng.random() < 0.65 else _two_shapes)(rng, width, height)


def _scenes(rng: np.random.Generator, width: int, height: int) -> Scene:
    makers = (_one_shape, _two_shapes, _word_only, _word_and_shape)
    return makers[int(rng.choice(4, p=(0.25, 0.15, 0.25, 0.35)))](rng, width, height)


_MAKERS = {"strips": _strip, "shapes": _shapes, "scenes": _scenes}
