"""Teaches a control branch to the embedded model: maps of pictures (edges, lines, filled shapes)
that the drawing follows.

InstantX Union's layout at this model's size, started as a copy of its first blocks; the model
itself is frozen. Half of the pictures hold shapes at free places and of free sizes whose prompts do
not say where: only the map knows. A part of the prompts is empty, so that the map decides alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..controlnet.preprocess.kinds import preprocess
from ..kernels.control_instantx import ControlBranch, ControlInputs, Spread
from ..kernels.forward import ForwardHooks, Inputs
from ..kernels.modulation import Modulation, modulation
from ..kernels.vae import VAE
from ..loaders.models.tokenizer import Tokenizer
from ..sampling.geometry import pack
from .checkpoint import Checkpoint, step_rng
from .flow import CONFIG, TEMPLATE, FlowModel, ModulationWeights, flow_loss
from .grammar import CANVASES, COLOURS, KINDS, Scene, Shape, held_out, ink, pick, prompt, sample
from .loop import run_loop
from .render import render

log = logging.getLogger(__name__)

BRANCH = replace(CONFIG, layers=2)
EMPTY = 0.25  # of the batches have no prompt
FREE = (22, 64)  # diameters of shapes at free places
GAP = 4  # pixels between two of them


@dataclass(frozen=True)
class ControlStage:
    """Steps, batch, rate, and how many pictures of each kind there are ("free": shapes anywhere);
    each is learned with its edges and with one other map.
    """

    name: str
    steps: int
    batch: int
    lr: float
    pictures: dict[str, int]
    save_every: int = 250


STAGES = (ControlStage("control", 7500, 32, 1e-3, {"scenes": 3600, "shapes": 1200, "free": 5200}),)


class ControlWeights(nn.Module):
    """The branch and the weights of its modulation, beside a model that stays as it is."""

    def __init__(self, flow: FlowModel) -> None:
        super().__init__()
        self.branch = ControlBranch(BRANCH, CONFIG.channels)
        self.mod = ModulationWeights(BRANCH)
        del self.mod.norm_out
        own = dict(self.branch.named_parameters()) | dict(self.mod.named_parameters())
        model = dict(flow.mmdit.named_parameters()) | dict(flow.mod.named_parameters())
        with torch.no_grad():
            for name, p in own.items():
                if name in model:
                    p.copy_(model[name])
            nn.init.normal_(self.branch.controlnet_x_embedder.weight, std=0.02)
            nn.init.zeros_(self.branch.controlnet_x_embedder.bias)
            for out in self.branch.controlnet_blocks:  # zero: the start draws as the model does
                nn.init.zeros_(out.weight), nn.init.zeros_(out.bias)

    def table(self, sigma: Tensor) -> Modulation:
        """Rows for sigma [n], with gradients."""
        weights = dict(self.mod.named_parameters())
        return modulation(weights.__getitem__, sigma, BRANCH.layers, final=False)


class ControlledModel(nn.Module):
    """The frozen model with a branch; only the branch has parameters here."""

    def __init__(self, flow: FlowModel, control: ControlWeights) -> None:
        super().__init__()
        self.control = control
        self._flow = (flow.requires_grad_(False).eval(),)  # not a submodule: it is not trained

    def forward(
        self, x: Tensor, sigma: Tensor, ids: Tensor, grid: tuple[int, int], maps: Tensor
    ) -> Tensor:
        """x [B,S,64], sigma [B], ids [B,L], maps [B,S,64] -> velocity [B,S,64]."""
        (flow,) = self._flow
        with torch.no_grad():
            txt, _ = flow.text(ids)
            mod = flow.mod(sigma, CONFIG.layers)
        shape = (1, *grid)
        samples = self.control.branch(ControlInputs(x, maps, txt, self.control.table(sigma), shape))
        return flow.mmdit(Inputs(x, txt, mod, [shape]), ForwardHooks(after=[Spread(samples)]))


@dataclass
class Maps:
    """Encoded pictures of one size and prompt length: latents and maps [N,S,64] float16 (two maps
    a picture), ids [N,L]."""

    latents: Tensor
    maps: Tensor  # [N,2,S,64]
    ids: Tensor
    grid: tuple[int, int]


def filled(picture: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3]: white where something stands on the ground."""
    off = np.abs(picture.astype(np.int16) - picture[0, 0]).max(-1)
    return np.repeat(np.clip(2 * off, 0, 255).astype(np.uint8)[..., None], 3, -1)


def made_by(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The map of this kind, as the node makes it, of uint8 pictures [H,W,3]."""

    def make(picture: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(picture).float()[None] / 255
        return (preprocess(kind, x, {})[0] * 255).round().to(torch.uint8).numpy()

    return make


OTHERS = {"soft_edge": made_by("soft_edge"), "lineart": made_by("lineart"), "filled": filled}
EDGES = made_by("canny")


def free_scene(rng: np.random.Generator, split: str = "train") -> Scene:
    """One or two shapes anywhere; the prompt names kinds and colours only."""
    while True:
        width, height = CANVASES[int(rng.integers(len(CANVASES)))]
        ground, shapes = pick(rng, list(COLOURS)), []
        for _ in range(1 + int(rng.random() < 0.4)):
            d = int(rng.integers(*FREE))
            x, y = (int(rng.integers(d // 2 + 3, n - d // 2 - 2)) for n in (width, height))
            apart = (max(abs(x - s.x), abs(y - s.y)) > (d + s.diameter) / 2 + GAP for s in shapes)
            if all(apart):
                shapes.append(Shape(pick(rng, KINDS), ink(rng, ground), "", "center", x, y, d))
        said = " and ".join(f"a {s.colour} {s.kind}" for s in shapes)
        scene = Scene(width, height, ground, tuple(shapes), f"{said} on a {ground} background")
        if held_out(scene) == (split == "test"):
            return scene


@torch.no_grad()
def _encoded(vae: VAE, stats: tuple[Tensor, Tensor], pictures: list[np.ndarray]) -> Tensor:
    """uint8 pictures of one size -> packed latents [N,S,64] float16: normalised means."""
    out = []
    for i in range(0, len(pictures), 32):
        x = torch.from_numpy(np.stack(pictures[i : i + 32])).permute(0, 3, 1, 2)
        mean, _ = vae.moments(x.float().div_(127.5).sub_(1))
        out.append(pack((mean - stats[0]) / stats[1]).half())
    return torch.cat(out)


def encode_maps(
    vae: VAE, stats: tuple[Tensor, Tensor], tokenizer: Tokenizer, kind: str, count: int, seed: int
) -> list[Maps]:
    """`count` pictures of a kind with two maps each, by size and prompt length."""
    groups: dict[tuple[int, int, int], list[tuple[list[int], np.ndarray, list[np.ndarray]]]] = {}
    for i in range(0, count, 32):
        rng = step_rng(seed, "control-" + kind, i)
        for _ in range(min(32, count - i)):
            scene = free_scene(rng) if kind == "free" else sample(rng, kind)
            ids, picture = tokenizer.encode(TEMPLATE.format(prompt(scene))), render(scene)
            maps = [EDGES(picture), OTHERS[pick(rng, list(OTHERS))](picture)]
            key = scene.height // 16, scene.width // 16, len(ids)
            groups.setdefault(key, []).append((ids, picture, maps))
    out = []
    for (rows, columns, _), found in groups.items():
        ids, pictures, maps = zip(*found)
        latents = _encoded(vae, stats, list(pictures))
        both = [_encoded(vae, stats, [m[k] for m in maps]) for k in (0, 1)]
        out.append(Maps(latents, torch.stack(both, 1), torch.tensor(ids), (rows, columns)))
    return out


def run_stage(
    model: ControlledModel,
    stage: ControlStage,
    data: list[Maps],
    empty: list[int],
    folder: Path,
    seed: int,
) -> None:
    """Trains or resumes one stage; the branch ends on the averaged weights."""
    sizes = np.array([len(group.ids) for group in data], dtype=float)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
        group = data[int(rng.choice(len(data), p=sizes / sizes.sum()))]
        rows = torch.from_numpy(rng.integers(0, len(group.ids), stage.batch))
        which = torch.from_numpy(rng.integers(0, 2, stage.batch))
        ids = group.ids[rows]
        if rng.random() < EMPTY:
            ids = torch.tensor([empty]).expand(stage.batch, -1)
        maps = group.maps[rows, which].float()

        def velocity(x: Tensor, t: Tensor, ids: Tensor, _: Tensor, grid: tuple[int, int]) -> Tensor:
            return model(x, t, ids, grid, maps)

        x0, seed = group.latents[rows].float(), int(rng.integers(2**62))
        return flow_loss(velocity, x0, ids, ids, group.grid, seed), stage.batch

    run_loop(model, stage, loss_of, folder, seed)


def train_control(
    vae: VAE,
    stats: tuple[Tensor, Tensor],
    tokenizer: Tokenizer,
    flow: FlowModel,
    folder: Path,
    seed: int,
) -> ControlWeights:
    """All stages, each resumed where it stopped; the model stays as it is."""
    torch.manual_seed(seed + 3)
    model = ControlledModel(flow, ControlWeights(flow))
    empty = tokenizer.encode(TEMPLATE.format(""))
    for stage in STAGES:
        data: list[Maps] = []
        if not Checkpoint(folder / f"{stage.name}.safetensors").finished(stage.steps):
            for kind, count in stage.pictures.items():
                data += encode_maps(vae, stats, tokenizer, kind, count, seed)
            log.info("%s: data ready", stage.name)
        run_stage(model, stage, data, empty, folder, seed)
    return model.control
