"""The memory plan of a draw, from file headers alone, before any weight is loaded.

It asks the same opened models and the same decision (loaders/memory/placement.py) that the run
itself asks, from the memory as it is now, so the plan is what the run does. The stages follow each
other: vision tower (edits), text encoder, MMDiT with its controls, VAE; where they do not all fit
at once, those that are done leave before the next enters. Modulation weights are never resident:
they are read into a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..errors import InkstoneError
from ..kernels.memory import limit_in_the_way, process_bytes, used_bytes
from ..kernels.vae_memory import plan_rows
from ..loaders.memory.placement import (
    NotEnoughMemory,
    Placement,
    PlannedMemory,
    PlannedWeights,
    place,
    what_helps,
)
from ..loaders.memory.residency import Residency, residencies, room
from ..loaders.models.bundle import Bundle
from ..loaders.models.vision import VisionModel
from ..loaders.models.weight_file import parameter_bytes
from .answer_stages import PlannedAnswer
from .plan_stages import PlannedDraw, PlannedRun, PlanRequest, distinct, follow
from .plan_verdict import verdict

__all__ = ["Plan", "PlanRequest", "plan"]

USUAL = PlanRequest()
_GROWTH = 50_000_000, 0.05  # of the program while it draws: bytes, and a fraction of the whole


@dataclass(frozen=True)
class Plan:
    """Bytes of each part, where the weights are, and the peak."""

    width: int
    height: int
    steps: int
    cfg: float
    runtime: int  # Python, torch and this program, LoRA files as they were read
    vision_tower: int  # as placed; 0 without an edit
    text_encoder: int  # as placed
    diffusion_model: int  # as placed
    modulation_in_file: int
    modulation_table: int
    lora_branches: int  # of the MMDiT, in addition to the files
    vae: int
    activations: int
    peak: int
    budget: int
    least: int  # the least memory in which the draw runs
    formats: str
    vision_tower_placed: str
    text_encoder_placed: str
    diffusion_model_placed: str
    controls_placed: str
    diffusion_model_alone: str  # where it would be without controls and LoRAs
    together: bool  # text encoder and MMDiT are resident at the same time
    verdict: str  # what is resident, what is streamed, what is unloaded
    controls: int = 0  # as placed, in addition to the MMDiT
    passes: str = ""  # how the forwards of a step use packed weights, where there are several
    others: int = 0  # other models that are in memory now
    enhancing: int = 0  # output head and form for single tokens that write the enhanced prompt
    tiles: int = 0  # of this size, of a picture that is enlarged; 0 = one picture
    enlarging: str = ""  # how what is drawn is enlarged

    def then(self, enlarging: Plan) -> Plan:
        """The plan of what is drawn and enlarged. enlarging: of its tiles."""
        return replace(
            self,
            peak=max(self.peak, enlarging.peak),
            least=max(self.least, enlarging.least),
            enlarging=f"enlarged in {enlarging.canvas()}, {enlarging.steps} steps: at most "
            f"{enlarging.peak / 1e9:.2f} GB",
        )

    def canvas(self) -> str:
        """What is drawn at a time."""
        tiles = f"{self.tiles} tile{'s' * (self.tiles > 1)} of " if self.tiles else ""
        return f"{tiles}{self.width}x{self.height}"

    def sentence(self) -> str:
        """One line for people."""
        g = {k: f"{v / 1e9:.2f} GB" for k, v in asdict(self).items() if type(v) is int}
        text = f"text encoder {g['text_encoder']}, " if self.text_encoder else ""
        text += f"output head and its forms {g['enhancing']}, " if self.enhancing else ""
        tower = f"vision tower {g['vision_tower']}, " if self.vision_tower else ""
        loras = f"LoRA branches {g['lora_branches']}, " if self.lora_branches else ""
        loras += f"controls {g['controls']}, " if self.controls else ""
        loras += f"VAE {g['vae']}, " if self.vae else ""
        others = f", other models {g['others']}" if self.others else ""
        passes = f"; {self.passes}" if self.passes else ""
        passes += f"; {self.enlarging}" if self.enlarging else ""
        return (
            f"plan for {self.canvas()}, {self.steps} steps, CFG {self.cfg:g}: "
            f"{tower}{text}diffusion model {self.formats} {g['diffusion_model']} (+ "
            f"{g['modulation_in_file']} modulation read from the file into a table of "
            f"{g['modulation_table']}), {loras}activations {g['activations']}, program "
            f"{g['runtime']}{others}: at most {g['peak']} of {g['budget']}: {self.verdict}"
            f"{passes}"
        )

    def facts(self) -> dict[str, object]:
        """The content of --json."""
        return asdict(self) | {"sentence": self.sentence()}


@dataclass(frozen=True)
class MemoryNow:
    """The memory of the device as it is now."""

    room: int  # for the weights of all models
    present: Sequence[Residency]  # weights that are in memory
    runtime: int  # the process without weights
    fixed: int  # bytes on the device that are no weights of a residency
    budget: int  # bytes that the process may use
    limited: bool = False  # by the limit that it was given, not by what is free
    limit: str = ""  # another limit that leaves less than the machine has free


def plan(
    models: Bundle, request: PlanRequest = USUAL, enhancing: PlannedAnswer | None = None
) -> Plan:
    """Plans from headers: the models are opened and may be waiting. A text encoder or VAE that is
    None is left out of the plan. enhancing: the answer that is the prompt, written first. Raises
    InkstoneError where the draw does not fit.
    """
    model, vae = models.model, models.vae
    size = request.size or model.family.preset.size
    draw = PlannedDraw(models, request, size, _tower(models) if request.pictures else None)
    now = _memory(models, request.memory or model.budget)
    stages, decode = draw.stages(), 0
    if vae is not None:
        rows = plan_rows(
            vae.network.config, size[1], size[0], vae.dtype, now.budget, vae.device.type
        )
        decode = rows.bytes
    answer = enhancing.stages() if enhancing else []
    least = now.fixed + max(stage.least for stage in (*answer, *stages))
    forms = enhancing.fitting_forms(now.room, now.present) if enhancing else []
    try:
        answer = enhancing.stages(forms) if enhancing else []
        run = follow([*answer, *stages], now.room, decode, now.present)
    except NotEnoughMemory as lack:
        raise _too_little(now, least, lack) from None
    writing = sum(weights.nbytes for weights in forms)
    writing += enhancing.head.nbytes if enhancing else 0
    return replace(_plan(draw, now, run, least, decode), enhancing=writing)


def _plan(draw: PlannedDraw, now: MemoryNow, run: PlannedRun, least: int, decode: int) -> Plan:
    models, table, drawing = draw.models, draw.table(), run.memory.working - draw.lora_copies()
    text, model, vae = models.text_encoder, models.model, models.vae
    nothing = Placement(0, 0, 0)
    tower = run.placement(draw.tower.weights) if draw.tower else nothing
    prompts = run.placement(text.weights) if text else nothing
    main = run.placement(model.weights)
    controls = [run.placement(weights) for weights in distinct(draw.request.controls)]
    others = [weights for weights in now.present if weights not in run.mine]
    alone = _alone(draw, now.room)
    return Plan(
        width=draw.size[0],
        height=draw.size[1],
        steps=draw.steps,
        cfg=draw.cfg,
        runtime=now.runtime,
        vision_tower=tower.nbytes,
        text_encoder=prompts.nbytes,
        diffusion_model=main.nbytes,
        modulation_in_file=model.modulation_bytes,
        modulation_table=table,
        lora_branches=draw.lora_copies(),
        vae=parameter_bytes(vae.network) if vae else 0,
        activations=max(drawing - table, decode),
        peak=now.fixed + run.peak,
        budget=now.budget,
        least=least,
        formats=model.weights_format,
        vision_tower_placed=tower.words(),
        text_encoder_placed=prompts.words(),
        diffusion_model_placed=main.words(),
        controls_placed=" and ".join(dict.fromkeys(control.words() for control in controls)),
        diffusion_model_alone=alone.words(),
        together=run.together,
        verdict=verdict(run, alone, only=text is None),
        controls=sum(control.nbytes for control in controls),
        passes=draw.passes(drawing),
        others=sum(weights.reserved for weights in others),
        tiles=draw.request.tiles,
    )


def _alone(draw: PlannedDraw, room: int) -> Placement:
    """Where the MMDiT would be with nothing else in memory, and without controls."""
    request, weights = draw.request, draw.models.model.weights
    alone = replace(draw, request=replace(request, controls=(), in_context=()))
    copies, together = alone.lora_copies(), alone.together()
    working = PlannedMemory(room, []).chosen(
        PlannedWeights(weights.name, weights.sizes),
        [],
        alone.drawing() + copies,
        together + copies if together else 0,
    )
    return place(*weights.sizes, max(weights.least, room - working))


def _memory(models: Bundle, limit: int | None) -> MemoryNow:
    vae_bytes = parameter_bytes(models.vae.network) if models.vae else 0
    return memory_now(models.model.weights, limit, vae_bytes)


def memory_now(main: Residency, limit: int | None, whole: int = 0) -> MemoryNow:
    """The memory of the device of `main`. limit: bytes for the whole process, None = what is free;
    whole: bytes of weights that have no residency (the VAE's).
    """
    device, free = main.device, main.free
    present = [r for r in residencies() if r.device == device and r.reserved]
    held = sum(weights.in_memory for weights in present)
    fixed = max(whole, used_bytes(device) - held)
    runtime = fixed - whole if device.type == "cpu" else process_bytes()
    usable = room(None, device, held, lambda: free(0, device, ask=False))
    weights = room(limit, device, held, lambda: free(0, device, ask=False))
    return MemoryNow(
        room=weights,
        present=present,
        runtime=runtime,
        fixed=fixed,
        budget=weights + fixed,
        limited=weights < usable,
        limit=limit_in_the_way(device),
    )


def with_growth(least: int) -> int:
    """The least memory, with what the program grows by until it works."""
    return least + max(_GROWTH[0], int(_GROWTH[1] * least))


def _too_little(now: MemoryNow, least: int, lack: NotEnoughMemory) -> InkstoneError:
    """The error where a draw does not fit: how much it needs and what helps."""
    missing = max(lack.missing, least - now.budget)
    enough = with_growth(least)
    advice = what_helps(missing, enough if now.limited else None, now.limit)
    budget = max(now.budget, 0)  # the program alone may need more than the limit
    return InkstoneError(
        f"This drawing needs at least {least / 1e9:.2f} GB even when streamed block by block, of "
        f"which the program takes {now.fixed / 1e9:.2f} GB, and may use {budget / 1e9:.2f} GB. "
        f"{advice}"
    )


def _tower(models: Bundle) -> VisionModel | None:
    """The tower that encodes the pictures of an edit; raises where it is missing."""
    text, edit = models.text_encoder, models.model.edit
    if text is None or text.vision is None or edit is None or not edit.sees:
        return None
    return text.vision.open()
