"""The settings of a run that leaves them to the model: steps, CFG, schedule."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..sampling.schedule import LIGHTNING, Schedule

if TYPE_CHECKING:
    from ..loaders.arch.family import Family, Preset
    from ..loaders.models.diffusion_model import DiffusionModel
    from ..sampling.lightning import Distilled

log = logging.getLogger(__name__)


class UsualSettings(NamedTuple):
    """Settings that belong together."""

    preset: Preset
    schedule: Schedule
    lora: Distilled | None = None  # the LoRA that they are for


def usual_settings(
    model: DiffusionModel, pictures: int = 0, *, asked: bool = False, fast: bool = False
) -> UsualSettings:
    """The settings of the model's card; those for few steps where a Lightning schedule is in its
    folder, where `fast` asks for them, or with a Lightning LoRA.

    A LoRA is recognized by a name or by shapes, so it is only a hint: it counts where nothing is
    `asked` for (no steps, CFG or schedule). pictures: of an edit; 0 = text to image.
    """
    family, lora = model.family, None if asked else model.distilled
    in_folder = model.schedule == LIGHTNING and family.schedule != LIGHTNING
    if lora is None:
        preset = family.fast if fast or in_folder else model.preset(pictures)
        return UsualSettings(preset, model.schedule)
    preset = replace(family.fast, steps=lora.steps or family.fast.steps, cfg=1.0)
    return UsualSettings(preset, lora.schedule, lora)


def largest_usual_size(family: Family, fast: bool = False) -> tuple[int, int]:
    """The largest size that `usual_settings` has for a model of a family; `fast` as there. Which of
    them a model gets is known once its folder and LoRAs are read.
    """
    sizes = [preset.size for preset in ([family.fast] if fast else [family.preset, family.fast])]
    return max(sizes, key=math.prod)


def log_usual_settings(settings: UsualSettings, model: DiffusionModel) -> None:
    """Logs why settings are not those of the model's card."""
    preset, lora = settings.preset, settings.lora
    if lora is not None:
        log.info(
            "a LoRA is %s (%s): defaults are %d steps, CFG 1, schedule %s; steps, CFG or a "
            "schedule of your own bring back the model's",
            lora.words(),
            lora.why,
            preset.steps,
            lora.name,
        )
    elif settings.schedule == LIGHTNING != model.family.schedule:
        log.info(
            "the folder's scheduler is Lightning's: defaults are %d steps, CFG 1", preset.steps
        )
