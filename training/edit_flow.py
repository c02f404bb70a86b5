"""Trains the embedded model to edit, in addition to drawing (Qwen-Image paper: T2I, TI2I and I2I
together).

A source picture stands as clean reference tokens at frame 1, with the modulation of t = 0
(zero_cond_t, as Edit-2511); the request is the prompt. Every pair is learned in its own direction.
With an empty request the target is the source itself (I2I), so that guidance leads away from
leaving everything as it is. Training starts from the shipped text-to-image model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.forward import Inputs
from ..kernels.references import ReferenceContext, References
from ..loaders.formats.safetensors import SafetensorsFile
from .checkpoint import step_rng
from .codec import CHUNK, Codec, Pictures, encode_pictures, padded
from .edits import Edit, sample_edit
from .flow import EMPTY, flow_loss
from .loop import Loss, MixedStage, pick_group, pick_kind, run_stages
from .networks import CONFIG, FlowModel
from .tokenizer import token_rows

# kinds that begin with "edit-" are pairs of that kind of scene; strips and text-to-image batches
# are twice as large as `batch`
STAGES = (
    MixedStage(
        name="edit",
        steps=4400,
        batch=32,
        lr=8e-4,
        save_every=200,
        share={
            "edit-scenes": 0.55,
            "edit-shapes": 0.15,
            "edit-strips": 0.1,
            "scenes": 0.13,
            "shapes": 0.05,
            "strips": 0.02,
        },
        pictures={
            "edit-scenes": 9000,
            "edit-shapes": 3000,
            "edit-strips": 3000,
            "scenes": 6000,
            "shapes": 2000,
            "strips": 1500,
        },
    ),
)
EditVelocity = Callable[[Tensor, Tensor, Tensor, Tensor, tuple[int, int], Tensor | None], Tensor]
"""A `Velocity` with reference tokens [B,S,64]."""


class EditModel(nn.Module):
    """A flow model that takes reference tokens."""

    def __init__(self, flow: FlowModel) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        ids: Tensor,
        mask: Tensor,
        grid: tuple[int, int],
        refs: Tensor | None = None,
    ) -> Tensor:
        """x [B,S,64], sigma [B], ids and mask [B,L], refs [B,S,64] or None -> velocity [B,S,64]."""
        if refs is None:
            return self.flow(x, sigma, ids, mask, grid)
        txt = self.flow.text(ids)
        times = torch.cat([sigma, sigma.new_zeros(1)])
        mod = self.flow.mod(times, CONFIG.layers).with_references()
        padding = None if bool(torch.all(mask)) else mask
        references, grids = ReferenceContext(References(refs, fixed=True)), [(1, *grid)] * 2
        return self.flow.mmdit(Inputs(x, txt, mod, grids, padding, references))


@dataclass
class Pairs:
    """Encoded edits of one size: sources and targets packed [N,S,64] float16, token ids."""

    sources: Tensor
    targets: Tensor
    ids: list[list[int]]
    grid: tuple[int, int]


def start(model_folder: Path, tokenizer_folder: Path) -> FlowModel:
    """Loads the weights of a model folder. Rows of its vocabulary move to the ids that their tokens
    have in the tokenizer of `tokenizer_folder`.
    """
    new, old = token_rows(tokenizer_folder), token_rows(model_folder / "tokenizer")
    model = FlowModel()
    network = "transformer/diffusion_pytorch_model.safetensors"
    parts: tuple[tuple[nn.Module, str], ...] = (
        (model.mmdit, network),
        (model.mod, network),
        (model.text, "text_encoder/model.safetensors"),
    )
    for module, path in parts:
        with SafetensorsFile(model_folder / path) as file, torch.no_grad():
            for key, p in module.named_parameters():
                name = key if key in file.entries else f"model.{key}"
                if not key.endswith("embed_tokens.weight"):
                    p.copy_(file.read(name))
                    continue
                rows = file.read(name).float()
                for token in new.keys() & old.keys():
                    p[new[token]] = rows[old[token]]
    return model


def encode_pairs(codec: Codec, kind: str, count: int, seed: int) -> list[Pairs]:
    """`count` edits of a kind of scene, rendered and encoded, grouped by size."""
    groups: dict[tuple[int, int], list[Edit]] = {}
    for i in range(0, count, CHUNK):
        rng = step_rng(seed, "edits-" + kind, i)
        for edit in (sample_edit(rng, scenes=kind) for _ in range(CHUNK)):
            size = edit.source.height // 16, edit.source.width // 16
            groups.setdefault(size, []).append(edit)
    return [
        Pairs(
            sources=codec.scenes([edit.source for edit in edits]),
            targets=codec.scenes([edit.target for edit in edits]),
            ids=[codec.ids(edit.text) for edit in edits],
            grid=grid,
        )
        for grid, edits in groups.items()
    ]


def _loss(
    model: EditVelocity,
    group: Pairs | Pictures,
    rng: np.random.Generator,
    size: int,
    empty: list[int],
) -> Tensor:
    """The loss of one batch of a group; a tenth of the requests is empty."""
    rows, drop = rng.integers(0, len(group.ids), size), rng.random(size) < EMPTY
    seed = int(rng.integers(2**62))
    refs: Tensor | None = None
    if isinstance(group, Pictures):
        x0, ids, mask = group.batch(rows, drop, empty)
    else:
        at, keep = torch.from_numpy(rows), torch.from_numpy(drop)[:, None, None]
        refs = group.sources[at].float()
        x0 = torch.where(keep, refs, group.targets[at].float())
        ids, mask = padded([empty if d else group.ids[r] for r, d in zip(rows, drop)])

    def velocity(x: Tensor, t: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        return model(x, t, ids, mask, grid, refs)

    return flow_loss(velocity, x0, ids, mask, group.grid, seed)


def train_edits(codec: Codec, model: FlowModel, folder: Path, seed: int) -> FlowModel:
    """Trains or resumes all stages; `model` is the start, and is changed."""
    edit_model = EditModel(model)
    empty = codec.ids("")

    def prepare(stage: MixedStage) -> Loss:
        data: dict[str, list[Pairs | Pictures]] = {}
        for kind, count in stage.pictures.items():
            if kind.startswith("edit-"):
                scenes = kind.removeprefix("edit-")
                data[kind] = [*encode_pairs(codec, scenes, count, seed)]
            else:
                data[kind] = [*encode_pictures(codec, kind, count, seed)]

        def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
            kind = pick_kind(rng, stage)
            group = pick_group(rng, data[kind])
            # evens out the cost of pairs and single pictures, of scenes and strips
            size = stage.batch * (1 if kind in ("edit-scenes", "edit-shapes") else 2)
            return _loss(edit_model, group, rng, size, empty), size

        return loss_of

    run_stages(edit_model, STAGES, prepare, folder, seed)
    return model
