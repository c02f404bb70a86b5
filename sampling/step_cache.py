"""Step caches: steps that change little take what earlier steps computed instead of all blocks.

Every method answers the same questions of a forward: before it (`begin`), before block 0, behind
block 0 (kernels/forward.Shortcut). What it answers is the stream behind the last block, or the
velocity. Each image of a batch and each half of CFG has a cache of its own, so that a batch equals
singles, and all of them end with the run.

- fbcache: block 0 is computed. Where its residual has changed by less than the threshold, the
  residual of the other blocks is that of the last whole step. Source: ParaAttention's First Block
  Cache, as in diffusers' `apply_first_block_cache`; it also looks at reference images, which hardly
  change and make a threshold mean less, so that edits lose more than drawings.
- teacache: the relative changes of what block 0's attention reads add up; below the threshold no
  block is computed, and the residual of all is that of the last whole step. Source: TeaCache
  (arXiv 2411.19108), without its polynomials, which are fitted to one model each.
- easycache: the same with the change of the velocity that the change of the latents lets expect:
  the ratio of the two in the last whole step. The velocity is kept as the reference keeps it, as
  the difference to the latents. Source: EasyCache (arXiv 2507.02860).
- taylorseer: every n-th step is computed; between them the residual of all blocks is the polynomial
  of order 1 or 2 in the step through the last whole ones. Source: TaylorSeer (arXiv 2503.06923),
  which extrapolates the outputs of each block: as extrapolation is linear, their sum is the same.

What controls add is inside of what is kept, so they are not computed in steps that are skipped;
where a control begins or ends, the step is whole. The first step is always whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InkstoneError
from .lightning import Distilled
from .step_cache_choices import FEWEST_STEPS, FORCE, StepCache


def relative_change(new: Tensor, old: Tensor) -> float:
    """mean |new - old| / mean |old|."""
    new, old = new.float(), old.float()
    return ((new - old).abs().mean() / old.abs().mean()).item()


def extrapolated(points: Sequence[tuple[float, Tensor]], at: float) -> Tensor:
    """The polynomial through 1 to 3 points (t, value) at `at`, in Lagrange's form."""
    total = torch.zeros_like(points[-1][1], dtype=torch.float32)
    for i, (own, value) in enumerate(points):
        weight = 1.0
        for j, (other, _) in enumerate(points):
            weight *= 1.0 if i == j else (at - other) / (own - other)
        total.add_(value, alpha=weight)
    return total


@dataclass(frozen=True)
class CacheContext:
    """What all caches of a run share. tokens: of the target; dtype: of what is kept."""

    settings: StepCache
    steps: int
    tokens: int
    dtype: torch.dtype


class WholeSteps:
    """The cache that never skips, and what all methods have in common: a cache of one prompt and
    one image. x: latents [1,S,64] float32; v: velocity [1,S,64] float32.
    """

    def __init__(self, context: CacheContext) -> None:
        self.context = context
        self._step, self._may = 0, False
        self._controls: object = None

    def begin(self, x: Tensor, step: int, controls: object = None) -> Tensor | None:
        """Begins a step. The velocity, where nothing is computed for it. controls: equal in steps
        in which the same controls act.
        """
        self._step = step
        if controls != self._controls:
            self.restart()
        same, self._controls = controls == self._controls, controls
        self._may = step > 0 and same and self.context.settings.allows(step, self.context.steps)
        return None

    def restart(self) -> None:
        """Forgets what other controls are part of, where one step is not enough to renew it."""

    def before(self, x: Tensor, modulated: Callable[[], Tensor]) -> Tensor | None:
        """See kernels/forward.Shortcut."""
        return None

    def behind_first(self, x: Tensor) -> Tensor | None:
        """See kernels/forward.Shortcut."""
        return None

    def behind_last(self, x: Tensor) -> None:
        """See kernels/forward.Shortcut."""

    def end(self, x: Tensor, v: Tensor) -> None:
        """Ends a step whose velocity the network gave."""

    def _below(self, change: float) -> bool:
        """True where this change lets skip. Never at a threshold of 0, nor with NaN."""
        threshold = self.context.settings.threshold
        return self._may and threshold > 0 and change <= threshold

    def _target(self, x: Tensor) -> Tensor:
        return x[:, : self.context.tokens]

    def _kept(self, x: Tensor) -> Tensor:
        return x.to(self.context.dtype)


class FirstBlock(WholeSteps):
    """fbcache."""

    _entered: Tensor | None = None  # during a step: the stream before block 0, then behind it
    _head: Tensor | None = None  # block 0's residual in the last whole step
    _tail: Tensor | None = None  # that of the other blocks

    def before(self, x: Tensor, modulated: Callable[[], Tensor]) -> Tensor | None:
        self._entered = self._target(x).clone()  # blocks change it in place
        return None

    def behind_first(self, x: Tensor) -> Tensor | None:
        assert self._entered is not None
        x = self._target(x)
        residual = x - self._entered
        self._entered = None
        if self._head is not None and self._tail is not None:
            if self._below(relative_change(residual, self._head)):
                return x + self._tail
        self._head = self._kept(residual)
        self._entered = x.clone()
        return None

    def behind_last(self, x: Tensor) -> None:
        assert self._entered is not None
        self._tail, self._entered = self._kept(x - self._entered), None


class _AllBlocks(WholeSteps):
    """Methods that keep the residual of all blocks."""

    _entered: Tensor | None = None  # during a whole step: the stream before block 0

    def before(self, x: Tensor, modulated: Callable[[], Tensor]) -> Tensor | None:
        residual = self._residual(modulated)
        if residual is not None:
            return self._target(x) + residual
        self._entered = self._target(x).clone()  # blocks change it in place
        return None

    def behind_last(self, x: Tensor) -> None:
        assert self._entered is not None
        self._keep(x - self._entered)
        self._entered = None

    def _residual(self, modulated: Callable[[], Tensor]) -> Tensor | None:
        """The residual of all blocks, where they are skipped."""
        raise NotImplementedError

    def _keep(self, residual: Tensor) -> None:
        """Keeps the residual of a whole step."""
        raise NotImplementedError


class Tea(_AllBlocks):
    """teacache."""

    _last: Tensor | None = None  # what block 0's attention read in the last step
    _sum = 0.0  # of its changes since the last whole step
    _all: Tensor | None = None

    def _residual(self, modulated: Callable[[], Tensor]) -> Tensor | None:
        now, last = self._target(modulated()), self._last
        self._last = self._kept(now)
        if last is not None:
            self._sum += relative_change(now, last)
        if self._all is not None and self._below(self._sum):
            return self._all
        self._sum = 0.0
        return None

    def _keep(self, residual: Tensor) -> None:
        self._all = self._kept(residual)


class Taylor(_AllBlocks):
    """taylorseer. Its number is the interval of whole steps."""

    def __init__(self, context: CacheContext, order: int) -> None:
        super().__init__(context)
        self._order = order
        self._points: list[tuple[float, Tensor]] = []  # (step, residual), the last whole steps

    def restart(self) -> None:
        self._points = []

    def _residual(self, modulated: Callable[[], Tensor]) -> Tensor | None:
        ready = self._may and len(self._points) > self._order
        if ready and self._step - self._points[-1][0] < self.context.settings.threshold:
            return extrapolated(self._points, self._step)
        return None

    def _keep(self, residual: Tensor) -> None:
        points = [*self._points, (float(self._step), self._kept(residual))]
        self._points = points[-self._order - 1 :]


class Easy(WholeSteps):
    """easycache. It keeps latents and velocities only."""

    _x: Tensor | None = None  # latents of the last step
    _whole: tuple[Tensor, Tensor] | None = None  # latents and velocity of the last whole step
    _rate: float | None = None  # change of the velocity for each change of the latents
    _sum = 0.0  # of the changes that are expected since the last whole step

    def restart(self) -> None:
        self._whole = self._rate = None

    def begin(self, x: Tensor, step: int, controls: object = None) -> Tensor | None:
        super().begin(x, step, controls)
        last, self._x = self._x, x
        if last is None or self._whole is None or self._rate is None:
            return None
        at, v = self._whole
        self._sum += self._rate * ((x - last).abs().mean() / v.abs().mean()).item()
        return x + (v - at) if self._below(self._sum) else None

    def end(self, x: Tensor, v: Tensor) -> None:
        if self._whole is not None:
            at, before = self._whole
            self._rate = ((v - before).abs().mean() / (x - at).abs().mean()).item()
        self._whole, self._sum = (x, v), 0.0


def cache_of(context: CacheContext) -> WholeSteps:
    """A cache of one prompt and one image."""
    method = context.settings.method
    if method.startswith("taylorseer"):
        return Taylor(context, 2 if method.endswith("2") else 1)
    return {"fbcache": FirstBlock, "teacache": Tea, "easycache": Easy}[method](context)


# streams [S,D] of a cache: (kept, float32 copies at work)
_STREAMS = {
    "fbcache": (2, 3),
    "teacache": (2, 2),
    "taylorseer": (2, 2),
    "taylorseer2": (3, 2),
    "easycache": (0, 0),
}


def cache_bytes(settings: StepCache, tokens: int, width: int, size: int, caches: int) -> int:
    """Bytes that the caches of a run keep between its steps and need at work, beside the forward.

    tokens: of the target; width: of the stream; size: bytes of one value that is kept; caches:
    images times halves of CFG. Latents and velocities are too small to count.
    """
    kept, copies = _STREAMS[settings.method]
    return caches * tokens * width * (kept * size + copies * 4)


def check_step_cache(settings: StepCache, levels: Tensor, distilled: Distilled | None) -> None:
    """Raises InkstoneError where a run has too few steps for a cache. levels: the sigmas."""
    steps, whole = len(levels) - 1, bool(levels[0] >= 1)
    if settings.forced:
        return
    if distilled is not None:
        why = f"{distilled.what} is {distilled.words()}, {distilled.why}"
    elif whole and steps < FEWEST_STEPS:
        why = f"this run has {steps} steps, expected at least {FEWEST_STEPS}"
    else:
        return
    raise InkstoneError(
        f"The step cache {settings.method} is not for this run: {why}, and neighbouring steps have "
        "too little in common to skip one. Remove the step cache, draw with the model's usual "
        f"steps, or force it (the switch of the node, or --cache {settings.words()}:{FORCE})."
    )


@dataclass
class CacheTally:
    """How many block evaluations of a run there were."""

    computed: int = 0
    whole: int = 0  # without a cache

    def words(self, settings: StepCache) -> str:
        """The line about a run."""
        saved, share = self.whole - self.computed, 100 * (1 - self.computed / max(1, self.whole))
        return (
            f"step cache {settings.words()}: {saved} of {self.whole} block evaluations saved "
            f"({share:.0f} %)"
        )
