"""Controls: control images that branches read in some steps of a run, and their residuals.

An InstantX branch runs once per step in which a control acts, with the positive prompt; the same
samples serve both halves of CFG (as in the reference). Fun's runs for each half with its own
prompt. Blockwise patches run behind each block on the stream of their half; they come first there,
and all read the same stream, so that several controls add up in any order. All control images of
one file go through its blocks together, so that streamed weights are read once. start and end are
fractions of the steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InkstoneError
from ..kernels.block_streaming import in_step
from ..kernels.configs import MMDiTConfig
from ..kernels.control_blockwise import BlockwiseBranch, Patched, Patches, patch_bytes
from ..kernels.control_fun import FunBranch, Placed
from ..kernels.control_instantx import (
    ControlBranch,
    ControlInputs,
    ControlWalk,
    Spread,
    sample_bytes,
)
from ..kernels.forward import After, ForwardHooks
from ..kernels.mmdit import activation_bytes
from ..kernels.modulation import Modulation, table_bytes
from .geometry import TOKEN, LatentSpec, token_grid
from .nan_check import check
from .request import Control

if TYPE_CHECKING:
    from .request import Hooks, Model, Request

log = logging.getLogger(__name__)

MOST_STRENGTH = 10.0


def check_controls(base: MMDiTConfig, latents: LatentSpec, r: Request) -> None:
    """Raises InkstoneError if a control does not fit the model or the canvas."""
    if r.controls and r.layers:
        raise InkstoneError(
            "Qwen-Image-Layered splits a picture into layers and takes no controls. Remove the "
            "control, or draw with Qwen-Image."
        )
    for control in r.controls:
        _check_numbers(control)
        _check_family(control, base)
        _check_pictures(control, latents, r)


def _check_numbers(c: Control) -> None:
    if not -MOST_STRENGTH <= c.strength <= MOST_STRENGTH:
        raise InkstoneError(
            f"The strength of the control {c.name} is {c.strength:g}: expected {-MOST_STRENGTH:g} "
            f"to {MOST_STRENGTH:g}. 0.8 to 1 is usual."
        )
    if not 0 <= c.start < c.end <= 1:
        raise InkstoneError(
            f"The control {c.name} acts from {c.start:g} to {c.end:g}: expected fractions of the "
            "steps, 0 <= start < end <= 1. Use 0 and 1 for all steps."
        )


_SHAPE = {"width": "width", "heads": "heads", "axes": "rope axes"}
# config fields that a branch shares with its base model, and their names in messages
_COMPARED = {
    ControlBranch: _SHAPE | {"joint": "text width", "channels": "channels"},
    FunBranch: _SHAPE,
    BlockwiseBranch: {"width": "width", "channels": "channels", "layers": "blocks"},
}


def _check_family(c: Control, base: MMDiTConfig) -> None:
    own = c.branch.network.config
    names = _COMPARED[type(c.branch.network)]
    other = [
        f"{word} {getattr(own, name)} where the model has {getattr(base, name)}"
        for name, word in names.items()
        if getattr(own, name) != getattr(base, name)
    ]
    if other:
        raise InkstoneError(
            f"The control {c.name} is for a model of another family: it has {', '.join(other)}. "
            "Load a control that was trained for this diffusion model."
        )


def _check_pictures(c: Control, latents: LatentSpec, r: Request) -> None:
    size = [*latents.sides(r.width, r.height)]
    counts = (1, r.batch)
    if c.latent.dim() != 5 or list(c.latent.shape[1:]) != [latents.channels, 1, *size]:
        raise InkstoneError(
            f"The picture of the control {c.name} has a latent of shape {list(c.latent.shape)}, "
            f"the canvas is {r.width}x{r.height}: expected [pictures, {latents.channels}, 1, "
            f"{size[0]}, {size[1]}]. Resize the control picture to the canvas."
        )
    if isinstance(c.branch.network, FunBranch):
        if (c.keep_mask is None) != (c.source is None):
            raise InkstoneError(
                f"The control {c.name} inpaints with a mask and the picture to inpaint, and got "
                "only one of the two. Connect both, or neither."
            )
    elif c.branch.network.masked != (c.keep_mask is not None):
        takes = "takes a mask and got none" if c.keep_mask is None else "takes no mask and got one"
        raise InkstoneError(
            f"The control {c.name} {takes}. An inpainting control needs the mask of the area to "
            "inpaint; the others take only the picture."
        )
    tokens = [r.height // TOKEN, r.width // TOKEN]
    for word, mask, expected in (("mask", c.keep_mask, size), ("region", c.where, tokens)):
        if mask is not None and (mask.dim() != 4 or list(mask.shape[1:]) != [1, *expected]):
            raise InkstoneError(
                f"The {word} of the control {c.name} has shape {list(mask.shape)}: expected "
                f"[masks, 1, {expected[0]}, {expected[1]}] for this {r.width}x{r.height} canvas. "
                "Resize it to the canvas."
            )
    for word, x in (
        ("pictures", c.latent),
        ("masks", c.keep_mask),
        ("regions", c.where),
        ("pictures to inpaint", c.source),
    ):
        if x is not None and len(x) not in counts:
            raise InkstoneError(
                f"The control {c.name} has {len(x)} {word} for a batch of {r.batch}: expected 1"
                f"{f' or {r.batch}' if r.batch > 1 else ''}. Pass one for all, or one for each."
            )
    check(f"the picture of the control {c.name}", c.latent, "of the VAE")


Tokens = Callable[[Tensor], Tensor]
"""Raw latents [n,C,1,h,w] -> normalised tokens [n,S,64]."""


def condition(control: Control, tokens: Tokens, latents: LatentSpec) -> Tensor:
    """The features that a branch reads of a control [n,S,condition]: its map, then the mask values
    of a token (one for each latent pixel), then (Fun) the image that is inpainted; zeros where
    there is none.
    """
    parts = [tokens(control.latent)]
    if control.keep_mask is not None:
        parts.append(latents.pack(control.keep_mask.float()).to(parts[0].device))
    if control.source is not None:
        parts.append(tokens(control.source))
    count = max(map(len, parts))
    features = torch.cat([x.expand(count, -1, -1) for x in parts], dim=-1)
    return F.pad(features, (0, control.branch.network.condition - features.shape[-1]))


@dataclass(frozen=True, eq=False)
class _Placement:
    """One control of a branch with blocks, and what its network reads of the control image."""

    control: Control
    network: ControlBranch | FunBranch
    features: Tensor  # [n,S,condition]


class ActiveControls:
    """The controls of one run."""

    def __init__(
        self,
        controls: Sequence[Control],
        conditions: Sequence[Tensor],
        texts: Mapping[str, Tensor],
        r: Request,
        model: Model,
        hooks: Hooks,
    ) -> None:
        """conditions [n,S,condition], one for each control; texts: [1,L,J] of the prompts, by their
        half of CFG."""
        self._steps, self._texts, self._hooks = len(r.sigmas) - 1, texts, hooks
        self._grid, self._model = token_grid(r.width, r.height), model
        self._tables: dict[int, Modulation] = {}
        self._groups: dict[int, list[_Placement]] = {}  # by branch: they share its blocks
        self._patched: list[tuple[Control, Patched]] = []
        self._checked: set[int] = set()  # patched ones whose first step has begun
        for control, features in zip(controls, conditions, strict=True):
            branch, network = control.branch, control.branch.network
            features = features.to(branch.device, branch.dtype)
            if isinstance(network, BlockwiseBranch):
                scale = _scale(control, features.device)
                part = Patched(network, network.embed(features), branch.dtype, scale)
                self._patched.append((control, part))
                continue
            if id(branch) not in self._groups:
                self._tables[id(branch)] = branch.modulation(r.sigmas[:-1], model.time)
            placement = _Placement(control, network, features)
            self._groups.setdefault(id(branch), []).append(placement)
        self._shared: tuple[int, list[After]] = -1, []  # (step, residuals for both halves of CFG)

    def after(self, x: Tensor, step: int, half: str) -> list[After]:
        """The residuals of this step for the streams of one half of CFG. x [B,S,64]."""
        parts = [part for control, part in self._patched if control.acts(step, self._steps)]
        look = None if self._checked.issuperset(map(id, parts)) else self._look
        patches = [Patches(parts, look)] if parts else []
        self._checked.update(map(id, parts))
        if self._shared[0] != step:
            self._shared = -1, []  # frees the last step's samples before the new ones are computed
            self._shared = step, self._residuals(x, step, "positive", borrows=False)
        return [*patches, *self._shared[1], *self._residuals(x, step, half, borrows=True)]

    def _look(self, part: Patched, index: int, x: Tensor) -> None:
        control = next(c for c, own in self._patched if own is part)
        check(f"control {control.name}, patch {index}", x, control.branch.weights_format)

    def _residuals(self, x: Tensor, step: int, half: str, borrows: bool) -> list[After]:
        """Residuals of all branches with embeddings of their own, or of all that borrow them."""
        residuals: list[After] = []
        for group in self._groups.values():
            now = [one for one in group if one.control.acts(step, self._steps)]
            if now and now[0].network.borrows == borrows:
                residuals += self._samples(now, x, step, half)
        return residuals

    def _samples(self, group: list[_Placement], x: Tensor, step: int, half: str) -> list[After]:
        branch, network = group[0].control.branch, group[0].network
        x = x.to(branch.device, branch.dtype)
        results = in_step(network, [self._walk(one, x, step, half) for one in group])
        for samples in results if step == self._first(group) else ():
            for sample in samples:
                check(f"control {branch.path.name}, a sample", sample, branch.weights_format)
        add = Placed if network.borrows else Spread
        return [add(samples, _scale(one.control, x.device)) for one, samples in zip(group, results)]

    def _walk(self, one: _Placement, x: Tensor, step: int, half: str) -> ControlWalk:
        branch, on_block = one.control.branch, self._hooks.on_block
        inputs = ControlInputs(
            img=x,
            picture=one.features,
            txt=self._texts[half].to(branch.device, branch.dtype).expand(len(x), -1, -1),
            modulation=self._tables[id(branch)].step(step),
            grid=self._grid,
        )
        hooks = ForwardHooks(on_block=None if on_block is None else partial(on_block, step))
        if isinstance(one.network, FunBranch):
            return one.network.walk(inputs, self._model.network, hooks)
        return one.network.walk(inputs, hooks)

    def _first(self, group: list[_Placement]) -> int:
        """The first step in which one of a group acts."""
        steps = self._steps
        return next(i for i in range(steps) if any(p.control.acts(i, steps) for p in group))


def _scale(control: Control, device: torch.device) -> Tensor | float:
    """Scale of its residuals: a float, or [n,S,1] when limited to a region."""
    if control.where is None:
        return control.strength
    return control.strength * control.where.float().flatten(2).mT.to(device)


def acting(r: Request) -> list[Control]:
    """The controls that act in at least one step."""
    steps = len(r.sigmas) - 1
    return [c for c in r.controls if any(c.acts(i, steps) for i in range(steps))]


def log_controls(r: Request) -> None:
    """Logs for each control in how many steps it acts."""
    steps = len(r.sigmas) - 1
    for control in r.controls:
        count = sum(control.acts(i, steps) for i in range(steps))
        if count:
            log.info("control %s acts in %d of %d steps", control.name, count, steps)
        elif control.strength == 0:
            log.info("control %s has strength 0 and is skipped", control.name)
        else:
            log.warning(
                "control %s acts in no step: none of %d steps lies within %g to %g as a whole",
                control.name,
                steps,
                control.start,
                control.end,
            )


def control_bytes(r: Request, text: int) -> tuple[int, int]:
    """(bytes that stay during a step, bytes while a branch works), in addition to the weights;
    text: tokens of the prompt.
    """
    tokens = math.prod(token_grid(r.width, r.height))
    stays = works = 0
    for control in acting(r):
        network, dtype, rows = control.branch.network, control.branch.dtype, len(r.sigmas) - 1
        if isinstance(network, BlockwiseBranch):
            stays += len(control.latent) * tokens * network.config.width * torch.float32.itemsize
            works = max(works, patch_bytes(network.config, tokens, r.batch))
            continue
        config = network.config
        stays += sample_bytes(config, tokens, r.batch, dtype)
        stays += table_bytes(config.layers, config.width, rows, dtype)
        stays += len(control.latent) * tokens * network.condition * dtype.itemsize
        works += activation_bytes(config, tokens + text, r.batch, dtype)
    return stays, works
