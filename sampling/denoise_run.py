"""One denoising run: the velocity function, and what it needs of the images that are drawn.

Rows of a batch go through the network together; with a step cache each goes alone, because each
decides for itself which steps it skips. So a step has one forward (walk) or several: of both halves
of CFG, and of each row. Where weights are packed and memory allows, all of them go through each
layer together, which unpacks its weight once (kernels/block_streaming.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..kernels.block_streaming import Walk, in_step
from ..kernels.forward import After, ForwardHooks, Inputs
from ..kernels.modulation import Modulation
from ..kernels.prefix_store import PrefixStore
from ..kernels.references import ReferenceContext
from ..kernels.regions import Regions
from ..kernels.rope import Grid
from ..kernels.shared_modulation import SharedModulation
from .control import ActiveControls
from .nan_check import check
from .request import Hooks, Model, Request, placed
from .step_cache import CacheTally, WholeSteps
from .variety import Prompt


@dataclass(frozen=True)
class Rows:
    """Rows of a batch that go through the network together."""

    at: slice
    references: ReferenceContext
    prefixes: Mapping[str, PrefixStore | None]  # of each half of CFG
    controls: ActiveControls | None
    caches: Mapping[str, WholeSteps]  # of each half of CFG; empty = no step cache
    noisy: Prompt | None = None  # the positive prompt of the first steps, where that has noise


@dataclass(frozen=True)
class DenoiseRun:
    """One denoising run: the velocity function and what it needs."""

    model: Model
    texts: Mapping[str, Tensor]  # [1,L,J] of each half of CFG that is computed, positive first
    hooks: Hooks
    table: Modulation | SharedModulation
    grids: list[Grid]  # of the images that are drawn, then of the references
    drawn: int  # images that are drawn
    request: Request
    rows: Sequence[Rows]
    together: bool  # the walks of a step go through each layer together
    regions: Regions | None = None
    tally: CacheTally = field(default_factory=CacheTally)

    def velocity(self, x: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """(positive, negative or None): see `denoise.Velocity`.

        Walks that do not go through each layer together go through each block one after the other
        where weights are streamed, so that they share one reading of them; else each runs alone,
        which needs activations for one only.
        """
        network = self.model.network
        walks = self.walks(x, step)
        streamed = network.stream is not None and network.stream.evicting
        velocities: list[Tensor] = []
        for group in [walks] if streamed or self.together else [[walk] for walk in walks]:
            velocities += in_step(network, group, self.together)
        return self.velocities(velocities, step)

    def walks(self, x: Tensor, step: int) -> list[Walk]:
        """The forwards of a step: of each half of CFG, and within it of each of `rows`."""
        guided = self.model.variety.guided(step, self._steps)
        halves = [half for half in self.texts if guided or half == "positive"]
        return [self._walk(x[r.at], step, half, r) for half in halves for r in self.rows]

    def velocities(self, results: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor | None]:
        """What the walks of a step returned -> velocities, see `denoise.Velocity`."""
        results = [v.float() for v in results]
        for v in results if step == 0 else ():
            check("final projection", v, self.model.weights_format)
        self.tally.whole += len(results) * self.model.network.config.layers
        count = len(self.rows)
        positive, negative = _together(results[:count]), _together(results[count:])
        assert positive is not None, "a run has at least one row"
        return positive, negative

    def _walk(self, x: Tensor, step: int, half: str, rows: Rows) -> Walk:
        """A forward of these rows, or less where their step cache knows better."""
        model, cache = self.model, rows.caches.get(half)
        known = None if cache is None else cache.begin(x, step, self._acting(step))
        if known is not None:
            return known
        noisy = self._noisy(step, half, rows)
        prompt = noisy or Prompt(self.texts[half], self.request.regional)
        text, regional, regions = prompt.text, prompt.regional, self._regions(step, half)
        every = text if regional is None or regions is None else regional.joined(text)
        inputs = Inputs(
            img=x.to(model.dtype),
            txt=every.to(model.device, model.dtype).expand(x.shape[0], -1, -1),
            regions=regions,
            modulation=self.table.step(step),
            grids=self.grids,
            references=rows.references,
            slots=placed(self.request.slots, len(self.grids) - self.drawn, text.shape[1]),
            prefix=None if noisy else rows.prefixes[half],  # it serves steps without noise
        )
        hooks = ForwardHooks(
            on_block=partial(self._on_block, step),
            probe=self._probe if step == 0 else None,
            after=self._after(inputs, x, step, half, rows),
            shortcut=cache,
        )
        v = yield from model.network.walk(inputs, hooks)
        if cache is not None:
            cache.end(x, v.float())
        return v

    @property
    def _steps(self) -> int:
        return len(self.request.sigmas) - 1

    def _noisy(self, step: int, half: str, rows: Rows) -> Prompt | None:
        """The prompt with noise in a step that has it; the negative one never has."""
        noisy = half == "positive" and self.model.variety.noisy(step, self._steps)
        return rows.noisy if noisy else None

    def _acting(self, step: int) -> tuple[bool, ...]:
        """Which controls, and whether regions and noise on the words, act in a step."""
        controls = (control.acts(step, self._steps) for control in self.request.controls)
        noisy = self.model.variety.noisy(step, self._steps)
        return *controls, self._regions(step, "positive") is not None, noisy

    def _regions(self, step: int, half: str) -> Regions | None:
        """The regions that act in a step; the negative prompt has none."""
        regional = self.request.regional
        if regional is None or half != "positive":
            return None
        return self.regions if regional.settings.acts(step, self._steps) else None

    def _on_block(self, step: int, block: int) -> None:
        self.tally.computed += 1
        if self.hooks.on_block is not None:
            self.hooks.on_block(step, block)

    def _probe(self, block: int, name: str, x: Tensor) -> None:
        check(f"block {block}, {name}", x, self.model.weights_format)

    def _after(
        self, inputs: Inputs, x: Tensor, step: int, half: str, rows: Rows
    ) -> Sequence[After]:
        """What controls add. With a step cache they are computed when they are first asked for: not
        in steps that are skipped. Where they change the prefix too, block 0 asks for them at once.
        """
        controls = rows.controls
        if controls is None:
            return ()
        if not rows.caches or self.model.network.keeps_prefix:
            return controls.after(inputs, x, step, half)
        return (_Lazily(lambda: controls.after(inputs, x, step, half)),)


class _Lazily:
    """What controls add, computed when block 0 is done."""

    def __init__(self, parts: Callable[[], Sequence[After]]) -> None:
        self._parts = parts
        self._adds: Sequence[After] | None = None

    def __call__(self, index: int, layers: int, x: Tensor) -> Tensor:
        if self._adds is None:
            self._adds = self._parts()
        for add in self._adds:
            x = add(index, layers, x)
        return x


def _together(velocities: Sequence[Tensor]) -> Tensor | None:
    """The velocities of all rows; None of none."""
    if len(velocities) < 2:
        return velocities[0] if velocities else None
    return torch.cat(list(velocities))


def row_of(r: Request, row: int) -> Request:
    """The request of one row of a batch, as far as controls and in-context maps go."""

    def own(x: Tensor) -> Tensor:
        return x if len(x) == 1 else x[row : row + 1]

    def own_or_none(x: Tensor | None) -> Tensor | None:
        return None if x is None else own(x)

    controls = [
        replace(
            control,
            latent=own(control.latent),
            keep_mask=own_or_none(control.keep_mask),
            where=own_or_none(control.where),
            source=own_or_none(control.source),
        )
        for control in r.controls
    ]
    return replace(r, batch=1, controls=tuple(controls), context=tuple(map(own, r.context)))
