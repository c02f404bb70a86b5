"""Calls of one kind drawn in company: their latents come from one pass of the diffusion model
(sampling/together.py). Each call is then drawn as ever, and finds its latents done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...host.headless import Interrupted, using
from ...host.previews import previewer
from ...nodes.sample import Denoise, Prepared
from ...sampling.denoise import Step
from ...sampling.request import Hooks
from ...sampling.together import Part, denoise_together, gains
from ..graph.api_graph import Graph, Link, parse_graph, with_defaults
from .drawer import Drawer
from .request import DrawCall

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Watch:
    """Who watches a call: its steps, its previews, and whether it is given up."""

    on_step: Callable[[int, int], None]
    on_preview: Callable[[Image], None]
    stop: threading.Event


class AnyOf(threading.Event):
    """Set while one of some events is set."""

    def __init__(self, events: Sequence[threading.Event]) -> None:
        super().__init__()
        self._events = list(events)

    def is_set(self) -> bool:
        """True if one of them is."""
        return any(event.is_set() for event in self._events)

    def heeds(self, event: threading.Event) -> bool:
        """True if this one is set; who asks heeds it, and it counts no more."""
        if not event.is_set():
            return False
        self._events = [other for other in self._events if other is not event]
        return True


def company_key(call: DrawCall) -> DrawCall | None:
    """Equal for calls that may share a pass; None for one that draws alone."""
    own = (call.image, call.control, call.region, call.variety, call.layers, call.upscale)
    if any(own) or call.batch != 1 or call.cache is not None or call.enhance or call.instructions:
        return None
    return replace(call, prompt="", negative=None, seed=0, out=None)


def gains_from_company(drawer: Drawer, call: DrawCall) -> bool:
    """True where calls like this one, which was drawn just now, gain by sharing a pass."""
    if company_key(call) is None:
        return False
    model = drawer.load(call).bundle.model
    width, height = call.size or model.preset().size
    return gains(model, width * height // model.latents.step**2)


@dataclass(frozen=True)
class _Task:
    """A call, its graph, and what its sampler draws."""

    call: DrawCall
    links: tuple[Link, ...]
    graph: Graph
    node: str  # the sampler
    prepared: Prepared

    @classmethod
    def of(cls, drawer: Drawer, call: DrawCall) -> _Task:
        """Encodes the call's prompts."""
        drawn, values = drawer.inputs_of_sampler(call)
        assert drawn.latent is not None, "it is drawn, not only enlarged"
        graph = with_defaults(parse_graph(drawn.api), drawer.executor.nodes)
        links = (Link(*drawn.image), Link(*drawn.latent))
        return cls(call, links, graph, drawn.latent.node, Denoise.prepared(**values))

    def part(self, watch: Watch, stops: AnyOf) -> Part:
        """Its part of the pass, which `stops` interrupt."""
        prepared, steps = self.prepared, len(self.prepared.request.sigmas) - 1
        look = previewer(prepared.model, prepared.request)

        def on_step(step: Step) -> None:
            picture = look(step)
            if picture is not None:
                watch.on_preview(picture)
            watch.on_step(step.index + 1, steps)
            on_block(step.index, 0)

        def on_block(step: int, block: int) -> None:
            if stops.heeds(watch.stop):
                raise Interrupted("The drawing was stopped.")

        return Part(
            positive=prepared.positive,
            negative=prepared.negative,
            request=prepared.request,
            hooks=Hooks(on_step=on_step, on_block=on_block),
            stopped=lambda: stops.heeds(watch.stop),
        )

    def give(self, drawer: Drawer, latents: Tensor) -> str:
        """Keeps its latents for its drawing; the key to drop them by."""
        values = tuple(self.prepared.output(latents).args)
        host = drawer.host(self.call, None)
        return drawer.executor.give(self.graph, self.links, host, self.node, values)


def denoise_ahead(
    drawer: Drawer, calls: Sequence[DrawCall], watches: Sequence[Watch]
) -> list[str | None]:
    """Denoises calls in one pass, for the `draw` of each. Returns the keys of their results, for
    `Executor.cache.drop`; None of one that ended on the way. Raises what the pass raises.
    """
    tasks = [_Task.of(drawer, call) for call in calls]
    stops = AnyOf([drawer.stop, *(watch.stop for watch in watches)])
    host = replace(drawer.host(calls[0], None), previews=True, interrupt=stops)
    with using(host):
        parts = [task.part(watch, stops) for task, watch in zip(tasks, watches, strict=True)]
        results = denoise_together(tasks[0].prepared.model, parts)
    pairs = zip(tasks, results, strict=True)
    return [None if isinstance(r, BaseException) else t.give(drawer, r) for t, r in pairs]
