"""In-context control (DiffSynth-Studio's union LoRA): the map is appended to the target as clean
tokens at frame 1, and a LoRA on the diffusion model has learned to read it.

No second network runs: the sequence is twice as long instead. Its prompts begin with
`Context_Control. `. The file is a LoRA like any other, and no tensor names its purpose: it is
recognized because it reaches the modulation of the blocks, as the published one does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
    """The loaded file: its LoRA."""

    lora: Lora

    masked: ClassVar[bool] = False  # takes no mask

    @property
    def path(self) -> Path:
        """The file."""
        return self.lora.path


def load_any_control(path: str | Path, options: LoadOptions) -> ControlModel | InContextModel:
    """Loads a ControlNet or in-context file, or a folder with one."""
    from ..loaders.models.control import ControlModel, load_control

    control = load_control(path, options)
    return control if isinstance(control, ControlModel) else InContextModel(control)


@dataclass(frozen=True, eq=False)
class InContext:
    """A map on the canvas: raw latent [n,16,1,h,w], n = 1 or the batch; strength: of the LoRA."""

    model: InContextModel
    latent: Tensor
    strength: float


def apply_in_context_loras(
    model: DiffusionModel, controls: Sequence[Control | InContext]
) -> tuple[DiffusionModel, tuple[Control, ...], Context]:
    """The model with the LoRAs of in-context controls, the other controls, and the maps that are
    appended to the target. Called by denoise_with_controls (denoise.py).
    """
    from ..loaders.lora.adapters import Adapter

    maps = [c for c in controls if isinstance(c, InContext) and c.strength != 0]
    others = tuple(c for c in controls if isinstance(c, Control))
    by_path: dict[Path, InContext] = {}
    for one in maps:
        first = by_path.setdefault(one.model.path, one)
        if first.strength != one.strength:
            raise InkstoneError(
                f"The in-context LoRA {one.model.path.name} got the strengths "
                f"{one.strength:g} and {first.strength:g}: it is one LoRA on the model and has one "
                "strength. Set the same strength for all its maps."
            )
    present = {fitted.adapter.lora.path for fitted in model.adapters}
    adapters = [Adapter(c.model.lora, c.strength) for p, c in by_path.items() if p not in present]
    for path in by_path.keys() & present:
        log.info("the in-context LoRA %s is on the model already: that strength is used", path.name)
    adapted = model.with_loras(adapters) if adapters else model
    return adapted, others, tuple(c.latent for c in maps)


def with_prefix(prompt: str) -> str:
    """The prompt with the prefix that such a LoRA was trained on."""
    return prompt if prompt.startswith(PREFIX.strip()) else PREFIX + prompt


def check_prompt(prompt: str | None, name: str) -> None:
    """Raises if a prompt lacks the prefix; logs it for None, a prompt that another node encoded."""
    if prompt is None:
        log.info("control %s: the prompt should begin with %r", name, PREFIX)
    elif prompt != with_prefix(prompt):
        raise InkstoneError(
            f"The control {name} is an in-context LoRA, trained on prompts that begin with "
            f'"{PREFIX}". Put that in front of the prompt.'
        )
