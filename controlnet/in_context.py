"""The in-context control (DiffSynth-Studio's union LoRA): the map stands beside the picture that is
drawn, as clean tokens at frame 1, and a LoRA on the diffusion model has learned to read it.

Nothing runs beside the model: the sequence is twice as long instead. Its prompts begin with
`Context_Control. `. The file is a LoRA like any other, and no tensor says what it is for: what can
be told is that it reaches the modulation of the blocks, which the published one does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InkstoneError
from ..sampling.request import Context, Control

if TYPE_CHECKING:
    from ..loaders.lora.file import Lora
    from ..loaders.models.control import ControlModel
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..loaders.models.weight_file import LoadOptions

log = logging.getLogger(__name__)

PREFIX = "Context_Control. "


@dataclass(frozen=True, eq=False)
class InContextModel:
    """What a control loader gives for such a file."""

    lora: Lora

    masked = False  # takes no mask

    @property
    def path(self) -> Path:
        """The file."""
        return self.lora.path


def opened(path: str | Path, want: LoadOptions) -> ControlModel | InContextModel:
    """Any control file, or a folder with one."""
    from ..loaders.models.control import ControlModel, load_control

    made = load_control(path, want)
    return made if isinstance(made, ControlModel) else InContextModel(made)


@dataclass(frozen=True, eq=False)
class InContext:
    """A map on the canvas: raw latent [n,16,1,h,w], n = 1 or the batch; strength: of the LoRA."""

    model: InContextModel
    latent: Tensor
    strength: float


def apply_in_context_loras(
    model: DiffusionModel, controls: Sequence[Control | InContext]
) -> tuple[DiffusionModel, tuple[Control, ...], Context]:
    """The model with the LoRAs of in-context controls, the other controls, and the maps that stand
    beside the picture.
    """
    from ..loaders.lora.adapters import Adapter

    found = [c for c in controls if isinstance(c, InContext) and c.strength != 0]
    others = tuple(c for c in controls if isinstance(c, Control))
    asked: dict[Path, InContext] = {}
    for one in found:
        first = asked.setdefault(one.model.path, one)
        if first.strength != one.strength:
            raise InkstoneError(
                f"The in-context LoRA {one.model.path.name} is asked with strengths "
                f"{one.strength:g} and {first.strength:g}: it is one LoRA on the model and has one "
                "strength. Give all its maps the same."
            )
    held = {fitted.adapter.lora.path for fitted in model.adapters}
    adapters = [Adapter(c.model.lora, c.strength) for p, c in asked.items() if p not in held]
    for path in asked.keys() & held:
        log.info(
            "the in-context LoRA %s is on the model already: its own strength counts", path.name
        )
    dressed = model.with_loras(adapters) if adapters else model
    return dressed, others, tuple(c.latent for c in found)


def prefixed(prompt: str) -> str:
    """A prompt as such a LoRA has learned it."""
    return prompt if prompt.startswith(PREFIX.strip()) else PREFIX + prompt


def check_prompt(prompt: str | None, name: str) -> None:
    """Raises where a prompt lacks the beginning; None = it was encoded elsewhere, which is said."""
    if prompt is None:
        log.info("control %s: the prompt should begin with %r", name, PREFIX)
    elif prompt != prefixed(prompt):
        raise InkstoneError(
            f"The control {name} is an in-context LoRA, trained on prompts that begin with "
            f'"{PREFIX}". Put that in front of the prompt.'
        )
