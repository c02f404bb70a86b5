"""Teaches the embedded model to edit, beside what it draws already (Qwen-Image paper: T2I, TI2I and
I2I together).

A source picture stands as clean reference tokens at frame 1, with the modulation of t = 0
(zero_cond_t, as Edit-2511); the request is the prompt. Every pair is learned in its own direction.
With an empty request the target is the source itself (I2I), so that guidance leads away from
leaving everything as it is. The start is the shipped text-to-image model.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.forward import Inputs
from ..kernels.references import ReferenceContext, References
from ..kernels.vae import VAE
from ..loaders.formats.safetensors import SafetensorsFile
from ..loaders.models.tokenizer import Tokenizer
from .checkpoint import Checkpoint, step_rng
from .edits import Edit, sample_edit
from .flow import (
    CONFIG,
    TEMPLATE,
    FlowModel,
    Pictures,
    encode_pictures,
    encode_scenes,
    flow_loss,
    padded,
)
from .loop import run_loop
from .tokenizer import token_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditStage:
    """Steps, batch of edits (strips and text-to-image take twice as many), rate, kind -> share and
    kind -> pictures; kinds beginning with "edit-" are pairs of that kind of scene.
    """

    name: str
    steps: int
    batch: int
    lr: float
    share: dict[str, float]
    pictures: dict[str, int]
    save_every: int = 200


STAGES = (
    EditStage(
        "edit",
        4400,
        32,
        8e-4,
        {
            "edit-scenes": 0.55,
            "edit-shapes": 0.15,
            "edit-strips": 0.1,
            "scenes": 0.13,
            "shapes": 0.05,
            "strips": 0.02,
        },
        {
            "edit-scenes": 9000,
            "edit-shapes": 3000,
            "edit-strips": 3000,
            "scenes": 6000,
            "shapes": 2000,
            "strips": 1500,
        },
    ),
)


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
        txt, _ = self.flow.text(ids)
        times = torch.cat([sigma, sigma.new_zeros(1)])
        mod = self.flow.mod(times, CONFIG.layers).with_references()
        padding = None if bool(mask.all()) else mask
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
    """The weights of a model folder; rows of its vocabulary are moved to the places that its tokens
    have in the tokenizer of `tokenizer_folder`.
    """
    new, old = token_rows(tokenizer_folder), token_rows(model_folder / "tokenizer")
    model = FlowModel()
    network = "transformer/diffusion_pytorch_model.safetensors"
    parts = (
        (model.mmdit, network),
        (model.mod, network),
        (model.text, "text_encoder/model.safetensors"),
    )
    for module, name in parts:
        with SafetensorsFile(model_folder / name) as file, torch.no_grad():
            for key, p in module.named_parameters():
                if not key.endswith("embed_tokens.weight"):
                    p.copy_(file.read(key))
                    continue
                rows = file.read(key).float()
                for token in new.keys() & old.keys():
                    p[new[token]] = rows[old[token]]
    return model


def encode_pairs(
    vae: VAE, stats: tuple[Tensor, Tensor], tokenizer: Tokenizer, kind: str, count: int, seed: int
) -> list[Pairs]:
    """`count` edits of a kind of scene: rendered, encoded (posterior mean, normalised), by size."""
    groups: dict[tuple[int, int], list[Edit]] = {}
    for i in range(0, count, 32):
        rng = step_rng(seed, "edits-" + kind, i)
        for edit in (sample_edit(rng, scenes=kind) for _ in range(32)):
            size = edit.source.height // 16, edit.source.width // 16
            groups.setdefault(size, []).append(edit)
    out = []
    for grid, edits in groups.items():
        sides = (
            encode_scenes(vae, stats, [getattr(edit, side) for edit in edits])
            for side in ("source", "target")
        )
        ids = [tokenizer.encode(TEMPLATE.format(edit.text)) for edit in edits]
        out.append(Pairs(*sides, ids, grid))
    return out


def _loss(
    model: nn.Module, group: Pairs | Pictures, rng: np.random.Generator, size: int, empty: list[int]
) -> Tensor:
    """One batch of a group; a tenth of the requests is empty."""
    rows, drop = rng.integers(0, len(group.ids), size), rng.random(size) < 0.1
    seed = int(rng.integers(2**62))
    if isinstance(group, Pictures):
        x0, ids, mask = group.batch(rows, drop, empty)
        return flow_loss(model, x0, ids, mask, group.grid, seed)
    at, keep = torch.from_numpy(rows), torch.from_numpy(drop)[:, None, None]
    refs = group.sources[at].float()
    x0 = torch.where(keep, refs, group.targets[at].float())
    ids, mask = padded([empty if d else group.ids[r] for r, d in zip(rows, drop)])

    def with_refs(x: Tensor, t: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        return model(x, t, ids, mask, grid, refs)

    return flow_loss(with_refs, x0, ids, mask, group.grid, seed)


def _draw(
    rng: np.random.Generator, stage: EditStage, data: dict[str, list[Pairs] | list[Pictures]]
) -> tuple[Pairs | Pictures, int]:
    """A group by share; the batch evens out the cost of pairs and single pictures, of strips."""
    kind = str(rng.choice(list(stage.share), p=list(stage.share.values())))
    sizes = np.array([len(g.ids) for g in data[kind]], dtype=float)
    group = data[kind][int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
    return group, stage.batch * (1 if kind in ("edit-scenes", "edit-shapes") else 2)


def run_stage(
    model: EditModel,
    stage: EditStage,
    data: dict[str, list[Pairs] | list[Pictures]],
    empty: list[int],
    folder: Path,
    seed: int,
) -> None:
    """Trains or resumes one stage; the model ends on the averaged weights."""

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
        group, size = _draw(rng, stage, data)
        return _loss(model, group, rng, size, empty), size

    run_loop(model, stage, loss_of, folder, seed)


def train_edits(
    vae: VAE,
    stats: tuple[Tensor, Tensor],
    tokenizer: Tokenizer,
    model: FlowModel,
    folder: Path,
    seed: int,
) -> FlowModel:
    """All stages, each resumed where it stopped; `model` is the start, and is changed."""
    whole = EditModel(model)
    empty = tokenizer.encode(TEMPLATE.format(""))
    for stage in STAGES:
        data: dict[str, list[Pairs] | list[Pictures]] = {}
        if not Checkpoint(folder / f"{stage.name}.safetensors").finished(stage.steps):
            for kind, count in stage.pictures.items():
                encode = encode_pairs if kind.startswith("edit-") else encode_pictures
                scenes = kind.removeprefix("edit-")
                data[kind] = encode(vae, stats, tokenizer, scenes, count, seed)
            log.info("%s: data ready", stage.name)
        run_stage(whole, stage, data, empty, folder, seed)
    return model
