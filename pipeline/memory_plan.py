"""The plan of a draw: what will be in memory, from file headers alone, before anything is loaded.

It asks the same opened models and the same `place` that the run itself asks, so it is what the run
does. The stages follow each other: vision tower (edits), text encoder, MMDiT, VAE; where all of
them do not fit at once, those that have worked leave before the next enters, as
loaders/memory/residency.py does it. Modulation weights are never resident: they are read into a
table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..kernels.memory import available_ram, process_bytes
from ..loaders.lora.adapters import copied_bytes
from ..loaders.memory.residency import Placement, place

if TYPE_CHECKING:
    import torch

    from ..loaders.models.bundle import Bundle
    from ..loaders.models.control import ControlModel
    from ..loaders.models.vision import VisionModel

_PROMPT = 64  # tokens of a prompt and of its template's head, unless told


@dataclass(frozen=True)
class PlanRequest:
    """What is to be drawn; None = the model's own preset, and what is free."""

    size: tuple[int, int] | None = None
    steps: int | None = None
    batch: int = 1
    memory: int | None = None
    once: bool = False  # one draw and no more: the text encoder leaves in any case
    pictures: int = 0  # of an edit, each taken to be as large as the canvas
    controls: Sequence[ControlModel] = ()  # one for each control; the same may come twice
    layers: int = 0  # of a model that draws layers; 0 = as many as usual


@dataclass(frozen=True)
class Plan:
    """Bytes of each part, where the weights are, and the most that is held at once."""

    runtime: int  # Python, torch and this program, LoRA files as they were read
    vision_tower: int  # 0 where nothing is edited
    text_encoder: int
    diffusion_model: int  # as placed
    modulation_in_file: int
    modulation_table: int
    lora_branches: int  # of the MMDiT, beside what the files hold
    vae: int
    activations: int
    peak: int
    budget: int
    formats: str
    text_encoder_placed: str
    diffusion_model_placed: str
    together: bool  # text encoder and MMDiT stay side by side
    controls: int = 0  # whole, beside the MMDiT

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
                f"the text encoder ({self.text_encoder_placed}) leaves before the MMDiT "
                f"({self.diffusion_model_placed}) enters"
            )
        return (
            f"plan: {tower}text encoder {g['text_encoder']}, MMDiT {self.formats} "
            f"{g['diffusion_model']} (+ {g['modulation_in_file']} modulation read from the file "
            f"into a table of {g['modulation_table']}), {loras}VAE {g['vae']}, activations "
            f"{g['activations']}, program {g['runtime']}: at most {g['peak']} of {g['budget']}: "
            f"{verdict}"
        )

    def facts(self) -> dict:
        """For --json."""
        return asdict(self) | {"sentence": self.sentence()}


@dataclass(frozen=True)
class PlanStage:
    """A model that works, then the next one does. sizes: see `Residency.sizes`."""

    sizes: tuple[int, Sequence[int]]
    working: int  # bytes that its work needs itself
    leaves: bool = False  # once its work is done, whether there is room or not


def follow(stages: Sequence[PlanStage], room: int, last: int) -> tuple[list[Placement], int, bool]:
    """(placement of each, the most that is held at once, whether all stay), as `settle` does it:
    those that worked first leave first. last: working bytes of what has no stage (the VAE).
    """
    held: list[int] = []
    placed, most, stay = [], 0, True
    for stage in stages:
        free = room - stage.working
        while held and stage.sizes[0] + sum(stage.sizes[1]) + sum(held) > free:
            held.pop(0)
            stay = False
        placed.append(place(*stage.sizes, free - sum(held)))
        held.append(placed[-1].nbytes)
        most = max(most, sum(held) + stage.working)
        if stage.leaves:
            held.pop()
            stay = False
    return placed, max(most, sum(held) + last), stay


def plan(models: Bundle, call: PlanRequest = PlanRequest()) -> Plan:
    """Headers only: the models are opened and may be waiting. A text encoder or VAE that is None is
    left out of the plan.
    """
    from ..kernels.vae_memory import plan_rows
    from ..loaders.models.weight_file import parameter_bytes

    text, model, vae = models.text_encoder, models.model, models.vae
    size = call.size or model.family.preset.size
    tower = _tower(models) if call.pictures else None
    held = sum(m.weights.reserved for m in (tower, text, model) if m is not None)
    vae_bytes = parameter_bytes(vae.network) if vae else 0
    runtime = max(0, process_bytes() - held - vae_bytes)
    on_cpu = model.device.type == "cpu"
    budget = call.memory or _room(model.device) + (runtime + held + vae_bytes if on_cpu else 0)
    decode = plan_rows(vae.network.config, size[1], size[0], vae.dtype, budget)[1] if vae else 0
    fixed = vae_bytes + (runtime if on_cpu else 0)
    table, drawing = _table(call, models), _drawing(call, models, size)
    branches = copied_bytes(model.adapters, model.device, model.dtype)
    seen = _patches(tower, model.edit.area, size) if tower else 0
    stages = [_seeing(tower, seen)] if tower else []
    if text:
        rows = call.pictures * seen // tower.network.config.merge**2 if tower else 0
        stages.append(PlanStage(text.weights.sizes, text.working_bytes(_PROMPT + rows), call.once))
    own = {id(c): c.weights for c in call.controls if c.weights is not None}
    controls = sum(weights.nbytes for weights in own.values())
    stages.append(PlanStage(model.weights.sizes, drawing + branches + controls))
    placed, most, stay = follow(stages, budget - fixed, decode)
    none = Placement(0, 0, 0)
    return Plan(
        runtime,
        placed[0].nbytes if tower else 0,
        (placed[-2] if text else none).nbytes,
        placed[-1].nbytes,
        model.modulation_bytes,
        table,
        branches,
        vae_bytes,
        max(drawing - table, decode),
        fixed + most,
        budget,
        model.weights_format,
        (placed[-2] if text else none).words(),
        placed[-1].words(),
        stay,
        controls,
    )


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return available_ram()


def _tower(models: Bundle) -> VisionModel | None:
    """The tower of an edit that sees its pictures; raises the sentence of one that is missing."""
    text, edit = models.text_encoder, models.model.edit
    if text is None or text.vision is None or edit is None or not edit.sees:
        return None
    return text.vision.open()


def _patches(tower: VisionModel, area: int, size: tuple[int, int]) -> int:
    """Patches of one picture as the tower sees it."""
    from ..sampling.geometry import encoder_sizes

    _, (width, height) = encoder_sizes(*size, area)
    return width * height // tower.network.config.patch**2


def _seeing(tower: VisionModel, patches: int) -> PlanStage:
    from ..kernels.vision import activation_bytes

    return PlanStage(
        tower.weights.sizes, activation_bytes(tower.network.config, patches, tower.dtype)
    )


def _rows(call: PlanRequest, models: Bundle) -> int:
    """Noise levels of the table."""
    return (call.steps or models.model.preset(call.pictures).steps) + models.model.apart


def _table(call: PlanRequest, models: Bundle) -> int:
    from ..kernels.modulation import table_bytes

    c, model = models.model.network.config, models.model
    return table_bytes(c.layers, c.width, _rows(call, models), model.dtype)


def _drawing(call: PlanRequest, models: Bundle, size: tuple[int, int]) -> int:
    """Bytes of activations, of the table and of references while the MMDiT works: what the run
    itself asks for, with tensors of the same shapes.
    """
    import torch

    from ..sampling.geometry import LATENT, check_canvas
    from ..sampling.request import USUAL_LAYERS, Control, Request
    from ..sampling.sampler import working_bytes

    check_canvas(*size)
    picture = torch.empty(1, 16, 1, size[1] // LATENT, size[0] // LATENT, device="meta")
    steps = call.steps or models.model.preset(call.pictures).steps
    layers = (call.layers or USUAL_LAYERS) if models.model.layered else 0
    request = Request(
        *size,
        torch.empty(steps + 1, device="meta"),
        batch=call.batch,
        layers=layers,
        references=(picture,) * max(call.pictures, bool(layers)),
        controls=tuple(Control(branch, picture) for branch in call.controls),
    )
    text = torch.empty(1, _PROMPT, models.model.network.config.joint, device="meta")
    guided = models.model.preset(call.pictures).cfg > 1 and models.model.distilled is None
    texts = {"positive": text} | ({"negative": text} if guided else {})
    return working_bytes(models.model, request, texts)
