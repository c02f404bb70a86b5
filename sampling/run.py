"""From encoded prompts to latents: joins model, noise, schedule, guidance and loop in one place.

Nodes, command line and tests all call `denoise`. Rows of a batch share prompt and size; item k
draws its noise from seed + k, so a batch of N equals N singles.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.errors import InkstoneError
from ..kernels.mmdit import MMDiT, Watch, activation_bytes
from ..kernels.modulation import Modulation, table_bytes
from .denoise import Step, euler
from .finite import check
from .geometry import check_canvas, pack, token_grid, unpack
from .lightning import Distilled, misfit
from .noise import noise
from .schedule import check_sigmas

log = logging.getLogger(__name__)


class Model(Protocol):
    """What denoising needs of a loaded diffusion model."""

    network: MMDiT
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    latent_mean: Tensor  # [1,16,1,1]
    latent_std: Tensor
    distilled: Distilled | None  # made for few steps without CFG

    def ready(self, working: int) -> None:
        """Has the weights in place for work that needs `working` bytes itself."""

    def adapted(self) -> AbstractContextManager[None]:
        """Within it the network works with the model's LoRAs, if it has some."""

    def modulation(self, sigmas: Tensor) -> Modulation:
        """The table for these sigmas."""


@dataclass(frozen=True)
class Request:
    """What to draw."""

    width: int
    height: int
    sigmas: Tensor
    seed: int = 0
    batch: int = 1
    cfg: float = 1.0
    latent: Tensor | None = None  # raw [B,16,1,h,w]; mixed in when sigmas start below 1


@dataclass(frozen=True)
class Hooks:
    """on_step sees every finished step; on_block(step, block) may raise to interrupt."""

    on_step: Callable[[Step], None] | None = None
    on_block: Callable[[int, int], None] | None = None


@dataclass
class _Run:
    """One denoising run: the velocity function and what it needs."""

    model: Model
    request: Request
    texts: dict[str, Tensor]
    hooks: Hooks
    table: Modulation
    checked: bool = field(default=False)

    def velocity(self, x: Tensor, step: int, which: str) -> Tensor:
        m, r = self.model, self.request
        txt = self.texts[which].to(m.device, m.dtype).expand(x.shape[0], -1, -1)
        on_block = self.hooks.on_block
        watch = Watch(
            on_block=None if on_block is None else (lambda block: on_block(step, block)),
            probe=self._probe if step == 0 else None,
        )
        v = m.network(
            x.to(m.dtype), txt, self.table.step(step), [token_grid(r.width, r.height)], watch=watch
        ).float()
        if step == 0:
            check("final projection", v, m.weights_format)
        return v

    def _probe(self, block: int, name: str, x: Tensor) -> None:
        check(f"block {block}, {name}", x, self.model.weights_format)


def denoise(
    model: Model,
    positive: Tensor,
    negative: Tensor | None,
    request: Request,
    hooks: Hooks = Hooks(),
) -> Tensor:
    """Raw VAE latents [B,16,1,h,w] float32 on the CPU.

    positive, negative: [1,L,J] text states. cfg > 1 needs a negative; at cfg <= 1 it is not used.
    """
    r = request
    check_canvas(r.width, r.height)
    check_sigmas(r.sigmas)
    _check_guidance(r.cfg, negative)
    texts = {"positive": _check_text(positive, model, "positive")}
    if r.cfg > 1 and negative is not None:
        texts["negative"] = _check_text(negative, model, "negative")
    said = misfit(model.distilled, r.sigmas, r.cfg) if model.distilled else None
    if said:
        log.warning("%s", said)
    start = _start(model, r).to(model.device)
    model.ready(working_bytes(model, r, texts))
    with model.adapted(), torch.inference_mode():
        table = model.modulation(r.sigmas[:-1])
        run = _Run(model, r, texts, hooks, table)
        x = euler(run.velocity, pack(start), r.sigmas, r.cfg, hooks.on_step)
        return raw_latents(model, x, r)


def working_bytes(model: Model, r: Request, texts: Mapping[str, Tensor]) -> int:
    """Bytes that a run needs beside the weights: activations of one forward, and the table."""
    config = model.network.config
    text = max(t.shape[1] for t in texts.values())
    tokens = math.prod(token_grid(r.width, r.height)) + text
    return activation_bytes(config, tokens, r.batch, model.dtype) + table_bytes(
        config.layers, config.width, len(r.sigmas) - 1, model.dtype
    )


def _start(model: Model, r: Request) -> Tensor:
    """Noise, or noise mixed with the normalised latent where the schedule starts below 1."""
    x = noise(r.seed, r.batch, r.height // 8, r.width // 8)
    first = r.sigmas[0].item()
    if first >= 1:
        return x
    if r.latent is None:
        raise InkstoneError(
            f"The schedule starts at sigma {first:g} and there is no latent to start from. "
            "Give a latent, or a schedule that starts at 1."
        )
    z = (r.latent[:, :, 0].float().cpu() - model.latent_mean) / model.latent_std
    return first * x + (1 - first) * z


def first_latent(x: Tensor, request: Request) -> Tensor:
    """Of a packed normalised state [B,S,64] the first picture's latent [16,h,w]."""
    _, rows, columns = token_grid(request.width, request.height)
    return unpack(x[:1], rows, columns)[0]


def raw_latents(model: Model, x: Tensor, request: Request) -> Tensor:
    """Packed normalised state [B,S,64] -> raw VAE latents [B,16,1,h,w] on the CPU."""
    _, rows, columns = token_grid(request.width, request.height)
    z = unpack(x.float().cpu(), rows, columns)
    return (z * model.latent_std + model.latent_mean)[:, :, None]


def _check_guidance(cfg: float, negative: Tensor | None) -> None:
    if not 0 <= cfg <= 100:
        raise InkstoneError(
            f"CFG is {cfg}: expected 0 to 100. Qwen-Image uses 4, Lightning models 1."
        )
    if cfg > 1 and negative is None:
        raise InkstoneError(
            f"CFG is {cfg} but there is no negative prompt, so there is nothing to guide away "
            'from. Connect a negative prompt (a single space " " is the usual one) or set CFG to 1.'
        )
    if cfg <= 1 and negative is not None:
        log.info("CFG is off at %g: the negative prompt is not used, each step runs once", cfg)


def _check_text(text: Tensor, model: Model, name: str) -> Tensor:
    joint = model.network.config.joint
    if text.dim() != 3 or text.shape[0] != 1 or text.shape[1] == 0:
        raise InkstoneError(
            f"The {name} prompt has shape {list(text.shape)}: expected [1, tokens, {joint}]. "
            "Encode one prompt with the Inkstone text encoder node."
        )
    if text.shape[2] != joint:
        raise InkstoneError(
            f"The {name} prompt was encoded {text.shape[2]} wide, this diffusion model expects "
            f"{joint}. Load the text encoder that belongs to it (Qwen2.5-VL 7B for Qwen-Image)."
        )
    check(f"the {name} prompt", text, "of the text encoder")
    return text
