"""Several drawings of one model, size and schedule in one pass.

Their forwards go through each block together (kernels/block_streaming.py): streamed blocks are read
once for all, packed weights unpacked once for all. The drawings share no numbers, so each is bit by
bit what it is alone. One that is stopped, or fails, leaves; the others repeat the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InkstoneError
from ..kernels.block_streaming import in_step
from .checks import check_request, texts_of
from .denoise import Asks, Step, euler_asking
from .denoise_run import DenoiseRun
from .request import NO_HOOKS, Hooks, Model, Request
from .run_memory import together_bytes, working_bytes
from .sampler import raw_latents, run_of, start_of

MOST = 4  # drawings of a pass: more gain little (bench/RESULTS.md), and each waits for all
_PLAIN_TOKENS, _PACKED_TOKENS = 576, 256  # of a picture: computing hides the reading of larger ones


def _never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Part:
    """One of several drawings, as `denoise` takes it. What its hooks raise ends this one only; so
    does what the pass raises while `stopped`.
    """

    positive: Tensor
    negative: Tensor | None
    request: Request
    hooks: Hooks = NO_HOOKS
    stopped: Callable[[], bool] = _never


def goes_together(model: Model, r: Request) -> bool:
    """True for a drawing that can share a pass: one that has nothing of its own in the network but
    its latents and its prompt.
    """
    own = r.appended or r.layers or r.controls or r.regional is not None or model.layered
    return not (own or model.step_cache is not None or model.network.keeps_prefix)


def gains(model: Model, tokens: int) -> bool:
    """True where drawings of this many tokens gain a tenth or more by sharing a pass: where most of
    the time goes into reading weights (bench/shared_pass.py). As the model stands in memory now.
    """
    stream = model.network.stream
    most = _PACKED_TOKENS if model.packed else _PLAIN_TOKENS
    return stream is not None and stream.evicting and tokens <= most


def denoise_together(model: Model, parts: Sequence[Part]) -> list[Tensor | BaseException]:
    """For each part what `denoise` returns, or what ended it. Raises InkstoneError where they
    cannot be drawn together, and whatever the pass itself raises.
    """
    texts = [texts_of(model, p.positive, p.negative, p.request.cfg) for p in parts]
    _check(model, [part.request for part in parts])
    first = parts[0].request
    every = {f"{half} {k}": text for k, own in enumerate(texts) for half, text in own.items()}
    shared = together_bytes(model, first, every)
    together = model.ready(working_bytes(model, first, every), (), shared)
    with model.adapted(), torch.inference_mode():
        going = []
        for part, own in zip(parts, texts, strict=True):
            one = _Going(part)
            run = run_of(model, own, part.request, one.hooks, dict.fromkeys(own), together)
            one.begin(run)
            going.append(one)
        for step in range(len(first.sigmas) - 1):
            _advance(going, step)
        return [one.result() for one in going]


def _check(model: Model, requests: Sequence[Request]) -> None:
    first = requests[0]
    for r in requests:
        check_request(model, r)
        same = (r.width, r.height, r.cfg) == (first.width, first.height, first.cfg)
        if not (goes_together(model, r) and same and torch.equal(r.sigmas, first.sigmas)):
            raise InkstoneError(
                f"A drawing of {r.width}x{r.height} in {len(r.sigmas) - 1} steps at CFG {r.cfg:g} "
                f"does not go together with one of {first.width}x{first.height} in "
                f"{len(first.sigmas) - 1} steps at CFG {first.cfg:g}: expected pictures from "
                "prompts alone, of one size, schedule and CFG. Draw them one by one."
            )


@dataclass(eq=False)
class _Going:
    """A part at work. error: what ended it."""

    part: Part
    error: BaseException | None = None
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    latents: Tensor | None = None
    _run: DenoiseRun | None = None
    _loop: Asks | None = None

    @property
    def run(self) -> DenoiseRun:
        """Its velocities."""
        assert self._run is not None, "it has begun"
        return self._run

    @property
    def hooks(self) -> Hooks:
        """Those of the part, which end it where they raise."""
        own = self.part.hooks
        return replace(
            own, on_step=own.on_step and self._on_step, on_block=own.on_block and self._on_block
        )

    def _on_step(self, step: Step) -> None:
        assert self.part.hooks.on_step is not None
        try:
            self.part.hooks.on_step(step)
        except BaseException as error:
            self.error = error
            raise

    def _on_block(self, step: int, block: int) -> None:
        assert self.part.hooks.on_block is not None
        try:
            self.part.hooks.on_block(step, block)
        except BaseException as error:
            self.error = error
            raise

    def begin(self, run: DenoiseRun) -> None:
        """To the first velocity that it needs."""
        r, model = run.request, run.model
        start, kept = start_of(model, r)
        self._run = run
        hook = run.hooks.on_step
        self._loop = euler_asking(start, r.sigmas, r.cfg, hook, kept, model.rescales)
        self.x, _ = next(self._loop)

    def advance(self, results: Sequence[Tensor], step: int) -> None:
        """To the next velocity that it needs, or to its end."""
        assert self._loop is not None, "it has begun"
        try:
            self.x, _ = self._loop.send(self.run.velocities(results, step))
        except StopIteration as end:
            self.latents = end.value
        except BaseException as error:
            self.error = error

    def result(self) -> Tensor | BaseException:
        """Raw latents, or what ended it."""
        if self.error is not None:
            return self.error
        assert self.latents is not None, "its loop has ended"
        return raw_latents(self.run.model, self.latents, self.part.request)


def _advance(going: Sequence[_Going], step: int) -> None:
    """A step of all that go on. Where one of them ends within it, the others repeat it."""
    while live := [one for one in going if one.error is None]:
        walks = [one.run.walks(one.x, step) for one in live]
        run = live[0].run
        try:
            results = in_step(run.model.network, [w for own in walks for w in own], run.together)
        except BaseException as error:
            for one in live:
                if one.error is None and one.part.stopped():
                    one.error = error
            if all(one.error is None for one in live):
                raise
            continue
        for one, own in zip(live, walks, strict=True):
            one.advance(results[: len(own)], step)
            results = results[len(own) :]
        return
