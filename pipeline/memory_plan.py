"""The memory plan of a draw, from file headers alone, before any weight is loaded.

It asks the same opened models and the same `place` that the run itself asks, so the plan is what
the run does. The stages follow each other: vision tower (edits), text encoder, MMDiT, VAE; where
they do not all fit at once, those that are done leave before the next enters, as
loaders/memory/residency.py does it. Modulation weights are never resident: they are read into a
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ..kernels.memory import available_ram, process_bytes
from ..kernels.modulation import table_bytes
from ..kernels.vae_memory import plan_rows
from ..kernels.vision import activation_bytes
from ..loaders.arch.family import Preset
from ..loaders.lora.adapters import copied_bytes
from ..loaders.memory.residency import Placement, Residency, place
from ..loaders.models.bundle import Bundle
from ..loaders.models.control import ControlModel
from ..loaders.models.vision import VisionModel
from ..loaders.models.weight_file import parameter_bytes
from ..sampling.geometry import LATENT, check_canvas, encoder_sizes
from ..sampling.request import USUAL_LAYERS, Control, Request
from ..sampling.sampler import working_bytes
from .usual_settings import usual_settings

_PROMPT = 64  # tokens that a prompt and its template's head are assumed to have


@dataclass(frozen=True)
class PlanRequest:
    """The draw to plan; None = the model's own preset, and the memory that is free."""

    size: tuple[int, int] | None = None
    steps: int | None = None
    batch: int = 1
    memory: int | None = None
    once: bool = False  # a single draw: the text encoder leaves in any case
    pictures: int = 0  # of an edit, each assumed to be as large as the canvas
    controls: Sequence[ControlModel] = ()  # one for each control; the same may come twice
    layers: int = 0  # of a model that draws layers; 0 = the usual number


@dataclass(frozen=True)
class Plan:
    """Bytes of each part, where the weights are, and the peak."""

    runtime: int  # Python, torch and this program, LoRA files as they were read
    vision_tower: int  # 0 without an edit
    text_encoder: int
    diffusion_model: int  # as placed
    modulation_in_file: int
    modulation_table: int
    lora_branches: int  # of the MMDiT, in addition to the files
    vae: int
    activations: int
    peak: int
    budget: int
    formats: str
    text_encoder_placed: str
    diffusion_model_placed: str
    together: bool  # text encoder and MMDiT are resident at the same time
    controls: int = 0  # whole, in addition to the MMDiT

    def sentence(self) -> str:
        """One line for people."""
        g = {k: f"{v / 1e9:.2f} GB" for k, v in asdict(self).items() if type(v) is int}
        tower = f"vision tower {g['vision_tower']}, " if self.vision_tower else ""
        loras = f"LoRA branches {g['lora_branches']}, " if self.lora_branches else ""
        loras += f"controls {g['controls']}, " if self.controls else ""
        if self.together:
            verdict = "all resident"
        else:
            verdict = (
                f"the text encoder ({self.text_encoder_placed}) is unloaded before the MMDiT "
                f"({self.diffusion_model_placed}) is loaded"
            )
        return (
            f"plan: {tower}text encoder {g['text_encoder']}, MMDiT {self.formats} "
            f"{g['diffusion_model']} (+ {g['modulation_in_file']} modulation read from the file "
            f"into a table of {g['modulation_table']}), {loras}VAE {g['vae']}, activations "
            f"{g['activations']}, program {g['runtime']}: at most {g['peak']} of {g['budget']}: "
            f"{verdict}"
        )

    def facts(self) -> dict[str, object]:
        """The content of --json."""
        return asdict(self) | {"sentence": self.sentence()}


@dataclass(frozen=True)
class PlanStage:
    """A model at work. sizes: see `Residency.sizes`."""

    sizes: tuple[int, Sequence[int]]
    working: int  # bytes of its activations
    leaves: bool = False  # when its work is done, whether there is room or not


def follow(stages: Sequence[PlanStage], room: int, last: int) -> tuple[list[Placement], int, bool]:
    """(placement of each, peak bytes, whether all stay), as `settle` does it: the first to work
    leaves first. last: working bytes of the step after all stages (the VAE).
    """
    resident: list[int] = []
    placements: list[Placement] = []
    peak, stay = 0, True
    for stage in stages:
        free = room - stage.working
        while resident and stage.sizes[0] + sum(stage.sizes[1]) + sum(resident) > free:
            resident.pop(0)
            stay = False
        placements.append(place(*stage.sizes, free - sum(resident)))
        resident.append(placements[-1].nbytes)
        peak = max(peak, sum(resident) + stage.working)
        if stage.leaves:
            resident.pop()
            stay = False
    return placements, max(peak, sum(resident) + last), stay


@dataclass(frozen=True)
class _Draw:
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
        _, (width, height) = encoder_sizes(*self.size, edit.area)
        return width * height // self.tower.network.config.patch**2

    @property
    def steps(self) -> int:
        return self.request.steps or self.usual.steps

    @property
    def usual(self) -> Preset:
        """The settings that the request leaves to the model."""
        model, request = self.models.model, self.request
        return usual_settings(model, request.pictures, asked=request.steps is not None).preset

    def table(self) -> int:
        """Bytes of the modulation table."""
        model = self.models.model
        c, levels = model.network.config, self.steps + model.apart
        return table_bytes(c.layers, c.width, levels, model.dtype)

    def drawing(self) -> int:
        """Bytes of activations, of the table and of references while the MMDiT works: the same
        function that the run calls, with tensors of the same shapes.
        """
        check_canvas(*self.size)
        model, request = self.models.model, self.request
        width, height = self.size
        picture = torch.empty(1, 16, 1, height // LATENT, width // LATENT, device="meta")
        layers = (request.layers or USUAL_LAYERS) if model.layered else 0
        draw = Request(
            width=width,
            height=height,
            sigmas=torch.empty(self.steps + 1, device="meta"),
            batch=request.batch,
            layers=layers,
            references=(picture,) * max(request.pictures, bool(layers)),
            controls=tuple(Control(branch, picture) for branch in request.controls),
        )
        text = torch.empty(1, _PROMPT, model.network.config.joint, device="meta")
        texts = {"positive": text} | ({"negative": text} if self.usual.cfg > 1 else {})
        return working_bytes(model, draw, texts)

    def before_drawing(self) -> list[PlanStage]:
        """The stages of the vision tower and the text encoder."""
        stages, rows = [], 0
        if self.tower is not None:
            c = self.tower.network.config
            working = activation_bytes(c, self.patches, self.tower.dtype)
            stages.append(PlanStage(self.tower.weights.sizes, working))
            rows = self.request.pictures * self.patches // c.merge**2
        text = self.models.text_encoder
        if text is not None:
            working = text.working_bytes(_PROMPT + rows)
            stages.append(PlanStage(text.weights.sizes, working, self.request.once))
        return stages


def plan(models: Bundle, request: PlanRequest = PlanRequest()) -> Plan:
    """Plans from headers: the models are opened and may be waiting. A text encoder or VAE that is
    None is left out of the plan.
    """
    text, model, vae = models.text_encoder, models.model, models.vae
    size = request.size or model.family.preset.size
    draw = _Draw(models, request, size, _tower(models) if request.pictures else None)
    reserved = sum(m.weights.reserved for m in (draw.tower, text, model) if m is not None)
    vae_bytes = parameter_bytes(vae.network) if vae else 0
    runtime = max(0, process_bytes() - reserved - vae_bytes)
    on_cpu = model.device.type == "cpu"
    own = runtime + reserved + vae_bytes if on_cpu else 0
    budget = request.memory or _room(model.device) + own
    decode = plan_rows(vae.network.config, size[1], size[0], vae.dtype, budget)[1] if vae else 0
    fixed = vae_bytes + (runtime if on_cpu else 0)
    table, drawing = draw.table(), draw.drawing()
    branches = copied_bytes(model.adapters, model.device, model.dtype)
    controls = sum(weights.nbytes for weights in _distinct(request.controls))
    stages = [*draw.before_drawing(), PlanStage(model.weights.sizes, drawing + branches + controls)]
    placements, peak, stay = follow(stages, budget - fixed, decode)
    text_placement = placements[-2] if text else Placement(0, 0, 0)
    return Plan(
        runtime=runtime,
        vision_tower=placements[0].nbytes if draw.tower else 0,
        text_encoder=text_placement.nbytes,
        diffusion_model=placements[-1].nbytes,
        modulation_in_file=model.modulation_bytes,
        modulation_table=table,
        lora_branches=branches,
        vae=vae_bytes,
        activations=max(drawing - table, decode),
        peak=fixed + peak,
        budget=budget,
        formats=model.weights_format,
        text_encoder_placed=text_placement.words(),
        diffusion_model_placed=placements[-1].words(),
        together=stay,
        controls=controls,
    )


def _distinct(controls: Sequence[ControlModel]) -> list[Residency]:
    """The weights of controls, of each model once."""
    return list({id(control): control.weights for control in controls}.values())


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return available_ram()


def _tower(models: Bundle) -> VisionModel | None:
    """The tower that encodes the pictures of an edit; raises where it is missing."""
    text, edit = models.text_encoder, models.model.edit
    if text is None or text.vision is None or edit is None or not edit.sees:
        return None
    return text.vision.open()
