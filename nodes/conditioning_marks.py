"""The marks that core nodes put on a CONDITIONING, and those that Inkstone Sampler obeys.

Core writes these marks into the dict of an entry, and core's samplers read them. Inkstone Sampler
samples one prompt over the whole canvas and all steps: a mark that asks for anything else is
refused by name, and a mark that nobody here knows gets one line. Marks at values that change
nothing (a range of 0 to 1, a strength of 1, an area of 100 %) pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from ..errors import InkstoneError

log = logging.getLogger(__name__)

_CORE: Final = "or use KSampler with Inkstone to MODEL"


class Mark(NamedTuple):
    """A key of core. neutral: its values that change nothing; remedy: what to do about others."""

    effect: str
    nodes: str
    remedy: str
    neutral: Callable[[object], bool] = lambda value: value is None


def _ones(value: object) -> bool:
    """True for a mask that covers everything in full."""
    return value is None or (hasattr(value, "min") and bool(value.min() >= 1))


def _whole(value: object) -> bool:
    """True for an area of 100 % of the canvas; areas in latent cells may be smaller than it."""
    if value is None:
        return True
    whole = ("percentage", 1.0, 1.0, 0.0, 0.0)
    return isinstance(value, (tuple, list)) and tuple(value) == whole


def _number(neutral: Callable[[float], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or (isinstance(value, (int, float)) and neutral(value))


_ZONE = "remove the node and draw that part with Inkstone Inpaint"
MARKS: Final[Mapping[str, Mark]] = {
    "mask": Mark(
        "limits the prompt to a mask", "Conditioning (Set Mask), Cond Pair Set Props", _ZONE, _ones
    ),
    "mask_strength": Mark(
        "weighs the prompt inside its mask",
        "Conditioning (Set Mask), Cond Pair Set Props",
        "set it to 1",
        _number(lambda value: value == 1),
    ),
    "area": Mark("limits the prompt to an area", "Conditioning (Set Area)", _ZONE, _whole),
    "strength": Mark(
        "weighs the prompt against others",
        "Conditioning (Set Area), Conditioning (Set Area Strength)",
        "set it to 1",
        _number(lambda value: value == 1),
    ),
    "start_percent": Mark(
        "leaves the prompt out of the first steps",
        "ConditioningSetTimestepRange",
        "set the range to 0..1",
        _number(lambda value: value <= 0),
    ),
    "end_percent": Mark(
        "leaves the prompt out of the last steps",
        "ConditioningSetTimestepRange",
        "set the range to 0..1",
        _number(lambda value: value >= 1),
    ),
    "control": Mark(
        "is a ControlNet",
        "Apply ControlNet",
        "use Inkstone Load ControlNet and Inkstone Apply ControlNet",
    ),
    "hooks": Mark(
        "schedules weights or prompts by hooks",
        "Cond Set Props, Set CLIP Hooks",
        "use Inkstone Load LoRA for a LoRA",
    ),
    "clip_start_percent": Mark(
        "leaves the prompt out of the first steps",
        "Set CLIP Hooks",
        "remove its schedule",
        _number(lambda value: value <= 0),
    ),
    "clip_end_percent": Mark(
        "leaves the prompt out of the last steps",
        "Set CLIP Hooks",
        "remove its schedule",
        _number(lambda value: value >= 1),
    ),
    "pooled_output": Mark(
        "is the pooled output of a text encoder that is not Qwen-Image's",
        "a CLIP loader of another model family",
        "encode with Inkstone Encode Prompt",
    ),
    "concat_latent_image": Mark(
        "is a picture for an inpaint model of another family",
        "InpaintModelConditioning",
        "use Inkstone Inpaint",
    ),
    "gligen": Mark("places objects by GLIGEN", "GLIGENTextboxApply", "remove the node"),
    "unclip_conditioning": Mark(
        "is a picture for unCLIP", "unCLIPConditioning", "use Inkstone Encode Edit for pictures"
    ),
}
# say how other marks apply, or what the sampler itself reads
_COMPANIONS: Final = frozenset(
    ("set_area_to_bounds", "control_apply_to_uncond", "default", "concat_mask", "attention_mask")
)


def check_marks(options: Mapping[str, object], name: str, read: frozenset[str]) -> None:
    """Refuse marks of core that would be lost, and name unknown ones in a line.

    read: the keys that the sampler reads.
    """
    for key, mark in MARKS.items():
        if key in options and not mark.neutral(options[key]):
            raise InkstoneError(
                f"The {name} conditioning has {key!r}, which {mark.effect} (from {mark.nodes}). "
                f"Inkstone Sampler expected a prompt for the whole canvas and all steps: "
                f"{mark.remedy}, {_CORE}."
            )
    unknown = sorted(
        str(key)
        for key, value in options.items()
        if value is not None and key not in MARKS and key not in _COMPANIONS | read
    )
    if unknown:
        log.warning(
            "the %s conditioning has %s from a node of another pack: Inkstone Sampler does not "
            "know it and ignores it",
            name,
            ", ".join(unknown[:5]),
        )
