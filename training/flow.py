"""Training of the embedded MMDiT and its text encoder: rectified flow, as in the Qwen-Image paper.

v = noise - x0, plain squared error; t = sigmoid(N(0,1)), then shifted by 3; 10 % empty prompts for
CFG; easy pictures first (shapes, words on strips), then whole scenes with some strips kept in the
mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .codec import Codec, encode_pictures
from .loop import Loss, MixedStage, pick_group, pick_kind, run_stages
from .networks import FlowModel

SHIFT = 3.0
EMPTY = 0.1  # of the prompts are empty
STRIP_GRID = (2, 8)  # tokens of a strip

Velocity = Callable[[Tensor, Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
"""(x [B,S,64], sigma [B], ids and mask [B,L], grid) -> velocity [B,S,64]."""

STAGES = (
    MixedStage(
        name="flow-strips",
        steps=2600,
        batch=32,
        lr=1e-3,
        save_every=300,
        share={"strips": 0.8, "shapes": 0.2},
        pictures={"strips": 14000, "shapes": 4000},
    ),
    MixedStage(
        name="flow-scenes",
        steps=3000,
        batch=48,
        lr=1e-3,
        save_every=300,
        share={"strips": 0.2, "scenes": 0.8},
        pictures={"strips": 8000, "scenes": 16000},
    ),
    MixedStage(  # shapes are learned last, and few-token stars last of all
        name="flow-shapes",
        steps=2400,
        batch=48,
        lr=1e-3,
        save_every=300,
        share={"strips": 0.1, "shapes": 0.4, "scenes": 0.5},
        pictures={"strips": 4000, "shapes": 6000, "scenes": 12000},
    ),
)


def flow_loss(
    velocity: Velocity, x0: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int], seed: int
) -> Tensor:
    """Mean squared error of the velocity at random times."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.sigmoid(torch.randn(len(x0), generator=generator))
    t = SHIFT * s / (1 + (SHIFT - 1) * s)
    noise = torch.randn(x0.shape, generator=generator)
    xt = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
    return F.mse_loss(velocity(xt, t, ids, mask, grid), noise - x0)


def train_flow(
    codec: Codec, folder: Path, seed: int, stages: Sequence[MixedStage] | None = None
) -> FlowModel:
    """Trains or resumes all stages."""
    torch.manual_seed(seed + 1)
    model = FlowModel()
    empty = codec.ids("")

    def prepare(stage: MixedStage) -> Loss:
        data = {k: encode_pictures(codec, k, n, seed) for k, n in stage.pictures.items()}

        def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
            group = pick_group(rng, data[pick_kind(rng, stage)])
            # strips are small: twice as many cost what other pictures cost
            small = group.grid == STRIP_GRID and stage.name != "flow-strips"
            size = stage.batch * 2 if small else stage.batch
            rows, drop = rng.integers(0, len(group.ids), size), rng.random(size) < EMPTY
            x0, ids, mask = group.batch(rows, drop, empty)
            return flow_loss(model, x0, ids, mask, group.grid, int(rng.integers(2**62))), size

        return loss_of

    run_stages(model, stages or STAGES, prepare, folder, seed)
    return model
