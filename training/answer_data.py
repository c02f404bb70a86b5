"""Batches of pictures with questions, and of loose prompts, for the answering part.

Everything is drawn for its step alone; nothing is kept. The questions about a picture are packed
behind it: `tokens_of` says which token sees which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..kernels.text_encoder import picture_positions
from ..loaders.arch.chat import EMBEDDED_WORDING, PICTURE_PAD
from ..loaders.arch.family import EMBEDDED
from ..loaders.models.image_processor import tower_pixels
from ..loaders.models.tokenizer import Tokenizer
from ..sampling.vision_sizes import fixed_sizes, vision_patches
from .answer_networks import BINS, TOWER, Pointers, Tokens
from .control_flow import free_scene
from .grammar import CANVASES, COLOURS, KINDS, LETTERS, Scene, Shape, Word, sample
from .loose import sample_loose
from .questions import Question, caption, fact, item_box, reading, search, things
from .render import render, shape_mask

CELL_PIXELS = 16  # of a picture: 28 of its copy
COVERED = 0.12  # of a cell that an item covers, from which the cell is its
IGNORED = -100
_DESCRIBED = 0.45  # of single questions are for a caption or a fact
_READ = 0.6  # of the words are asked for in addition
_NAMES = list(COLOURS)
END = "<|im_end|>"
BIN = 7  # pixels of the copy


@dataclass(frozen=True)
class Cells:
    """What is in each cell [B,C], and of cells with an item its edges [B,C,4]: offsets from the
    cell's centre in cells, and pixels of the copy in bins."""

    kind: Tensor
    colour: Tensor
    ground: Tensor
    offsets: Tensor
    edges: Tensor
    letters: Tensor  # [B,C], the number of a letter in its word
    columns: int


@dataclass(frozen=True)
class Batch:
    """Sequences and the token that should follow each; with pictures their patches and cells."""

    tokens: Tokens
    labels: Tensor  # [B,L]
    patches: Tensor | None = None
    grid: tuple[int, int] = (0, 0)  # of patches
    cells: Cells | None = None


def seen_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which the embedded model sees a picture."""
    return fixed_sizes(width, height, EMBEDDED_WORDING.area)[1]


def patches_of(picture: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> what the tower reads."""
    pixels = tower_pixels(torch.from_numpy(picture), EMBEDDED_WORDING.area, fixed_sizes)
    return vision_patches(pixels, TOWER.patch, TOWER.merge)


def noisy(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A picture with a little noise, as drawn ones have it."""
    strength = max(0.0, rng.uniform(-4, 8))
    noise = rng.standard_normal(picture.shape, np.float32) * strength
    return (picture + noise).clip(0, 255).astype(np.uint8)


def cells_of(scenes: Sequence[Scene]) -> Cells:
    """The cells of scenes of one size."""
    rows, columns = scenes[0].height // CELL_PIXELS, scenes[0].width // CELL_PIXELS
    shape = len(scenes), rows, columns
    kind, colour = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    offsets = np.zeros((*shape, 4), np.float32)
    edges = np.full((*shape, 4), IGNORED, np.int64)
    letters = np.full(shape, IGNORED, np.int64)
    seen = seen_size(scenes[0].width, scenes[0].height)
    scale = np.array([seen[0] / scenes[0].width, seen[1] / scenes[0].height] * 2)
    y, x = np.mgrid[0:rows, 0:columns]
    centres = np.stack([x, y, x, y], -1) + 0.5
    for n, scene in enumerate(scenes):
        colour[n] = _NAMES.index(scene.ground)
        for item in scene.items:
            box = np.array(item_box(item))
            for class_, tone, where in _layers(item, rows, columns):
                kind[n][where], colour[n][where] = class_, _NAMES.index(tone)
                offsets[n][where] = (box / CELL_PIXELS - centres)[where]
                edges[n][where] = (box * scale / BIN).astype(np.int64).clip(0, BINS - 1)
            if isinstance(item, Word):
                for number in range(len(item.text)):
                    top, left = item.y // CELL_PIXELS, item.x // CELL_PIXELS + number
                    letters[n, top : top + 2, left] = number
    ground = np.array([[_NAMES.index(s.ground)] for s in scenes]).repeat(rows * columns, 1)
    flat = [torch.from_numpy(t).flatten(1, 2) for t in (kind, colour, offsets, edges, letters)]
    return Cells(flat[0], flat[1], torch.from_numpy(ground), flat[2], flat[3], flat[4], columns)


def _layers(item: Shape | Word, rows: int, columns: int) -> list[tuple[int, str, np.ndarray]]:
    """(class, colour, cells) of an item, from the back to the front."""
    if isinstance(item, Shape):
        whole = np.zeros((rows * CELL_PIXELS, columns * CELL_PIXELS), np.float32)
        r, d = item.diameter // 2, item.diameter
        whole[item.y - r : item.y - r + d, item.x - r : item.x - r + d] = shape_mask(item.kind, d)
        covered = whole.reshape(rows, CELL_PIXELS, columns, CELL_PIXELS).mean((1, 3)) > COVERED
        return [(1 + KINDS.index(item.kind), item.colour, covered)]
    down, left = slice(item.y // CELL_PIXELS, item.y // CELL_PIXELS + 2), item.x // CELL_PIXELS
    layers = []
    if item.plate:
        sign = np.zeros((rows, columns), bool)
        sign[down, max(0, left - 1) : left + len(item.text) + 1] = True
        layers.append((5, item.plate, sign))
    for i, letter in enumerate(item.text):
        cell = np.zeros((rows, columns), bool)
        cell[down, left + i] = True
        layers.append((6 + LETTERS.index(letter), item.colour, cell))
    return layers


def tokens_of(
    tokenizer: Tokenizer, questions: Sequence[Sequence[Question]], grid: tuple[int, int] | None
) -> tuple[Tokens, Tensor, Tensor]:
    """Sequences, labels and numbers of letters [B,L]. grid: cells of the picture before the
    questions, None without one; without a picture each sequence has one question.
    """
    chat, pad = EMBEDDED.chat, tokenizer.token_id(PICTURE_PAD)
    head = tokenizer.encode(chat.head + (chat.picture if grid else ""))
    places = torch.arange(len(head)).expand(3, -1)
    if grid:
        at = head.index(pad)
        head = [*head[:at], *[pad] * (grid[0] * grid[1]), *head[at + 1 :]]
        places = picture_positions(head, pad, [grid])
    rows = [_row(tokenizer, head, places, asked) for asked in questions]
    ids = pad_sequence([row.ids for row in rows], True, 0)
    labels = pad_sequence([row.labels for row in rows], True, IGNORED)
    branch = pad_sequence([row.branch for row in rows], True, -1)
    positions = pad_sequence([row.places.t() for row in rows], True, 0).permute(2, 0, 1)
    letters = pad_sequence([row.letters for row in rows], True, IGNORED)
    same = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    mask = same & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    return Tokens(ids, positions, mask[:, None]), labels, letters


class _Row(NamedTuple):
    """One sequence [L]; branch: 0 for what all questions see, then the number of the question;
    letters: the number of the letter in a word that the next token is."""

    ids: Tensor
    labels: Tensor
    branch: Tensor
    letters: Tensor
    places: Tensor  # [3,L]


def _row(tokenizer: Tokenizer, head: list[int], places: Tensor, asked: Sequence[Question]) -> _Row:
    """A head with questions behind it, each at the position behind the head."""
    start = int(places.max()) + 1
    ids, labels, branch, where = [*head], [IGNORED] * len(head), [0] * len(head), [places]
    letters = [IGNORED] * len(head)
    for number, question in enumerate(asked, 1):
        ask = tokenizer.encode(question.text + EMBEDDED.chat.tail)
        answer = tokenizer.encode(question.answer + END)
        length = len(ask) + len(answer) - 1
        ids += ask + answer[:-1]
        labels += [IGNORED] * (len(ask) - 1) + answer
        branch += [number] * length
        letters += [IGNORED] * (len(ask) - 1) + _numbers(tokenizer, question.answer)
        where.append((start + torch.arange(length)).expand(3, -1))
    numbers = [torch.tensor(values) for values in (ids, labels, branch, letters)]
    return _Row(numbers[0], numbers[1], numbers[2], numbers[3], torch.cat(where, 1))


def _numbers(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Of each token of an answer, and of its end, the number of the letter in the quoted word that
    it is."""
    word = re.search(r'"([A-Z0-9]{1,6})"', answer)
    before = len(tokenizer.encode(answer[: word.start() + 1])) if word else 0
    length = len(tokenizer.encode(answer)) + 1
    inside = len(word[1]) if word else 0
    return [n - before if before <= n < before + inside else IGNORED for n in range(length)]


def picture_batch(
    tokenizer: Tokenizer, rng: np.random.Generator, size: int, asked: int = 4
) -> Batch:
    """Pictures of one canvas. asked: questions about each; 0 = only what is in the cells."""
    canvas = CANVASES[int(rng.integers(len(CANVASES)))]
    scenes, questions = [], []
    for _ in range(size):
        free = rng.random() < 0.3
        scene = free_scene(rng, canvas=canvas) if free else sample(rng, "scenes", canvas)
        scenes.append(scene)
        questions.append(_questions(rng, scene, free, canvas, asked))
    seen = seen_size(*canvas)
    grid = seen[1] // 14, seen[0] // 14
    tokens, labels, letters = tokens_of(tokenizer, questions, (grid[0] // 2, grid[1] // 2))
    patches = torch.stack([patches_of(noisy(rng, render(scene))) for scene in scenes])
    cells = cells_of(scenes)
    tokens = replace(tokens, pointers=_pointers(letters, cells))
    return Batch(tokens, labels, patches, grid, cells)


def _pointers(letters: Tensor, cells: Cells) -> Pointers | None:
    """Where tokens that come before a letter [B,L] should look; None without letters."""
    sequence, place = torch.nonzero(letters != IGNORED, as_tuple=True)
    if not len(place):
        return None
    aimed = torch.zeros(len(place), letters.shape[1], dtype=torch.bool)
    aimed[:, 2 : 2 + cells.letters.shape[1]] = (
        cells.letters[sequence] == letters[sequence, place][:, None]
    )
    return Pointers(sequence, place, aimed)


def _questions(
    rng: np.random.Generator, scene: Scene, free: bool, canvas: tuple[int, int], asked: int
) -> list[Question]:
    said = fact(rng, scene) if free else caption(scene, bool(rng.random() < 0.4))
    looked = search(things(rng, scene, free), seen_size(*canvas), canvas)
    if asked != 1:
        return [said, looked][:asked]
    questions = [said if rng.random() < _DESCRIBED else looked]
    if any(isinstance(item, Word) for item in scene.items) and rng.random() < _READ:
        questions.append(reading(rng, scene))
    return questions


def prompt_batch(tokenizer: Tokenizer, rng: np.random.Generator, size: int) -> Batch:
    """Loose prompts with full ones."""
    pairs = [sample_loose(rng) for _ in range(size)]
    asked = [[Question(EMBEDDED_WORDING.enhance.format(p.text), p.full)] for p in pairs]
    tokens, labels, _ = tokens_of(tokenizer, asked, None)
    return Batch(tokens, labels)
