"""Trains the embedded model to answer: captions, boxes, single facts, full prompts from loose ones.

First the tower alone learns what is in each cell of a picture and the first answering layers where
that is, together with the prompts, which need no picture; then everything learns the answers. The
layers that encode prompts for the diffusion model are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.text_encoder import TextEncoder
from ..loaders.formats.safetensors import SafetensorsFile
from ..loaders.models.tokenizer import Tokenizer
from .answer_data import IGNORED, Batch, Cells, picture_batch, prompt_batch
from .answer_networks import BINS, COLOURS, KINDS, SIDE, AnswerModel
from .loop import Loss, Stage, run_stages
from .networks import TEXT


@dataclass(frozen=True, kw_only=True)
class AnswerStage(Stage):
    """A stage: questions about each picture, the weight of what is in its cells, and loose prompts
    for each batch of pictures."""

    asked: int
    cells: float
    prompts: int


STAGES = (
    AnswerStage(
        name="answers-cells",
        steps=600,
        batch=32,
        lr=1.5e-3,
        save_every=100,
        asked=0,
        cells=1.0,
        prompts=16,
    ),
    AnswerStage(
        name="answers-two",
        steps=1600,
        batch=16,
        lr=1.5e-3,
        save_every=100,
        asked=2,
        cells=0.3,
        prompts=16,
    ),
    AnswerStage(  # more pictures: what they hold is learned last
        name="answers-one",
        steps=4000,
        batch=18,
        lr=1.5e-3,
        save_every=100,
        asked=1,
        cells=0.8,
        prompts=24,
    ),
)


def start(folder: Path) -> AnswerModel:
    """The text encoder of a model folder with new answering layers."""
    with SafetensorsFile(folder / "text_encoder" / "model.safetensors") as file:
        names = {name.removeprefix("model."): name for name in file.entries}
        own = dict(TextEncoder(TEXT).named_parameters())
        return AnswerModel({name: file.read(names[name]) for name in own})


def cell_loss(model: AnswerModel, rows: Tensor, middle: Tensor, cells: Cells) -> Tensor:
    """What the cells hold, from the tower's rows; where they and their items are, from the states
    in the middle of the language model [B,cells,W]."""
    kind, colour, ground, offsets = model.heads.seen(rows).split((KINDS, COLOURS, COLOURS, 4), -1)
    item = cells.edges[..., 0] != IGNORED
    loss = (
        _entropy(kind, cells.kind)
        + 0.5 * _entropy(colour, cells.colour)
        + 0.2 * _entropy(ground, cells.ground)
        + 0.5 * F.l1_loss(offsets[item], cells.offsets[item])
    )
    row, column, edges = model.heads.placed(middle).split((SIDE, SIDE, 4 * BINS), -1)
    loss = loss + _where(row, column, cells)
    loss = loss + _entropy(edges.unflatten(-1, (4, BINS)), cells.edges)
    if bool((cells.letters != IGNORED).any()):
        loss = loss + _entropy(model.heads.letter(middle), cells.letters)
    return loss


def _where(row: Tensor, column: Tensor, cells: Cells) -> Tensor:
    """The loss of the rows and columns of cells."""
    at = torch.arange(row.shape[1]).expand(row.shape[:2])
    return 0.5 * (_entropy(row, at // cells.columns) + _entropy(column, at % cells.columns))


def _entropy(scores: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, -2), classes.flatten(), ignore_index=IGNORED)


def answer_loss(model: AnswerModel, states: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the tokens of answers."""
    at = labels != IGNORED
    return F.cross_entropy(model.head(states[at]), labels[at])


def picture_loss(model: AnswerModel, batch: Batch, weight: float = 1.0) -> Tensor:
    """The loss of pictures with questions. weight: of what is in their cells."""
    assert batch.patches is not None and batch.cells is not None
    rows = model.rows(batch.patches, batch.grid)
    answers = bool((batch.labels != IGNORED).any())
    middle, states = model.states(batch.tokens, rows, answers)
    loss = weight * cell_loss(model, rows, middle[:, 2 : 2 + rows.shape[1]], batch.cells)
    if not answers:
        return loss
    return loss + 4 * answer_loss(model, states, batch.labels) + 0.5 * model.astray


def prompt_loss(model: AnswerModel, batch: Batch) -> Tensor:
    """The loss of loose prompts."""
    return answer_loss(model, model.states(batch.tokens)[1], batch.labels)


def train_answers(model: AnswerModel, tokenizer: Tokenizer, folder: Path, seed: int) -> AnswerModel:
    """Trains or resumes all stages; `model` is the start, and is changed."""

    def prepare(stage: AnswerStage) -> Loss:
        def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
            pictures = picture_batch(tokenizer, rng, stage.batch, stage.asked)
            prompts = prompt_batch(tokenizer, rng, stage.prompts)
            loss = picture_loss(model, pictures, stage.cells) + 2 * prompt_loss(model, prompts)
            return loss, stage.batch

        return loss_of

    run_stages(model, STAGES, prepare, folder, seed)
    return model
