"""Regional prompts against DiffSynth-Studio's EliGen itself: final latents of both on the same
random weights, with masks of any shape.

As bench/diffsynth_parity.py: its source is not part of this tree, give a checkout of
github.com/modelscope/DiffSynth-Studio; weights are full blocks, only their number and the canvas
are small; noise, schedule and Euler steps are ours on both sides, masks and velocities its own. Its
GELU is exchanged for diffusers', and as it is in the second column.

python bench/regions_parity.py --source DiffSynth-Studio
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.diffsynth_parity import CFG, GRID, HEIGHT, LIMIT, SEED, WIDTH, relative, the_world
from bench.diffsynth_studio import built, random_state, studio, tanh_gelu
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.denoise import euler
from inkstone.sampling.geometry import pack
from inkstone.sampling.noise import noise
from inkstone.sampling.region_choices import ELIGEN, RegionSettings
from inkstone.sampling.regions import Region, Regional, cells_of
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise, raw_latents

VARIANTS = ("qwen-image", "edit-2509", "edit-2511")


@dataclass(frozen=True)
class Case:
    """Masks [H,W] of the regions, and how they are drawn."""

    masks: tuple[Tensor, ...]
    cfg: float = CFG
    variant: str = VARIANTS[0]


def masks(count: int) -> tuple[Tensor, ...]:
    """A half, a box on top of it that ends between tokens, a disc, and a rim."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rim = torch.minimum(torch.minimum(y, HEIGHT - 1 - y), torch.minimum(x, WIDTH - 1 - x)) < 6
    disc = (y - 30) ** 2 + (x - 40) ** 2 < 15**2
    return (x < WIDTH // 2, (x > 21) & (y > 13) & (y < 30), disc, rim)[:count]


CASES = {
    "two regions": Case(masks(2)),
    "two regions, no CFG": Case(masks(2), cfg=1.0),
    "four regions": Case(masks(4)),
    "four regions, edit (2509)": Case(masks(4), variant=VARIANTS[1]),
    "two regions, edit (2511)": Case(masks(2), variant=VARIANTS[2]),
}


class Sides:
    """The same weights in both programs."""

    def __init__(self, source: Path, layers: int, folder: Path) -> None:
        self.program, self.world = studio(source), the_world()
        from diffsynth.pipelines import qwen_image as pipeline

        self.unit = pipeline.QwenImageUnit_EntityControl()
        self.pipe = pipeline.QwenImagePipeline(device="cpu", torch_dtype=torch.float32)
        state = random_state(expected_tensors.mmdit_layout(MMDiTConfig(layers)), 2)
        file = folder / "base.safetensors"
        save_safetensors(file, state, {})
        self.models = {
            name: load_diffusion_model(file, LoadOptions(torch.float32, variant=name))
            for name in VARIANTS
        }
        self.network = built(functools.partial(self.program.network, num_layers=layers), state)
        self.network.pos_embed = self.program.network(num_layers=0).pos_embed  # no parameters
        g = torch.Generator().manual_seed(8)
        self.words = [torch.randn(1, n, 3584, generator=g) for n in (5, 7, 3, 6)]

    def ours(self, case: Case, regions: bool = True) -> Tensor:
        """Raw latents by `denoise`."""
        words = zip(self.words, case.masks)
        regional = Regional(
            tuple(Region(states, cells_of(mask)) for states, mask in words),
            RegionSettings(method=ELIGEN),
        )
        edits = case.variant != VARIANTS[0]
        request = Request(
            WIDTH,
            HEIGHT,
            self.world.sigmas,
            SEED,
            cfg=case.cfg,
            references=(self.world.pictures[0],) if edits else (),
            regional=regional if regions else None,
        )
        texts = self.world.texts
        negative = texts["negative"] if case.cfg > 1 else None
        return denoise(self.models[case.variant], texts["positive"], negative, request)

    def theirs(self, case: Case) -> Tensor:
        """Raw latents by DiffSynth-Studio."""
        model, world, count = self.models[case.variant], self.world, len(case.masks)
        pictures = [Image.fromarray(m.byte().numpy() * 255).convert("RGB") for m in case.masks]
        seen = self.unit.preprocess_masks(self.pipe, pictures, HEIGHT // 8, WIDTH // 8, 1)
        ones = [torch.ones(1, states.shape[1], dtype=torch.long) for states in self.words[:count]]
        entities = {
            "entity_prompt_emb": self.words[:count],
            "entity_prompt_emb_mask": ones,
            "entity_masks": torch.cat(seen, dim=0).unsqueeze(0),
        }
        edits = case.variant != VARIANTS[0]
        reference = (world.pictures[0][:, :, 0] - model.latent_mean) / model.latent_std
        shared: dict[str, Any] = {"edit_latents": reference} if edits else {}

        def velocity(latent: Tensor, step: int, text: Tensor) -> Tensor:
            positive = text is world.texts["positive"]
            return self.program.velocity(
                dit=self.network,
                latents=latent,
                prompt_emb=text,
                timestep=world.sigmas[step : step + 1] * 1000,
                height=HEIGHT,
                width=WIDTH,
                prompt_emb_mask=torch.ones(text.shape[:2], dtype=torch.long),
                zero_cond_t=case.variant == VARIANTS[2],
                **shared,
                **(entities if positive else {}),
            )

        start = pack(noise(SEED, 1, HEIGHT // 8, WIDTH // 8))
        both = world.velocity(velocity)
        alone = lambda x, step: (both(x, step)[0], None)  # noqa: E731
        with torch.inference_mode():
            x = euler(both if case.cfg > 1 else alone, start, world.sigmas, case.cfg)
        return raw_latents(model, x, Request(WIDTH, HEIGHT, world.sigmas))

    def compared(self, name: str, case: Case) -> tuple[str, ...]:
        """A row of the table."""
        got, own = self.ours(case), self.theirs(case)
        with mock.patch.object(self.program.activation, "forward", tanh_gelu):
            want = self.theirs(case)
        plain = self.ours(case, regions=False)
        errors = (relative(got, want), relative(got, own))
        return name, *(f"{e:.1e}" for e in errors), f"{relative(got, plain):.2f}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--source", type=Path, required=True, help="a checkout of DiffSynth-Studio")
    p.add_argument("--layers", type=int, default=2, help="blocks of the base model")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args.source, args.layers, Path(folder))
        rows = [sides.compared(name, case) for name, case in CASES.items()]
    print(f"{GRID[1]}x{GRID[0]} tokens, {args.layers} blocks")
    print("\n".join(common.aligned([("", "error", "with its own GELU", "effect"), *rows])))
    worst = max(float(row[1]) for row in rows)
    print(f"worst {worst:.1e}, limit {LIMIT:g}; $ {harness.command()}")
    raise SystemExit(worst >= LIMIT)


if __name__ == "__main__":
    main()
