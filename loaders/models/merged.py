"""Models that a distilled LoRA was merged into: their tensors are those of any other, so only the
folder's scheduler or a name can tell. A hint: it warns and refuses, but sets nothing."""

from __future__ import annotations

import re
from pathlib import Path

from ...sampling.lightning import Distilled
from ...sampling.schedule import LIGHTNING, LIGHTNING_21, TURBO_21, Schedule
from ..arch.family import Family

# as published: svdq-int4_r32-qwen-image-lightningv1.0-4steps.safetensors
_NAME = re.compile(r"(?<![a-z])lightning(?![a-uw-z])")
_STEPS = re.compile(r"(?<![\d.])([1-8])[-_ ]?steps?(?![a-z])")


def merged(path: Path, schedule: Schedule, family: Family) -> Distilled | None:
    """What a merged model was distilled for, by its folder's schedule or its name."""
    own = LIGHTNING_21 if family.turbo == TURBO_21 else LIGHTNING
    if family.schedule == own or family.shipped:
        return None
    name = path.name.lower()
    by_name = _NAME.search(name) is not None
    if schedule != own and not by_name:
        return None
    match = _STEPS.search(name)
    steps = int(match[1]) if match and by_name else None
    why = "by its name" if by_name else "by its folder's scheduler"
    return Distilled(steps, why, own, "this model")
