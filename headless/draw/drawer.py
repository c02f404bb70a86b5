"""Draws calls by running their graphs.

A `Drawer` has one executor, which keeps models, encoded prompts and results from call to call.
Models that do not fit into memory together are unloaded and reloaded as needed
(loaders/memory/residency.py), so prompts are best encoded some calls ahead: the text encoder and
the diffusion model are then swapped once for many calls.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ...files.hashes import picture_hash
from ...host.headless import HeadlessHost
from ...loaders.models.bundle import Bundle
from ...nodes.latents import restated
from ...nodes.load import LoadAll, LoadDiffusionModel
from ...nodes.sample import Denoise
from ...nodes.upscale import UpscalePicture
from ...pipeline.answer_stages import PlannedAnswer
from ...pipeline.enhance import EnhanceRequest, planned
from ...pipeline.memory_plan import Plan, PlanRequest, plan
from ...pipeline.upscale import tile_request, tiles_for
from ...sampling.checks import warn_of_negative
from ..core_nodes.registry import node_classes
from ..graph.api_graph import Link, parse_graph, with_defaults
from ..graph.events import Event, NodeError
from ..graph.executor import Executor
from ..workflow.memory_estimate import plan_request
from .api_builder import ApiGraph, Ref
from .decide import Drawing, calls_of, decide, with_enhanced
from .file_names import FilePaths
from .graph import DrawGraph, draw_graph, models_graph
from .models import MODEL_NODES, CallModels, ModelRefs
from .request import DrawCall

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ...loaders.models.diffusion_model import DiffusionModel

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (steps done, steps)

_MOST_DECIDED = 32  # calls whose prompts are encoded ahead
STAGES = ("load", "encode", "denoise", "decode")
_LOADERS = (LoadAll.ID, LoadDiffusionModel.ID)  # one of them in every call


@dataclass(frozen=True)
class Result:
    """A finished drawing. images [B,H,W,C] in 0..1, of the layered model [B*layers,H,W,4]; latent
    raw [B,16,1,h,w], None where a picture was only enlarged; seconds per stage. drawings: of all
    pictures, or of each.
    """

    call: DrawCall
    drawings: Sequence[Drawing]
    models: CallModels
    images: Tensor
    latent: Tensor | None
    seconds: Mapping[str, float]

    @property
    def drawing(self) -> Drawing:
        """The drawing of the first picture."""
        return self.drawings[0]

    def drawing_of(self, picture: int) -> Drawing:
        """The drawing of one picture: only its prompt may differ from the first one's."""
        return self.drawings[picture if len(self.drawings) > 1 else 0]


@dataclass
class _Stages:
    """Seconds of the stages of a drawing, by the nodes that ran."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    _kind: str = ""  # the class of the node at work
    _denoised: bool = False

    def __call__(self, event: Event) -> None:
        if event.kind == "executing":
            self._kind = event.data["class_type"]
        elif event.kind == "executed":
            self.seconds[self._stage()] += event.data["seconds"]
            self._denoised |= self._kind == Denoise.ID

    def _stage(self) -> str:
        if self._kind in MODEL_NODES:
            return "load"
        if self._kind in (Denoise.ID, UpscalePicture.ID):
            return "denoise"
        return "decode" if self._denoised else "encode"


class Drawer:
    """Draws calls. `once`: for one call, so that the text encoder leaves as soon as the prompts are
    encoded, and the memory plan is logged. stop: once set, a drawing raises Interrupted, within a
    step too, while weights are loaded or a picture is decoded.
    """

    def __init__(
        self,
        once: bool = False,
        executor: Executor | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.once, self.stop = once, stop or threading.Event()
        self.on_preview: Callable[[Image], None] | None = None  # gets pictures of single steps
        self.executor = executor or Executor(node_classes())
        self.models_loaded = self.prompts_encoded = 0
        self._decided: dict[tuple[str, ...], tuple[weakref.ref[DiffusionModel], Drawing]] = {}

    def clear(self) -> None:
        """Frees models and results."""
        self.executor.clear()

    def load(self, call: DrawCall, stages: _Stages | None = None) -> CallModels:
        """The models of a call, opened and checked; their weights are read when they are used."""
        api, refs = models_graph(call, FilePaths())
        return _models(refs, self._values(call, api, refs.present(), None, stages))

    def plan(self, call: DrawCall, models: CallModels | None = None) -> Plan:
        """The memory plan of a call."""
        models, call = models or self.load(call), calls_of(call)[0]
        drawing = decide(call, models)
        return self._plan(call, models, drawing, graph_of(call, drawing))

    def draw(self, call: DrawCall, progress: Progress) -> Result:
        """Draws a call. Raises InkstoneError, or CallError where the call asks for what its model
        cannot do.
        """
        stages = _Stages()
        models = self.load(call, stages)
        calls = calls_of(call)
        drawings = [self._decide(one, models, stages=stages) for one in calls]
        warn_of_negative(drawings[0].cfg, call.negative)
        graphs = [graph_of(*pair) for pair in zip(calls, drawings)]
        self._announce(self._plan(calls[0], models, drawings[0], graphs[0]))
        if self.once:
            for graph in graphs:
                self._values(call, graph.api, _ahead(graph, *graph.prompts), None, stages)
            models.text_encoder.weights.park()
        drawn = []
        for k, graph in enumerate(graphs):
            part = _part(progress, k, len(graphs))
            refs = [ref for ref in (graph.image, graph.latent) if ref is not None]
            last = self.once and graph is graphs[-1]
            drawn.append(self._values(call, graph.api, refs, part, stages, last=last))
        latents = [restated(latent, models.vae) for _, *one in drawn for latent in one]
        return Result(
            call=call,
            drawings=drawings,
            models=models,
            images=torch.cat([images for images, *_ in drawn]),
            latent=torch.cat(latents) if latents else None,
            seconds={name: round(stages.seconds[name], 3) for name in STAGES},
        )

    def encode_ahead(self, call: DrawCall) -> None:
        """Encodes the prompts of a call that comes later."""
        models = self.load(call)
        for one in calls_of(call):
            graph = graph_of(one, self._decide(one, models, keep=True))
            self._values(one, graph.api, _ahead(graph, *graph.prompts), None, None)

    def inputs_of_sampler(self, call: DrawCall) -> tuple[DrawGraph, dict[str, Any]]:
        """The graph of a call of one picture, and the inputs of its sampler, prompts encoded."""
        models = self.load(call)
        graph = graph_of(call, self._decide(call, models, keep=True))
        assert graph.latent is not None, "it is drawn, not only enlarged"
        inputs = with_defaults(parse_graph(graph.api), self.executor.nodes)[
            graph.latent.node
        ].inputs
        links = {name: Ref(v.node, v.slot) for name, v in inputs.items() if isinstance(v, Link)}
        values = self._values(call, graph.api, _ahead(graph, *links.values()), None, None)
        return graph, inputs | dict(zip(links, values))

    def needs_encoder(self, call: DrawCall) -> bool:
        """True where the text encoder of a call is not in memory."""
        return not self.load(call).text_encoder.weights.in_memory

    def _plan(self, call: DrawCall, models: CallModels, drawing: Drawing, graph: DrawGraph) -> Plan:
        acting = [m for m, option in zip(models.controls, call.control) if option.strength]
        request, upscale = PlanRequest(steps=drawing.steps, cfg=drawing.cfg), drawing.upscale
        if graph.latent is not None:
            node, api = graph.latent.node, parse_graph(graph.api)
            request = plan_request(api, node, models.bundle.model, acting)
        prompt = drawing.enhance.text if drawing.enhance else drawing.prompt
        prompts = (prompt or drawing.prompt, drawing.negative) if call.prompt else ()
        request = replace(request, memory=call.memory, once=self.once, prompts=prompts)
        enhancing = _enhancing(call, drawing, models)
        if upscale is None or not upscale.strength:
            return plan(models.bundle, request, enhancing)
        tiles = tiles_for(models.bundle.model, upscale.size)
        own = tile_request(tiles, upscale.strength, drawing.steps, drawing.cfg)
        own = replace(own, memory=call.memory, once=self.once, prompts=prompts)
        if graph.latent is None:
            return plan(models.bundle, own, enhancing)
        return plan(models.bundle, request, enhancing).then(plan(models.bundle, own))

    def _announce(self, plan: Plan) -> None:
        if self.once:
            log.info("%s", plan.sentence())

    def _values(
        self,
        call: DrawCall,
        api: ApiGraph,
        refs: Sequence[Ref],
        progress: Progress | None,
        stages: _Stages | None,
        last: bool = False,
    ) -> list[Any]:
        """The values of these outputs; the sentence of a node that failed is raised as it is. last:
        as in `Executor.run`.
        """

        def on_event(event: Event) -> None:
            if event.kind == "executing":
                self._count(event)
            if stages is not None:
                stages(event)

        host = self.host(call, progress)
        links = [Link(*ref) for ref in refs]
        graph = with_defaults(parse_graph(api), self.executor.nodes)
        try:
            return self.executor.values(graph, links, host, on_event, last)
        except NodeError as error:
            raise error.__cause__ or error from None

    def host(self, call: DrawCall, progress: Progress | None) -> HeadlessHost:
        """The host of a call: its device, its memory, its progress."""

        def report(done: int, of: int, preview: Image | None) -> None:
            if preview is not None and self.on_preview is not None:
                self.on_preview(preview)
            if progress is not None:
                progress(done, of)

        return HeadlessHost(
            device=call.device,
            memory=call.memory,
            on_progress=None if progress is None else report,
            previews=self.on_preview is not None,
            saves_previews=False,
            states_plan=False,
            any_path=True,
            interrupt=self.stop,
        )

    def _count(self, event: Event) -> None:
        kind = event.data["class_type"]
        self.models_loaded += kind in _LOADERS
        if kind.startswith("InkstoneEncode"):
            prompts = self.executor.nodes[kind].SKIPS_UNREAD  # the outputs that are prompts
            self.prompts_encoded += len(prompts) - len(event.data["unread"])

    def _decide(
        self, call: DrawCall, models: CallModels, keep: bool = False, stages: _Stages | None = None
    ) -> Drawing:
        """Decides a call once, its enhanced prompt included: what `encode_ahead` decided is taken
        while its pictures are the same. keep: for a later call of this.
        """
        call = replace(call, out=None, save_latent=None)
        paths = [*call.image, *(control.path for control in call.control)]
        paths += ([] if call.mask is None else [call.mask]) + call.region_masks
        key = (repr(call), *map(picture_hash, paths))
        model, drawing = self._decided.pop(key, (None, None))
        if drawing is None or model is None or model() is not models.bundle.model:
            drawing = self._enhanced(call, decide(call, models), models, stages)
        if keep:
            self._decided[key] = (weakref.ref(models.bundle.model), drawing)
            for old in list(self._decided)[:-_MOST_DECIDED]:
                del self._decided[old]
        return drawing

    def _enhanced(
        self, call: DrawCall, drawing: Drawing, models: CallModels, stages: _Stages | None
    ) -> Drawing:
        """The drawing with its prompt enhanced, where the call wants that: its node runs, and the
        graph that draws gets its text.
        """
        graph = graph_of(call, drawing)
        if graph.enhanced is None:
            return drawing
        text, *_ = self._values(call, graph.api, _ahead(graph, graph.enhanced), None, stages)
        return with_enhanced(drawing, text, models)


def graph_of(call: DrawCall, drawing: Drawing) -> DrawGraph:
    """The graph that runs here: files by their paths, all pictures of the batch."""
    return draw_graph(call, drawing, FilePaths(), call.seed, call.batch)


def _part(progress: Progress, k: int, parts: int) -> Progress:
    """The progress of the k-th of some parts of a drawing, as that of the whole."""
    return lambda done, steps: progress(k * steps + done, parts * steps)


def _ahead(graph: DrawGraph, *refs: Ref) -> list[Ref]:
    """Outputs that are computed before the drawing, and the models, which a run would else drop and
    the next one load, adapt and describe again.
    """
    return [*refs, *graph.models.present()]


def _enhancing(call: DrawCall, drawing: Drawing, models: CallModels) -> PlannedAnswer | None:
    """The answer that the prompt is; None where it is known."""
    if drawing.enhance is None or drawing.enhance.text:
        return None
    shown = [drawing.traits[path].size for path in call.image if drawing.enhance.pictures]
    request = EnhanceRequest(
        prompt=drawing.prompt,
        pictures=[torch.empty(height, width, 3, device="meta") for width, height in shown],
        instructions=drawing.enhance.instructions,
    )
    return planned(models.text_encoder, request)


def _models(refs: ModelRefs, values: list[Any]) -> CallModels:
    loaded: dict[Ref | None, Any] = dict(zip(refs.present(), values))
    bundle = Bundle(loaded[refs.model], loaded.get(refs.text_encoder), loaded.get(refs.vae))
    return CallModels(bundle, tuple(loaded[ref] for ref in refs.controls))
