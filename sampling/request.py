"""Records of a run: the request, its controls and hooks, and protocols of the models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.control_blockwise import BlockwiseBranch
from ..kernels.control_fun import FunBranch
from ..kernels.control_instantx import ControlBranch
from ..kernels.control_union import UnionBranch
from ..kernels.modulation import Modulation
from ..kernels.prefix_store import Place, PrefixStore
from ..kernels.shared_modulation import SharedModulation
from .denoise import Step
from .geometry import LatentSpec
from .lightning import Distilled
from .prefix_choices import Keep
from .regions import Regional
from .step_cache_choices import StepCache
from .variety_choices import Variety

log = logging.getLogger(__name__)

Network = Any  # kernels/mmdit.MMDiT or another with its methods; each has a config of its own
MOST_LAYERS, USUAL_LAYERS = 64, 4  # as the reference


class Edits(Protocol):
    """An edit template, as far as sampling reads it."""

    @property
    def most(self) -> int | None:
        """Largest number of pictures; None = any."""


class VariantLike(Protocol):
    """A variant, as far as sampling reads it."""

    @property
    def name(self) -> str:
        """For messages."""


class VariantModel(Protocol):
    """A diffusion model, as far as the checks of a request read it."""

    @property
    def variant(self) -> VariantLike | None:
        """None = neither the file nor the user says."""

    @property
    def apart(self) -> bool:
        """References have their own timestep (zero_cond_t)."""

    @property
    def layered(self) -> bool:
        """Splits one image into layers."""

    @property
    def edit(self) -> Edits | None:
        """Its kind of edits; None = takes no references."""

    @property
    def latents(self) -> LatentSpec:
        """How pictures become latents and tokens."""


Context = tuple[Tensor, ...]
"""Maps [n,16,1,h,w] whose tokens are appended to the target's, for an in-context LoRA; n = 1 or
the batch."""


@dataclass(frozen=True)
class Request:
    """One drawing. All images are raw VAE latents."""

    width: int
    height: int
    sigmas: Tensor
    seed: int = 0
    batch: int = 1
    cfg: float = 1.0
    latent: Tensor | None = None  # [n,16,1,h,w]; mixed in when sigmas start below 1
    references: tuple[Tensor, ...] = ()  # [1,16,1,h,w], each of its own size: Picture 1, 2, 3
    repaint: Tensor | None = None  # [n,1,h,w] 0..1: 1 = inpainted, 0 = kept from `latent`
    layers: int = 0  # layered variant: number of layers of the one reference
    controls: tuple[Control, ...] = ()
    context: Context = ()
    slots: tuple[int, ...] = ()  # rows of the prompt before each reference, where families mix them
    regional: Regional | None = None
    encoded_for: str = ""  # the variant whose template the prompts were encoded with; "" = unknown

    @property
    def appended(self) -> tuple[Tensor, ...]:
        """All images whose tokens are appended to those of the target."""
        return (*self.references, *self.context)


def placed(known: Sequence[int], references: int, text: int) -> tuple[int, ...]:
    """For each reference the rows of a prompt of `text` rows before it; those that the prompt does
    not place come behind it, as in ComfyUI.
    """
    return (*known, *[text] * references)[:references]


class Branch(Protocol):
    """A loaded control, as far as a run reads it."""

    network: ControlBranch | BlockwiseBranch | FunBranch | UnionBranch
    dtype: torch.dtype
    device: torch.device
    path: Path

    @property
    def weights_format(self) -> str:
        """For messages."""

    @property
    def weights(self) -> object | None:
        """Their residency, see Model.ready."""

    def modulation(self, sigmas: Tensor, time: Callable[[Tensor], Tensor]) -> Modulation:
        """The table for these sigmas. time: the diffusion model's, see `Model.time`."""


@dataclass(frozen=True, eq=False)
class Control:
    """One control image for one branch; n = 1 or the batch."""

    branch: Branch
    latent: Tensor  # [n,16,1,h,w] raw
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    keep_mask: Tensor | None = None  # [n,1,h,w], 1 = kept, for branches that take a mask
    where: Tensor | None = None  # [n,1,h/2,w/2] 0..1 per token; None = everywhere
    source: Tensor | None = None  # Fun: latent of the image to inpaint, in addition to the map

    def acts(self, step: int, steps: int) -> bool:
        """True in the steps that lie within start .. end as a whole."""
        within = step / steps >= self.start and (step + 1) / steps <= self.end
        return self.strength != 0 and within

    @property
    def name(self) -> str:
        """For messages."""
        return self.branch.path.name


class Model(VariantModel, Protocol):
    """A loaded diffusion model, as far as denoising reads it."""

    network: Network
    dtype: torch.dtype
    device: torch.device
    latent_mean: Tensor  # [1,C,1,1]
    latent_std: Tensor
    step_cache: StepCache | None
    variety: Variety

    @property
    def rescales(self) -> bool:
        """CFG keeps the length of the positive velocity."""

    @property
    def weights_format(self) -> str:
        """For messages."""

    @property
    def trained_for(self) -> Distilled | None:
        """Set if it was trained for few steps without CFG."""

    @property
    def packed(self) -> bool:
        """Weights of its blocks are unpacked whenever they are multiplied."""

    def ready(self, working: int, controls: Sequence[object] = (), together: int = 0) -> bool:
        """Makes room for activations and loads the weights.

        controls: the residency of the controls' weights (`Branch.weights`), which run in the same
        steps and must not be evicted for this model's; working, together: bytes of activations
        where the passes of a step go one after the other, and where they go through each layer
        together (0 = they do not). True: together.
        """

    def time(self, sigmas: Tensor) -> Tensor:
        """Embedded timesteps [n,D] float32, for controls that have no embedding of their own."""

    def prefix_place(self, nbytes: int) -> Place:
        """Where this many bytes of keys and values that serve all steps are kept."""

    @property
    def keep_prefix(self) -> Keep:
        """What people chose for them."""

    def prefix_stores(
        self, keys: Sequence[str], place: Place, besides: Sequence[PrefixStore | None] = ()
    ) -> list[PrefixStore | None]:
        """The stores of prompts, the only ones that stay but those in `besides`. keys: of their
        states, their references and their places."""

    def adapted(self) -> AbstractContextManager[None]:
        """Context in which the network has the model's LoRAs."""

    def modulation(self, sigmas: Tensor) -> Modulation | SharedModulation:
        """The table for these sigmas, and for references if they have their own timestep."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks: on_step gets every finished step; on_block(step, block) may raise to interrupt.
    previews: on_step reads x0, which may be x where it does not.
    """

    on_step: Callable[[Step], None] | None = None
    on_block: Callable[[int, int], None] | None = None
    previews: bool = True


NO_HOOKS = Hooks()
