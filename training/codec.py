"""Pictures and prompts as the flow model sees them: packed, normalized latents and token ids.

The VAE is frozen here. Latents are posterior means, kept in memory as float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.vae import VAE
from ..loaders.arch.family import EMBEDDED_TEMPLATE
from ..loaders.models.tokenizer import Tokenizer
from ..sampling.geometry import pack
from .checkpoint import step_rng
from .grammar import Scene, prompt, sample
from .render import render

STATISTICS = 512  # pictures behind the latents' mean and std
CHUNK = 32  # pictures that are drawn from one generator, and encoded together


@dataclass(frozen=True)
class Codec:
    """A frozen VAE with the statistics of its latents, and the tokenizer."""

    vae: VAE
    mean: Tensor  # [1,16,1,1]
    std: Tensor
    tokenizer: Tokenizer

    @torch.no_grad()
    def latents(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """uint8 pictures of one size [H,W,3] -> packed latents [N,S,64] float16."""
        chunks = []
        for i in range(0, len(pictures), CHUNK):
            x = torch.from_numpy(np.stack(pictures[i : i + CHUNK])).permute(0, 3, 1, 2)
            mean, _ = self.vae.moments(x.float().div_(127.5).sub_(1))
            chunks.append(pack((mean - self.mean) / self.std).half())
        return torch.cat(chunks)

    def scenes(self, scenes: Sequence[Scene]) -> Tensor:
        """Scenes of one size, rendered -> packed latents [N,S,64] float16."""
        return self.latents([render(scene) for scene in scenes])

    def ids(self, text: str) -> list[int]:
        """Token ids of a prompt in its template; an empty prompt keeps two tokens."""
        return self.tokenizer.encode(EMBEDDED_TEMPLATE.format(text))


def padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths -> ids [B,L], mask [B,L]."""
    length = max(map(len, ids))
    rows = torch.tensor([i + [0] * (length - len(i)) for i in ids])
    return rows, torch.arange(length)[None] < torch.tensor([len(i) for i in ids])[:, None]


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


def encode_pictures(codec: Codec, kind: str, count: int, seed: int) -> list[Pictures]:
    """`count` pictures of a kind, rendered and encoded, grouped by size."""
    groups: dict[tuple[int, int], list[Scene]] = {}
    for i in range(0, count, CHUNK):
        rng = step_rng(seed, "data-" + kind, i)
        for scene in (sample(rng, kind, None) for _ in range(CHUNK)):
            groups.setdefault((scene.height // 16, scene.width // 16), []).append(scene)
    return [
        Pictures(codec.scenes(scenes), [codec.ids(prompt(s)) for s in scenes], grid)
        for grid, scenes in groups.items()
    ]


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
def preview_factors(codec: Codec, seed: int, count: int = 128) -> list[list[float]]:
    """[17][3]: least squares from normalized latents and 1 to the mean colour of 8x8 pixels."""
    latents, colours = [], []
    for x in _statistics_pictures(seed, count):
        z = ((codec.vae.moments(x)[0] - codec.mean) / codec.std).flatten(2)[0].t()  # [N,16]
        latents.append(torch.cat([z, torch.ones(len(z), 1)], dim=1))
        colours.append((F.avg_pool2d(x, 8).flatten(2)[0].t() + 1) / 2)
    solution = torch.linalg.lstsq(torch.cat(latents), torch.cat(colours)).solution
    return [[round(v, 4) for v in row] for row in solution.tolist()]
