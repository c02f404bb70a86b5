"""The stages of a draw as a memory plan sees them: which weights work when, and their activations.

Activations come from the functions that the run itself asks, with tensors of the same shapes on the
meta device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..loaders.arch.family import Preset
from ..loaders.lora.adapters import Adapter, copied_bytes, fit
from ..loaders.lora.file import Lora
from ..loaders.memory.placement import Occupant, Placement, PlannedMemory, PlannedWeights
from ..loaders.memory.residency import Residency
from ..loaders.models.bundle import Bundle
from ..loaders.models.control import ControlModel
from ..loaders.models.vision import VisionModel
from ..sampling.geometry import check_canvas
from ..sampling.regions import Region, Regional
from ..sampling.request import USUAL_LAYERS, Control, Request
from ..sampling.run_memory import (
    kept_on_device,
    passes_of,
    passes_words,
    together_bytes,
    working_bytes,
)
from ..sampling.schedule import tail
from .usual_settings import usual_settings

_PROMPT = 64  # tokens that an unknown prompt with its template's head is assumed to have


@dataclass(frozen=True)
class PlanRequest:
    """The draw to plan; None = the model's own preset, and the memory that it may use."""

    size: tuple[int, int] | None = None
    steps: int | None = None
    batch: int = 1
    memory: int | None = None
    once: bool = False  # a single draw: the text encoder leaves in any case
    pictures: int = 0  # of an edit, each assumed to be as large as the canvas
    controls: Sequence[ControlModel] = ()  # one for each control; the same may come twice
    layers: int = 0  # of a model that draws layers; 0 = the usual number
    cfg: float | None = None
    strength: float = 1.0  # the fraction of the steps that runs
    regions: int = 0  # prompts of parts of the picture
    prompts: Sequence[str] = ()  # the prompt and the negative one; () = not known
    in_context: Sequence[Lora] = ()  # of in-context controls, one for each map
    tiles: int = 0  # of this size, one at a time, of a picture that is enlarged; 0 = one picture


@dataclass(frozen=True)
class PlanStage:
    """A network at work, with the controls that run in the same steps."""

    weights: Occupant
    working: int  # bytes of its activations
    controls: Sequence[Occupant] = ()
    leaves: bool = False  # when its work is done, whether there is room or not
    keeps: int = 0  # bytes of `working` that stay when its work is done
    together: int = 0  # bytes where its passes go through each layer together; 0 = they do not

    @property
    def least(self) -> int:
        """The least bytes in which it runs."""
        return self.working + sum(one.least for one in (self.weights, *self.controls))


@dataclass(frozen=True)
class PlannedRun:
    """The memory of a device while stages follow each other."""

    memory: PlannedMemory
    planned: Mapping[Occupant, PlannedWeights]
    peak: int  # bytes of weights and activations
    mine: Sequence[Occupant]  # the weights that work, in order

    def placement(self, weights: Occupant) -> Placement:
        """Where these weights are when they work; of several runs the tightest."""
        return self.memory.placements[self.planned[weights]]

    @property
    def together(self) -> bool:
        """Nothing leaves that worked, so all of it is in memory at the end."""
        return not any(unloading.worked for unloading in self.memory.unloadings)


def follow(
    stages: Sequence[PlanStage], room: int, last: int, present: Sequence[Occupant] = ()
) -> PlannedRun:
    """What happens in these stages, as `Residency.settle` does it. room: bytes for weights and
    activations; present: all that is in memory before; last: working bytes of the step after all
    stages (the VAE).
    """
    team = dict.fromkeys(one for stage in stages for one in (*stage.controls, stage.weights))
    planned = {one: PlannedWeights.of(one) for one in dict.fromkeys((*present, *team))}
    memory = PlannedMemory(room, [planned[one] for one in present])
    for stage in stages:
        weights = planned[stage.weights]
        controls = [planned[one] for one in stage.controls]
        memory.work(weights, controls, stage.working, stage.keeps, stage.together)
        if stage.leaves:
            memory.leave(weights)
    return PlannedRun(memory, planned, max(memory.peak, memory.held + last), list(team))


@dataclass(frozen=True)
class PlannedDraw:
    """A request with its models and sizes filled in."""

    models: Bundle
    request: PlanRequest
    size: tuple[int, int]
    tower: VisionModel | None  # of an edit whose pictures it encodes

    @property
    def patches(self) -> int:
        """Patches of one picture in the vision tower."""
        edit = self.models.model.edit
        if self.tower is None or edit is None:
            return 0
        _, (width, height) = edit.sizes(*self.size, edit.area, self.tower.sight)
        return width * height // self.tower.network.config.patch**2

    @property
    def rows(self) -> int:
        """Rows of all pictures in the prompt."""
        if self.tower is None:
            return 0
        return self.request.pictures * self.patches // self.tower.network.config.merge**2

    @property
    def steps(self) -> int:
        """Those that run."""
        levels = torch.empty((self.request.steps or self.usual.steps) + 1, device="meta")
        return len(tail(levels, self.request.strength)) - 1

    @property
    def cfg(self) -> float:
        return self.usual.cfg if self.request.cfg is None else self.request.cfg

    @property
    def usual(self) -> Preset:
        """The settings that the request leaves to the model."""
        model, request = self.models.model, self.request
        asked = request.steps is not None or request.cfg is not None
        return usual_settings(model, request.pictures, asked=asked).preset

    def table(self) -> int:
        """Bytes of the modulation table."""
        model = self.models.model
        return model.network.table_bytes(self.steps + model.apart, model.dtype)

    def lora_copies(self) -> int:
        """Bytes of LoRA branches of the MMDiT in addition to the files."""
        model, loras = self.models.model, dict.fromkeys(self.request.in_context)
        layout = model.architecture.layout(model.network.config, model.layered)
        present = {fitted.adapter.lora.path for fitted in model.adapters}
        more = [fit(Adapter(x), "model", layout) for x in loras if x.path not in present]
        return copied_bytes((*model.adapters, *more), model.device, model.dtype)

    def drawing(self) -> int:
        """Bytes of activations, of the table and of references while the MMDiT works: the same
        function that the run calls, with tensors of the same shapes.
        """
        return working_bytes(self.models.model, *self._run())

    def together(self) -> int:
        """Those bytes where all passes of a step go through each layer together; 0 = never."""
        return together_bytes(self.models.model, *self._run())

    def passes(self, drawing: int) -> str:
        """How the forwards of a step use packed weights. drawing: bytes of activations that were
        chosen, see `PlannedMemory.chosen`."""
        together = self.together()
        if not together:
            return ""
        return passes_words(passes_of(self.models.model, *self._run()), drawing == together)

    def keeps(self) -> int:
        """Those of them that stay in memory when its work is done."""
        return kept_on_device(self.models.model, *self._run())

    def _run(self) -> tuple[Request, dict[str, torch.Tensor]]:
        """The run that is planned, and its prompts."""
        check_canvas(*self.size, self.models.model.latents.step)
        model, request = self.models.model, self.request
        width, height = self.size
        picture = torch.empty(1, *model.latents.shape(width, height), device="meta")
        layers = (request.layers or USUAL_LAYERS) if model.layered else 0
        draw = Request(
            width=width,
            height=height,
            sigmas=torch.empty(self.steps + 1, device="meta"),
            batch=request.batch,
            layers=layers,
            references=(picture,) * max(request.pictures, bool(layers)),
            controls=tuple(Control(branch, picture) for branch in request.controls),
            context=(picture,) * len(request.in_context),
            regional=self._regional(),
        )
        texts = {
            half: torch.empty(1, tokens, model.network.config.joint, device="meta")
            for half, (_, tokens) in zip(("positive", "negative"), self.tokens())
        }
        return draw, texts

    def _regional(self) -> Regional | None:
        """Regions with prompts of the usual length."""
        if not self.request.regions:
            return None
        joint = self.models.model.network.config.joint
        states = torch.empty(1, _PROMPT + self.kept_rows, joint, device="meta")
        region = Region(states, torch.empty(0, dtype=torch.bool, device="meta"))
        return Regional((region,) * self.request.regions)

    def tokens(self) -> list[tuple[int, int]]:
        """(tokens with the template's head, rows of its states) of each prompt that is read."""
        halves, text = (2 if self.cfg > 1 else 1), self.models.text_encoder
        if text is None or not self.request.prompts:
            return [(_PROMPT + self.rows, _PROMPT + self.kept_rows)] * halves
        edit = self.models.model.edit if self.tower is not None else None
        lengths = [
            text.prompt_tokens(prompt, edit, self.request.pictures)
            for prompt in self.request.prompts[:halves]
        ]
        added = max(0, self.rows - self.request.pictures)  # each has one mark in the text
        kept = added if self.kept_rows else 0
        return [(whole + added, states + kept) for whole, states in lengths]

    @property
    def kept_rows(self) -> int:
        """Rows of pictures that stay among the states: none where latents take their places."""
        edit = self.models.model.edit
        return 0 if edit is not None and edit.shares_copy else self.rows

    def stages(self) -> list[PlanStage]:
        """The vision tower and the text encoder, then the MMDiT."""
        stages: list[PlanStage] = []
        text, model = self.models.text_encoder, self.models.model
        if self.tower is not None:
            working = self.tower.network.activation_bytes(self.patches, self.tower.dtype)
            stages.append(PlanStage(self.tower.weights, working))
        seen = self.tower.row_bytes(self.rows) if self.tower is not None else 0
        prompts = self.tokens() if text is not None else []
        for number, (whole, _) in enumerate(prompts, 1):
            assert text is not None
            leaves = self.request.once and number == len(prompts)
            working = text.working_bytes(whole) + seen
            stages.append(PlanStage(text.weights, working, leaves=leaves))
        copies, together = self.lora_copies(), self.together()
        stage = PlanStage(
            model.weights,
            self.drawing() + copies,
            distinct(self.request.controls),
            keeps=self.keeps(),
            together=together + copies if together else 0,
        )
        return [*stages, stage]


def distinct(controls: Sequence[ControlModel]) -> list[Residency]:
    """The weights of controls, of each model once."""
    return list({id(control): control.weights for control in controls}.values())
