"""Lines about LoRAs that run, but not as they are meant to. Nothing is changed by them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from ...sampling.schedule import LIGHTNING, Schedule
from .adapters import FittedAdapter

log = logging.getLogger(__name__)


def warn_of_distilled(stack: Sequence[FittedAdapter], own: Schedule, usual: Schedule) -> None:
    """Logs what distilled LoRAs are meant for. It is a hint: nothing is changed by it.

    own: the schedule of the model as loaded; usual: that of its family.
    """
    distilled = [(f.adapter.lora.path.name, f.distilled) for f in stack if f.distilled]
    if not distilled:
        return
    name, last = distilled[-1]
    if own == LIGHTNING != usual:
        log.warning(
            "by its scheduler the model is a merged Lightning one; LoRA %s is distilled too and "
            "not meant for it",
            name,
        )
    if len(distilled) > 1:
        log.warning(
            "%d distilled LoRAs at once (%s): each is meant to be used alone",
            len(distilled),
            ", ".join(name for name, _ in distilled),
        )
    log.info(
        "LoRA %s is %s (%s): meant for %s steps, CFG 1, schedule %s",
        name,
        last.words(),
        last.why,
        last.steps or "4 or 8",
        last.name,
    )


def warn_of_fp8(stack: Sequence[FittedAdapter], weights_format: str) -> None:
    """Warns of a grid pattern: fp8 without scales shifts the weights of a distilled LoRA's base."""
    plain = "float8" in weights_format or re.search(r"fp8 \w+ plain", weights_format)
    if plain and any(f.distilled for f in stack):
        log.warning(
            "a distilled LoRA on unscaled fp8 weights (%s) gives a grid pattern: use a scaled fp8, "
            "GGUF or bf16 file of the model",
            weights_format,
        )
