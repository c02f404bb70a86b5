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

from ..kernels.block_streaming import in_step
from ..kernels.control_blockwise import BlockwiseBranch, Patched, Patches, patch_bytes
from ..kernels.control_fun import FunBranch, Placed
from ..kernels.control_instantx import (
    ControlBranch,
    ControlInputs,
    ControlWalk,
    Spread,
    sample_bytes,
)
from ..kernels.control_union import PlacedOnBoth, UnionBranch, UnionWalk
from ..kernels.forward import After, ForwardHooks, ForwardSize, Inputs
from ..kernels.mmdit import activation_bytes
from ..kernels.modulation import Modulation, table_bytes
from ..kernels.single_block import stream_bytes
from .geometry import LatentSpec, token_grid
from .nan_check import check
from .request import Control

if TYPE_CHECKING:
    from .request import Hooks, Model, Request

log = logging.getLogger(__name__)

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
    network: ControlBranch | FunBranch | UnionBranch
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
        self._inputs: Inputs | None = None  # of the step that is computed
        self._checked: set[int] = set()  # patched ones whose first step has begun
        for control, features in zip(controls, conditions, strict=True):
            branch, network = control.branch, control.branch.network
            features = features.to(branch.device, branch.dtype)
            if isinstance(network, BlockwiseBranch):
                scale = _scale(control, features.device)
                part = Patched(network, network.embed(features), branch.dtype, scale)
                self._patched.append((control, part))
                continue
            if id(branch) not in self._groups and not isinstance(network, UnionBranch):
                self._tables[id(branch)] = branch.modulation(r.sigmas[:-1], model.time)
            placement = _Placement(control, network, features)
            self._groups.setdefault(id(branch), []).append(placement)
        self._shared: tuple[int, list[After]] = -1, []  # (step, residuals for both halves of CFG)

    def after(self, inputs: Inputs, x: Tensor, step: int, half: str) -> list[After]:
        """The residuals of this step for the streams of one half of CFG. inputs: of the model;
        x [B,S,64]: its noisy latents, not rounded to its type.
        """
        self._inputs = inputs
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
        if isinstance(network, UnionBranch):
            return self._on_both(group, network, step)
        results = in_step(network, [self._walk(one, x, step, half) for one in group])
        for samples in results if step == self._first(group) else ():
            for sample in samples:
                check(f"control {branch.path.name}, a sample", sample, branch.weights_format)
        add = Placed if network.borrows else Spread
        return [add(samples, _scale(one.control, x.device)) for one, samples in zip(group, results)]

    def _on_both(self, group: list[_Placement], network: UnionBranch, step: int) -> list[After]:
        """Residuals of a branch that reads text and references too."""
        branch, first = group[0].control.branch, step == self._first(group)
        results = in_step(network, [self._union_walk(one, network, step) for one in group])
        for hints in results if first else ():
            for sample in (part for both in hints for part in both):
                check(f"control {branch.path.name}, a sample", sample, branch.weights_format)
        scales = [(_scale(one.control, branch.device), one.control.strength) for one in group]
        return [PlacedOnBoth(hints, *scale) for hints, scale in zip(results, scales)]

    def _union_walk(self, one: _Placement, network: UnionBranch, step: int) -> UnionWalk:
        base, on_block = self._model.network, self._hooks.on_block
        assert self._inputs is not None  # a union acts: see `ActiveControls.after`
        hooks = ForwardHooks(on_block=None if on_block is None else partial(on_block, step))
        return network.walk(self._inputs, one.features, base, hooks)

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
        assert isinstance(one.network, ControlBranch), "see _on_both"
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


def control_bytes(
    r: Request, size: ForwardSize, references: int, halves: int = 1
) -> tuple[int, int]:
    """(bytes that stay during a step, bytes while a branch works), in addition to the weights;
    size: of the base model's forward; references: tokens of the prompt's pictures; halves: of CFG,
    which may be at work at the same time.
    """
    tokens = math.prod(token_grid(r.width, r.height))
    blind = ForwardSize(tokens, size.prefix - references, r.batch, r.batch)  # sees no references
    stays = works = 0
    for control in acting(r):
        network, dtype, rows = control.branch.network, control.branch.dtype, len(r.sigmas) - 1
        if isinstance(network, BlockwiseBranch):
            stays += len(control.latent) * tokens * network.config.width * torch.float32.itemsize
            works = max(works, patch_bytes(network.config, tokens, r.batch))
            continue
        if isinstance(network, UnionBranch):
            stays += halves * network.sample_bytes(size, dtype)
            works += stream_bytes(network.config, size, dtype)
            continue
        config = network.config
        stays += (halves if network.borrows else 1) * sample_bytes(config, tokens, r.batch, dtype)
        stays += table_bytes(config.layers, config.width, rows, dtype)
        stays += len(control.latent) * tokens * network.condition * dtype.itemsize
        works += activation_bytes(config, blind, dtype)
    return stays, works
