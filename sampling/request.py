"""What is drawn, and whether a model can: every refusal is said before the first weight is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.control_blockwise import BlockwiseBranch
from ..kernels.control_fun import FunBranch
from ..kernels.control_instantx import ControlBranch
from ..kernels.mmdit import MMDiT
from ..kernels.modulation import Modulation
from .denoise import Step
from .geometry import LATENT, TOKEN
from .lightning import Distilled

log = logging.getLogger(__name__)

MOST_LAYERS, USUAL_LAYERS = 64, 4  # as the reference


class Edits(Protocol):
    """What is asked of an edit template."""

    most: int | None  # pictures; None = any number


class VariantLike(Protocol):
    """What is asked of a variant."""

    name: str


class Drawer(Protocol):
    """What is asked of a model before it draws."""

    variant: VariantLike | None  # None = neither the file nor the user says

    @property
    def apart(self) -> bool:
        """References have a time of their own (zero_cond_t)."""

    @property
    def layered(self) -> bool:
        """Draws layers of one picture."""

    @property
    def edit(self) -> Edits | None:
        """Its kind of edits; None = takes no references."""


Context = tuple[Tensor, ...]
"""Maps [n,16,1,h,w] that stand beside what is drawn, for a LoRA that reads them; n = 1 or the
batch."""


@dataclass(frozen=True)
class Request:
    """What to draw. Pictures that are given are raw VAE latents."""

    width: int
    height: int
    sigmas: Tensor
    seed: int = 0
    batch: int = 1
    cfg: float = 1.0
    latent: Tensor | None = None  # [n,16,1,h,w]; mixed in when sigmas start below 1
    references: tuple[Tensor, ...] = ()  # [1,16,1,h,w], each of its own size: Picture 1, 2, 3
    repaint: Tensor | None = None  # [n,1,h,w] 0..1: 1 = drawn, 0 = stays as in `latent`
    layers: int = 0  # layered variant: so many layers of the one reference
    controls: tuple[Control, ...] = ()
    context: Context = ()
    encoded_for: str = ""  # the variant whose template the prompts were encoded in; "" = not said

    @property
    def appended(self) -> tuple[Tensor, ...]:
        """All images whose tokens are appended to those of the target."""
        return (*self.references, *self.context)


def reference_grid(picture: Tensor) -> tuple[int, int, int]:
    """(frames, rows, columns) in tokens of a latent [1,16,1,h,w]; odd sides count as one more."""
    side = TOKEN // LATENT
    return 1, -(-picture.shape[-2] // side), -(-picture.shape[-1] // side)


class Branch(Protocol):
    """What a run needs of a loaded control."""

    network: ControlBranch | BlockwiseBranch | FunBranch
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    path: Path
    weights: object | None  # where they are: has them in place, see Model.ready

    def modulation(self, sigmas: Tensor, time: Callable[[Tensor], Tensor]) -> Modulation:
        """The table for these sigmas. time: the diffusion model's, see `Model.time`."""


@dataclass(frozen=True, eq=False)
class Control:
    """One picture for one branch: latent [n,16,1,h,w] raw; kept [n,1,h,w], 1 = stays, for branches
    that take a mask; where [n,1,h/2,w/2] 0..1 per token, None = everywhere; source: of Fun, the
    latent of the picture that is repainted, beside its map; n = 1 or the batch.
    """

    branch: Branch
    latent: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    kept: Tensor | None = None
    where: Tensor | None = None
    source: Tensor | None = None

    def acts(self, step: int, steps: int) -> bool:
        """In step 0 .. steps - 1: those that lie within start .. end as a whole."""
        within = step / steps >= self.start and (step + 1) / steps <= self.end
        return self.strength != 0 and within

    @property
    def name(self) -> str:
        """For messages."""
        return self.branch.path.name


class Model(Drawer, Protocol):
    """What denoising needs of a loaded diffusion model."""

    network: MMDiT
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    latent_mean: Tensor  # [1,16,1,1]
    latent_std: Tensor
    distilled: Distilled | None  # made for few steps without CFG

    def ready(self, working: int, beside: Sequence[object] = ()) -> None:
        """Has the weights in place for work that needs `working` bytes itself; beside: the weights
        of controls, which work in the same steps.
        """

    def time(self, sigmas: Tensor) -> Tensor:
        """Embedded timesteps [n,D] float32, for controls that have no embedding of their own."""

    def adapted(self) -> AbstractContextManager[None]:
        """Within it the network works with the model's LoRAs, if it has some."""

    def modulation(self, sigmas: Tensor) -> Modulation:
        """The table for these sigmas, and for references where they have a time of their own."""


@dataclass(frozen=True)
class Hooks:
    """on_step sees every finished step; on_block(step, block) may raise to interrupt."""

    on_step: Callable[[Step], None] | None = None
    on_block: Callable[[int, int], None] | None = None


NO_HOOKS = Hooks()
