"""Trains a control branch for the embedded model: drawings follow maps of pictures (edges, lines,
filled shapes).

InstantX Union's layout at this model's size, started as a copy of its first blocks; the model
itself is frozen. Half of the pictures hold shapes at free places and of free sizes whose prompts do
not say where: only the map knows. A part of the prompts is empty, so that the map decides alone.
"""

from __future__ import annotations

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
from .checkpoint import step_rng
from .codec import CHUNK, Codec
from .flow import flow_loss
from .grammar import CANVASES, COLOURS, KINDS, Scene, Shape, held_out, ink, pick, prompt, sample
from .loop import Loss, PictureStage, pick_group, run_stages
from .networks import CONFIG, FlowModel, ModulationWeights
from .render import render

BRANCH = replace(CONFIG, layers=2)
EMPTY = 0.25  # of the batches have no prompt
FREE = (22, 64)  # diameters of shapes at free places
GAP = 4  # pixels between two of them
MapMaker = Callable[[np.ndarray], np.ndarray]
"""A picture uint8 [H,W,3] -> its map."""

# "free": shapes anywhere; each picture is learned with its edges and with one other map
STAGES = (
    PictureStage(
        name="control",
        steps=7500,
        batch=32,
        lr=1e-3,
        save_every=250,
        pictures={"scenes": 3600, "shapes": 1200, "free": 5200},
    ),
)


class ControlWeights(nn.Module):
    """The branch and the weights of its modulation, for a model that stays as it is."""

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
            for p in self.branch.controlnet_blocks.parameters():
                nn.init.zeros_(p)  # at the start the branch changes nothing

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
            txt = flow.text(ids)
            mod = flow.mod(sigma, CONFIG.layers)
        shape = (1, *grid)
        samples = self.control.branch(ControlInputs(x, maps, txt, self.control.table(sigma), shape))
        return flow.mmdit(Inputs(x, txt, mod, [shape]), ForwardHooks(after=[Spread(samples)]))


@dataclass
class Maps:
    """Encoded pictures of one size and prompt length: latents [N,S,64] and two maps of each picture
    [N,2,S,64] in float16, ids [N,L].
    """

    latents: Tensor
    maps: Tensor
    ids: Tensor
    grid: tuple[int, int]


def filled(picture: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3]: white where the ground is covered."""
    off = np.abs(picture.astype(np.int16) - picture[0, 0]).max(-1)
    return np.repeat(np.clip(2 * off, 0, 255).astype(np.uint8)[..., None], 3, -1)


def preprocessor(kind: str) -> MapMaker:
    """Makes maps of this kind as the node does, of uint8 pictures [H,W,3]."""

    def make(picture: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(picture).float()[None] / 255
        return (preprocess(kind, x, {})[0] * 255).round().to(torch.uint8).numpy()

    return make


OTHERS: dict[str, MapMaker] = {
    "soft_edge": preprocessor("soft_edge"),
    "lineart": preprocessor("lineart"),
    "filled": filled,
}
EDGES: MapMaker = preprocessor("canny")


def free_scene(
    rng: np.random.Generator, split: str = "train", canvas: tuple[int, int] | None = None
) -> Scene:
    """One or two shapes anywhere; the prompt names kinds and colours only."""
    while True:
        width, height = canvas or CANVASES[int(rng.integers(len(CANVASES)))]
        ground = pick(rng, list(COLOURS))
        shapes: list[Shape] = []
        for _ in range(1 + int(rng.random() < 0.4)):
            d = int(rng.integers(*FREE))
            x, y = (int(rng.integers(d // 2 + 3, n - d // 2 - 2)) for n in (width, height))
            apart = (max(abs(x - s.x), abs(y - s.y)) > (d + s.diameter) / 2 + GAP for s in shapes)
            if all(apart):
                shapes.append(Shape(pick(rng, KINDS), ink(rng, ground), "", "center", x, y, d))
        text = " and ".join(f"a {s.colour} {s.kind}" for s in shapes)
        scene = Scene(width, height, ground, tuple(shapes), f"{text} on a {ground} background")
        if held_out(scene) == (split == "test"):
            return scene


def encode_maps(codec: Codec, kind: str, count: int, seed: int) -> list[Maps]:
    """`count` pictures of a kind with two maps each, grouped by size and prompt length."""
    groups: dict[tuple[int, int, int], list[tuple[list[int], np.ndarray, list[np.ndarray]]]] = {}
    for i in range(0, count, CHUNK):
        rng = step_rng(seed, "control-" + kind, i)
        for _ in range(min(CHUNK, count - i)):
            scene = free_scene(rng) if kind == "free" else sample(rng, kind)
            ids, picture = codec.ids(prompt(scene)), render(scene)
            maps = [EDGES(picture), OTHERS[pick(rng, list(OTHERS))](picture)]
            key = scene.height // 16, scene.width // 16, len(ids)
            groups.setdefault(key, []).append((ids, picture, maps))
    return [_encoded(codec, group, key[:2]) for key, group in groups.items()]


def _encoded(
    codec: Codec, group: list[tuple[list[int], np.ndarray, list[np.ndarray]]], grid: tuple[int, int]
) -> Maps:
    ids, pictures, maps = zip(*group)
    both = [codec.latents([m[k] for m in maps]) for k in (0, 1)]
    return Maps(codec.latents(pictures), torch.stack(both, 1), torch.tensor(ids), grid)


def train_control(codec: Codec, flow: FlowModel, folder: Path, seed: int) -> ControlWeights:
    """Trains or resumes all stages; the model stays as it is."""
    torch.manual_seed(seed + 3)
    model = ControlledModel(flow, ControlWeights(flow))
    empty = codec.ids("")

    def prepare(stage: PictureStage) -> Loss:
        data: list[Maps] = []
        for kind, count in stage.pictures.items():
            data += encode_maps(codec, kind, count, seed)

        def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
            group = pick_group(rng, data)
            return _loss(model, group, rng, stage.batch, empty), stage.batch

        return loss_of

    run_stages(model, STAGES, prepare, folder, seed)
    return model.control


def _loss(
    model: ControlledModel, group: Maps, rng: np.random.Generator, size: int, empty: list[int]
) -> Tensor:
    """The loss of one batch of a group; a quarter of the batches has no prompt."""
    rows = torch.from_numpy(rng.integers(0, len(group.ids), size))
    which = torch.from_numpy(rng.integers(0, 2, size))
    ids = group.ids[rows]
    if rng.random() < EMPTY:
        ids = torch.tensor([empty]).expand(size, -1)
    maps = group.maps[rows, which].float()

    def velocity(x: Tensor, t: Tensor, ids: Tensor, _: Tensor, grid: tuple[int, int]) -> Tensor:
        return model(x, t, ids, grid, maps)

    x0, seed = group.latents[rows].float(), int(rng.integers(2**62))
    return flow_loss(velocity, x0, ids, ids, group.grid, seed)
