"""The plan of a draw: what will be in memory, from file headers alone, before anything is loaded.

It asks the same opened models and the same `place` that the run itself asks, so it is what the run
does. The stages follow each other: text encoder, MMDiT, VAE; where all of them do not fit at once,
the text encoder leaves before the MMDiT enters. Modulation weights are never resident: they are
read into a table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..kernels.memory import available_ram, process_bytes
from .residency import place

if TYPE_CHECKING:
    import torch

    from .models import Bundle

_PROMPT = 64  # tokens of a prompt and of its template's head, unless told


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn; None = the model's own preset, and what is free."""

    size: tuple[int, int] | None = None
    steps: int | None = None
    batch: int = 1
    memory: int | None = None
    once: bool = False  # one draw and no more: the text encoder leaves in any case


@dataclass(frozen=True)
class Plan:
    """Bytes of each part, where the weights are, and the most that is held at once."""

    runtime: int  # Python, torch and this program
    text_encoder: int
    diffusion_model: int  # as placed
    modulation_in_file: int
    modulation_table: int
    vae: int
    activations: int
    peak: int
    budget: int
    formats: str
    text_encoder_placed: str
    diffusion_model_placed: str
    together: bool  # text encoder and MMDiT stay side by side

    def sentence(self) -> str:
        """One line for people."""
        g = {k: f"{v / 1e9:.2f} GB" for k, v in asdict(self).items() if type(v) is int}
        if self.together:
            verdict = "all resident"
        else:
            verdict = (
                f"the text encoder ({self.text_encoder_placed}) leaves before the MMDiT "
                f"({self.diffusion_model_placed}) enters"
            )
        return (
            f"plan: text encoder {g['text_encoder']}, MMDiT {self.formats} "
            f"{g['diffusion_model']} (+ {g['modulation_in_file']} modulation read from the file "
            f"into a table of {g['modulation_table']}), VAE {g['vae']}, activations "
            f"{g['activations']}, program {g['runtime']}: at most {g['peak']} of {g['budget']}: "
            f"{verdict}"
        )

    def facts(self) -> dict:
        """For --json."""
        return asdict(self) | {"sentence": self.sentence()}


def plan(models: Bundle, call: Wanted = Wanted()) -> Plan:
    """Headers only: the models are opened and may be waiting. A text encoder or VAE that is None is
    left out of the plan.
    """
    from ..kernels.vae_rows import plan_rows
    from .bundle import parameter_bytes

    text, model, vae = models.text_encoder, models.model, models.vae
    size = call.size or model.family.preset.size
    parts = [m for m in (text, model) if m is not None]
    held = sum(m.weights.held for m in parts)
    vae_bytes = parameter_bytes(vae.network) if vae else 0
    runtime = max(0, process_bytes() - held - vae_bytes)
    budget = call.memory or _room(model.device) + (
        runtime + held + vae_bytes if model.device.type == "cpu" else 0
    )
    work = _working(call, models, size)
    decode = plan_rows(vae.network.config, size[1], size[0], vae.dtype, budget)[1] if vae else 0
    fixed = vae_bytes + (runtime if model.device.type == "cpu" else 0)
    room = budget - fixed
    sizes = [m.weights.sizes if m else (0, []) for m in (text, model)]
    fits = sum(m.weights.nbytes for m in parts) + max(work) <= room
    together = fits and not (call.once and text)
    placed = [place(*s, None if together else room - need) for s, need in zip(sizes, work)]
    stages = [sum(p.nbytes for p in placed) if together else p.nbytes for p in placed]
    table = _table(call, models)
    most = max(stages[0] + work[0], stages[1] + work[1], stages[1] + decode)
    return Plan(
        runtime, placed[0].nbytes, placed[1].nbytes, model.modulation_bytes, table, vae_bytes,
        max(work[1] - table, decode), fixed + most, budget, model.weights_format,
        placed[0].words(), placed[1].words(), together,
    )  # fmt: skip


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return available_ram()


def _table(call: Wanted, models: Bundle) -> int:
    from ..kernels.modulation import table_bytes

    c, model = models.model.network.config, models.model
    return table_bytes(c.layers, c.width, call.steps or model.family.preset.steps, model.dtype)


def _working(call: Wanted, models: Bundle, size: tuple[int, int]) -> tuple[int, int]:
    """Bytes of activations (and the table) while the text encoder and while the MMDiT works."""
    from ..kernels.mmdit import activation_bytes
    from ..sampling.geometry import check_canvas, token_grid

    check_canvas(*size)
    _, rows, columns = token_grid(*size)
    model = models.model
    draw = activation_bytes(model.network.config, rows * columns + _PROMPT, call.batch, model.dtype)
    text = models.text_encoder
    return text.working_bytes(_PROMPT) if text else 0, draw + _table(call, models)
