"""Training of the embedded MMDiT and its text encoder: rectified flow, as in the Qwen-Image paper.

v = noise - x0, plain squared error; t = sigmoid(N(0,1)), then shifted by 3; 10 % empty prompts for
CFG; easy pictures first (shapes, words on strips), then whole scenes with some strips kept in the
mix. Latents are encoded once by the frozen VAE encoder and kept in memory as float16.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.configs import MMDiTConfig, TextConfig
from ..kernels.forward import Inputs
from ..kernels.linear import Linear
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation, modulation
from ..kernels.text_encoder import TextEncoder
from ..kernels.vae import VAE
from ..loaders.arch.family import EMBEDDED_TEMPLATE
from ..loaders.models.tokenizer import Tokenizer
from ..sampling.geometry import pack
from .checkpoint import Checkpoint, step_rng
from .grammar import Scene, prompt, sample
from .loop import run_loop
from .render import render

log = logging.getLogger(__name__)

TEMPLATE = EMBEDDED_TEMPLATE  # nothing is dropped; an empty prompt keeps two tokens
SHIFT = 3.0
STATISTICS = 512  # pictures behind the latents' mean and std
CONFIG = MMDiTConfig(layers=6, heads=4, head_dim=32, joint=128, ff=512, axes=(8, 12, 12))
TEXT = TextConfig(layers=2, width=128, heads=4, kv_heads=2, head_dim=32, ff=256, vocab=512)


@dataclass(frozen=True)
class FlowStage:
    """One stage: how many steps on which mix of picture kinds (kind -> share, kind -> pictures)."""

    name: str
    steps: int
    batch: int
    lr: float
    share: dict[str, float]
    pictures: dict[str, int]
    save_every: int = 300


STAGES = (
    FlowStage(
        "flow-strips",
        2600,
        32,
        1e-3,
        {"strips": 0.8, "shapes": 0.2},
        {"strips": 14000, "shapes": 4000},
    ),
    FlowStage(
        "flow-scenes",
        3000,
        48,
        1e-3,
        {"strips": 0.2, "scenes": 0.8},
        {"strips": 8000, "scenes": 16000},
    ),
    FlowStage(  # shapes are learned last, and few-token stars last of all
        "flow-shapes",
        2400,
        48,
        1e-3,
        {"strips": 0.1, "shapes": 0.4, "scenes": 0.5},
        {"strips": 4000, "shapes": 6000, "scenes": 12000},
    ),
)


class _Time(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.Module()
        self.timestep_embedder.linear_1, self.timestep_embedder.linear_2 = (
            Linear(256, d),
            Linear(d, d),
        )


class ModulationWeights(nn.Module):
    """The weights that the modulation table is computed from, under their published names."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        d = config.width
        self.time_text_embed = _Time(d)
        blocks = []
        for _ in range(config.layers):
            block = nn.Module()
            block.img_mod = nn.ModuleList([nn.Identity(), Linear(d, 6 * d)])
            block.txt_mod = nn.ModuleList([nn.Identity(), Linear(d, 6 * d)])
            blocks.append(block)
        self.transformer_blocks = nn.ModuleList(blocks)
        self.norm_out = nn.Module()
        self.norm_out.linear = Linear(d, 2 * d)
        for name, p in self.named_parameters():
            if "time_text" not in name:
                nn.init.zeros_(p)

    def forward(self, sigma: Tensor, layers: int) -> Modulation:
        """Rows for sigma [n], with gradients."""
        return modulation(dict(self.named_parameters()).__getitem__, sigma, layers)


class FlowModel(nn.Module):
    """MMDiT, its modulation weights and the text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.mmdit, self.mod, self.text = (
            MMDiT(CONFIG),
            ModulationWeights(CONFIG),
            TextEncoder(TEXT),
        )
        nn.init.zeros_(self.mmdit.proj_out.weight), nn.init.zeros_(self.mmdit.proj_out.bias)
        nn.init.normal_(self.text.embed_tokens.weight, std=0.5)

    def forward(
        self, x: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """x [B,S,64], sigma [B], ids and mask [B,L] -> velocity [B,S,64]."""
        txt, _ = self.text(ids)
        mod = self.mod(sigma, CONFIG.layers)
        return self.mmdit(Inputs(x, txt, mod, [(1, *grid)], None if bool(mask.all()) else mask))


def padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths -> ids [B,L], mask [B,L]."""
    length = max(map(len, ids))
    filled = torch.tensor([i + [0] * (length - len(i)) for i in ids])
    return filled, torch.arange(length)[None] < torch.tensor([len(i) for i in ids])[:, None]


@dataclass
class Pictures:
    """Encoded pictures of one size: packed latents [N,S,64] float16 and token ids."""

    latents: Tensor
    ids: list[list[int]]
    grid: tuple[int, int]

    def batch(
        self, rows: np.ndarray, drop: np.ndarray, empty: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x0 [B,S,64], ids [B,L], mask [B,L]; prompts of `drop` rows are empty."""
        ids = [empty if d else self.ids[r] for r, d in zip(rows, drop)]
        return self.latents[torch.from_numpy(rows)].float(), *padded(ids)


@torch.no_grad()
def encode_scenes(vae: VAE, stats: tuple[Tensor, Tensor], scenes: Sequence[Scene]) -> Tensor:
    """Scenes of one size, rendered -> packed latents [N,S,64] float16: normalised means."""
    latents = []
    for i in range(0, len(scenes), 32):
        pixels = torch.from_numpy(np.stack([render(s) for s in scenes[i : i + 32]]))
        mean, _ = vae.moments(pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1))
        latents.append(pack((mean - stats[0]) / stats[1]).half())
    return torch.cat(latents)


def encode_pictures(
    vae: VAE, stats: tuple[Tensor, Tensor], tokenizer: Tokenizer, kind: str, count: int, seed: int
) -> list[Pictures]:
    """`count` pictures of a kind: rendered, encoded (posterior mean, normalised), by size."""
    groups: dict[tuple[int, int], list] = {}
    for i in range(0, count, 32):
        rng = step_rng(seed, "data-" + kind, i)
        for scene in (sample(rng, kind, None) for _ in range(32)):
            groups.setdefault((scene.height // 16, scene.width // 16), []).append(scene)
    out = []
    for grid, scenes in groups.items():
        ids = [tokenizer.encode(TEMPLATE.format(prompt(s))) for s in scenes]
        out.append(Pictures(encode_scenes(vae, stats, scenes), ids, grid))
    return out


def _statistics_pictures(seed: int, count: int) -> Iterator[Tensor]:
    """[1,3,H,W] in -1..1, scenes and shapes in turn."""
    rng, kinds = step_rng(seed, "statistics", 0), ("scenes", "shapes")
    for i in range(count):
        picture = torch.from_numpy(render(sample(rng, kinds[i % 2], None))).permute(2, 0, 1)[None]
        yield picture.float().div_(127.5).sub_(1)


@torch.no_grad()
def latent_statistics(vae: VAE, seed: int, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Per-channel mean and std of posterior means, [1,16,1,1] each."""
    pictures = _statistics_pictures(seed, count or STATISTICS)
    z = torch.cat([vae.moments(x)[0].flatten(2)[0] for x in pictures], dim=1)  # [16,N]
    return z.mean(1)[None, :, None, None], z.std(1)[None, :, None, None]


@torch.no_grad()
def preview_factors(
    vae: VAE, stats: tuple[Tensor, Tensor], seed: int, count: int = 128
) -> list[list[float]]:
    """[17][3]: least squares from normalised latents and 1 to the mean colour of 8x8 pixels."""
    known, wanted = [], []
    for x in _statistics_pictures(seed, count):
        z = ((vae.moments(x)[0] - stats[0]) / stats[1]).flatten(2)[0].t()  # [N,16]
        known.append(torch.cat([z, torch.ones(len(z), 1)], dim=1))
        wanted.append((F.avg_pool2d(x, 8).flatten(2)[0].t() + 1) / 2)
    solved = torch.linalg.lstsq(torch.cat(known), torch.cat(wanted)).solution
    return [[round(v, 4) for v in row] for row in solved.tolist()]


def _draw(
    rng: np.random.Generator, stage: FlowStage, data: dict[str, list[Pictures]]
) -> tuple[Pictures, int]:
    """A group by share, and a batch size that evens out the cost of small and large pictures."""
    kinds = list(stage.share)
    kind = kinds[int(rng.choice(len(kinds), p=list(stage.share.values())))]
    groups = data[kind]
    sizes = np.array([len(g.ids) for g in groups], dtype=float)
    group = groups[int(rng.choice(len(groups), p=sizes / sizes.sum()))]
    return group, stage.batch * 2 if group.grid == (
        2,
        8,
    ) and stage.name != "flow-strips" else stage.batch


def flow_loss(
    model: nn.Module, x0: Tensor, ids: Tensor, mask: Tensor, grid: tuple[int, int], seed: int
) -> Tensor:
    """Mean squared error of the velocity at random times."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.sigmoid(torch.randn(len(x0), generator=generator))
    t = SHIFT * s / (1 + (SHIFT - 1) * s)
    noise = torch.randn(x0.shape, generator=generator)
    xt = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
    return F.mse_loss(model(xt, t, ids, mask, grid), noise - x0)


def run_stage(
    model: FlowModel,
    stage: FlowStage,
    data: dict[str, list[Pictures]],
    empty: list[int],
    folder: Path,
    seed: int,
) -> None:
    """Trains or resumes one stage; the model ends on the averaged weights."""

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, int]:
        group, size = _draw(rng, stage, data)
        x0, ids, mask = group.batch(
            rng.integers(0, len(group.ids), size), rng.random(size) < 0.1, empty
        )
        loss = flow_loss(model, x0, ids, mask, group.grid, int(rng.integers(2**62)))
        return loss, size

    run_loop(model, stage, loss_of, folder, seed)


def train_flow(
    vae: VAE,
    stats: tuple[Tensor, Tensor],
    tokenizer: Tokenizer,
    folder: Path,
    seed: int,
    stages: tuple[FlowStage, ...] | None = None,
) -> FlowModel:
    """All stages, each resumed where it stopped."""
    torch.manual_seed(seed + 1)
    model = FlowModel()
    empty = tokenizer.encode(TEMPLATE.format(""))
    for stage in stages or STAGES:
        if Checkpoint(folder / f"{stage.name}.safetensors").finished(stage.steps):
            run_stage(model, stage, {}, empty, folder, seed)  # only reads the averaged weights
            continue
        data = {
            k: encode_pictures(vae, stats, tokenizer, k, n, seed) for k, n in stage.pictures.items()
        }
        log.info("%s: data ready", stage.name)
        run_stage(model, stage, data, empty, folder, seed)
    return model
