"""Controls against DiffSynth-Studio itself: final latents of both on the same random weights.

Its source is not part of this tree: give a checkout of github.com/modelscope/DiffSynth-Studio. The
network there has one width, so the weights are full blocks (3 GB each side in float32) and only
their number and the canvas are small. Noise, schedule and the Euler steps are ours on both sides;
velocities are its `model_fn_qwen_image` and ours. Its base network has another GELU, x times the
sigmoid of 1.702 x, where diffusers (and we) have the tanh form: each case, without control too, is
compared with diffusers' GELU in its place, which is what the limit is for, and as it is. Packages
that it imports and inference does not need are mocked where they are missing (it does need einops
and Pillow).

python bench/diffsynth_parity.py --source DiffSynth-Studio
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.diffsynth_studio import built, merged, random_lora, random_state, studio, tanh_gelu
from inkstone.controlnet.in_context import InContext, apply_in_context_loras, load_any_control
from inkstone.controlnet.masks import kept_cells
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import AS_FOUND, LoadOptions
from inkstone.sampling.denoise import euler
from inkstone.sampling.geometry import pack, unpack
from inkstone.sampling.noise import noise
from inkstone.sampling.request import Control, Request
from inkstone.sampling.sampler import denoise, raw_latents
from inkstone.sampling.schedule import LINEAR, sigmas

WIDTH, HEIGHT, STEPS, SEED, CFG = 64, 48, 4, 7, 3.0
GRID = HEIGHT // 16, WIDTH // 16
LIMIT = 1e-4
Cells = tuple[str, ...]
Velocity = Callable[[Tensor, int], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Use:
    """One control of a case: number of its file, strength, number of steps in which it acts."""

    file: int
    strength: float = 1.0
    until: int = STEPS


@dataclass(frozen=True)
class World:
    """Everything that both sides see."""

    sigmas: Tensor
    texts: Mapping[str, Tensor]
    pictures: Sequence[Tensor]  # raw latents [1,16,1,h,w]
    mask: Tensor  # [1,H,W], 1 = inpainted
    masked: Sequence[bool]  # of each control file

    def velocity(self, of: Callable[[Tensor, int, Tensor], Tensor]) -> Velocity:
        """For `euler`: of(latent [1,16,h,w], step, text) -> the same shape."""

        def both(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            positive, negative = (
                pack(of(unpack(x, *GRID), step, self.texts[half]))
                for half in ("positive", "negative")
            )
            return positive, negative

        return both


def theirs(
    studio: SimpleNamespace,
    network: Any,
    nets: Any,
    world: World,
    uses: Sequence[Use],
    model: Any,
    context: Tensor | None = None,
) -> Tensor:
    """Raw latents by DiffSynth-Studio. model: ours, for its latents' statistics."""
    normal = [(p[:, :, 0] - model.latent_mean) / model.latent_std for p in world.pictures]
    conditions, inputs = [], []
    for one in uses:
        latent = normal[one.file]
        if world.masked[one.file]:  # as its unit puts them together
            keep = 1 - F.interpolate(world.mask[:, None], latent.shape[-2:])
            latent = torch.cat([latent, keep], dim=1)
        conditions.append(latent)
        end = 1 - (one.until - 1) / (STEPS - 1)  # it counts from 1 down to 0
        inputs.append(studio.input(controlnet_id=one.file, scale=one.strength, start=1.0, end=end))

    def velocity(latent: Tensor, step: int, text: Tensor) -> Tensor:
        return studio.velocity(
            dit=network,
            blockwise_controlnet=nets,
            latents=latent,
            prompt_emb=text,
            timestep=world.sigmas[step : step + 1] * 1000,
            height=HEIGHT,
            width=WIDTH,
            prompt_emb_mask=torch.ones(text.shape[:2], dtype=torch.long),
            blockwise_controlnet_conditioning=conditions or None,
            blockwise_controlnet_inputs=inputs,
            progress_id=step,
            num_inference_steps=STEPS,
            context_latents=context,
        )

    start = pack(noise(SEED, 1, HEIGHT // 8, WIDTH // 8))
    with torch.inference_mode():
        x = euler(world.velocity(velocity), start, world.sigmas, CFG)
    return raw_latents(model, x, Request(WIDTH, HEIGHT, world.sigmas))


def ours(model: Any, controls: Sequence[Control | InContext], world: World) -> Tensor:
    """Raw latents by `denoise`."""
    dressed, branches, context = apply_in_context_loras(model, controls)
    request = Request(
        WIDTH, HEIGHT, world.sigmas, SEED, cfg=CFG, controls=branches, context=context
    )
    return denoise(dressed, world.texts["positive"], world.texts["negative"], request)


def controls_of(files: Sequence[Any], world: World, uses: Sequence[Use]) -> list[Control]:
    """Our side of `uses`."""
    return [
        Control(
            files[one.file],
            world.pictures[one.file],
            one.strength,
            0.0,
            one.until / STEPS,
            keep_mask=kept_cells(world.mask) if world.masked[one.file] else None,
        )
        for one in uses
    ]


CASES: dict[str, tuple[Use, ...]] = {
    "no control": (),
    "blockwise canny": (Use(0),),
    "blockwise inpaint": (Use(1, 0.7),),
    "both, one in half of the steps": (Use(0, 0.6, STEPS // 2), Use(1, 0.8)),
}


def the_world() -> World:
    """A small canvas, two prompts, three pictures and a mask, all random."""
    g = torch.Generator().manual_seed(1)
    size = (1, 16, 1, HEIGHT // 8, WIDTH // 8)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 13:29, 21:] = 1
    texts = {
        which: torch.randn(1, tokens, 3584, generator=g)
        for which, tokens in (("positive", 9), ("negative", 4))
    }
    pictures = [torch.randn(size, generator=g) for _ in range(3)]
    levels = sigmas(LINEAR, STEPS, GRID[0] * GRID[1])
    return World(levels, texts, pictures, mask, (False, True))


class Sides:
    """The same weights in both programs."""

    def __init__(self, program: SimpleNamespace, layers: int, folder: Path, world: World) -> None:
        self.program, self.world = program, world
        self.state = random_state(expected_tensors.mmdit_layout(MMDiTConfig(layers)), 2)
        self.lora = random_lora(layers, 9)
        states = [
            random_state(expected_tensors.blockwise_layout(3072, layers, condition), condition)
            for condition in (64, 68)
        ]
        files = {"base": self.state, "lora": self.lora, "0": states[0], "1": states[1]}
        for name, tensors in files.items():
            save_safetensors(folder / f"{name}.safetensors", tensors, {})
        self.model = load_diffusion_model(folder / "base.safetensors", LoadOptions(torch.float32))
        self.in_context = load_any_control(folder / "lora.safetensors", AS_FOUND)
        self.files = [load_any_control(folder / f"{n}.safetensors", AS_FOUND) for n in (0, 1)]
        self.network = built(functools.partial(program.network, num_layers=layers), self.state)
        self.network.pos_embed = program.network(num_layers=0).pos_embed  # no parameters
        self.nets = program.together(
            [
                built(functools.partial(program.net, layers, additional_in_dim=extra), one)
                for extra, one in zip((0, 4), states)
            ]
        )
        self.plain = ours(self.model, (), world)

    def compared(self, name: str, uses: Sequence[Use], context: bool = False) -> Cells:
        """A row of the table. context: with the third picture as in-context map."""
        controls, context_latents = controls_of(self.files, self.world, uses), None
        if context:
            picture = self.world.pictures[2]
            controls.append(InContext(self.in_context, picture, 1.0))
            context_latents = (picture[:, :, 0] - self.model.latent_mean) / self.model.latent_std
        self.network.load_state_dict(
            merged(self.state, self.lora) if context else self.state, assign=True
        )
        got = ours(self.model, controls, self.world)
        sides = self.program, self.network, self.nets, self.world, uses, self.model, context_latents
        own = theirs(*sides)
        with mock.patch.object(self.program.activation, "forward", tanh_gelu):
            want = theirs(*sides)
        errors = (relative(got, want), relative(got, own))
        return name, *(f"{e:.1e}" for e in errors), f"{relative(got, self.plain):.2f}"


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return ((a - b).double().norm() / b.double().norm()).item()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--source", type=Path, required=True, help="a checkout of DiffSynth-Studio")
    p.add_argument("--layers", type=int, default=2, help="blocks of the base model")
    args = p.parse_args()
    program, rows = studio(args.source), []
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(program, args.layers, Path(folder), the_world())
        rows += [sides.compared(name, uses) for name, uses in CASES.items()]
        for name in ("no control", "blockwise canny"):
            uses = CASES[name]
            title = f"in-context and {name}" if uses else "in-context"
            rows.append(sides.compared(title, uses, context=True))
    print("\n".join(common.aligned([("", "error", "with its own GELU", "effect"), *rows])))
    worst = max(float(row[1]) for row in rows)
    print(f"worst {worst:.1e}, limit {LIMIT:g}; $ {harness.command()}")
    raise SystemExit(worst >= LIMIT)


if __name__ == "__main__":
    main()
