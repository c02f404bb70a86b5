"""Values of `inkstone draw`'s options that come from a job line or a Python call.

They go through the parser of `draw` itself, so that they mean and are refused the same.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ...errors import CallError
from ..node_types import Json
from .options import add_draw

_NOT_HERE = {"out", "plan", "json", "quiet", "help", "save_latent"}
NUMBERS = {"steps", "batch", "cfg", "seed", "strength", "layers"}
NUMBERS |= {"upscale", "upscale_strength"}
# names that other programs (diffusers, ComfyUI, web interfaces) have for what an option here says
_ELSEWHERE = {
    **dict.fromkeys(("width", "height", "w", "h", "resolution"), '"size": "WIDTHxHEIGHT"'),
    **dict.fromkeys(("true_cfg_scale", "guidance_scale", "cfg_scale", "guidance"), '"cfg"'),
    **dict.fromkeys(("scheduler", "sampler", "schedule_type", "scheduler_name"), '"schedule"'),
    **dict.fromkeys(("num_inference_steps", "num_steps"), '"steps"'),
    **dict.fromkeys(("negative_prompt", "neg_prompt"), '"negative"'),
    **dict.fromkeys(("num_images_per_prompt", "batch_size", "num_images", "n"), '"batch"'),
    **dict.fromkeys(("denoise", "denoising_strength"), '"strength"'),
    **dict.fromkeys(("mask_image", "mask_path"), '"mask"'),
    **dict.fromkeys(("init_image", "input_image", "images", "image_path"), '"image"'),
    **dict.fromkeys(("checkpoint", "ckpt_name", "unet_name"), '"model"'),
    **dict.fromkeys(("clip", "clip_name", "te"), '"text_encoder"'),
    **dict.fromkeys(
        ("prompt_extend", "enhance_prompt", "prompt_enhancer", "upsampling"), '"enhance"'
    ),
    **dict.fromkeys(("regions", "regional_prompts", "eligen_entity_prompts"), '"region"'),
    **dict.fromkeys(("step_cache", "teacache", "fbcache", "easycache", "taylorseer"), '"cache"'),
    **dict.fromkeys(("diversity", "seed_variance", "variance", "text_noise"), '"variety"'),
    **dict.fromkeys(("upscale_factor", "scale_factor", "hires_fix", "scale_by"), '"upscale"'),
    **dict.fromkeys(("controlnet", "control_net"), '"control_model" and "control"'),
    **dict.fromkeys(("learning_rate", "unet_lr"), '"lr"'),
    **dict.fromkeys(("network_dim", "lora_rank"), '"rank"'),
    **dict.fromkeys(("network_alpha", "lora_alpha"), '"alpha"'),
    **dict.fromkeys(("max_train_steps", "max_steps"), '"steps"'),
}
FLAGS = {"fast", "save_latent", "enhance"}


def parse_values(data: Mapping[str, Json], others: Sequence[str] = ()) -> dict[str, Json]:
    """Values by the names of DrawCall, converted as `draw` does. others: names that are not options
    and that a misspelt one may have been. Raises CallError.
    """
    names = _option_names(data, others)
    return {name: _convert(name, value) for name, value in names.items()}


def _option_names(data: Mapping[str, Json], others: Sequence[str]) -> dict[str, Json]:
    """The values by option name: "save-latent" becomes "save_latent"."""
    names = set(options()) | {"save_latent"}
    values: dict[str, Json] = {}
    for key, value in data.items():
        name = key.removeprefix("--").replace("-", "_")
        if name not in names:
            raise CallError(f'unknown name "{key}". {hint(name, [*names, *others])}')
        if name in values:
            raise CallError(f'"{name}" appears twice: keep one.')
        values[name] = value
    return values


def elsewhere(name: str, names: Sequence[str]) -> tuple[str, str] | None:
    """(its name of those here, how it is written) of what another program calls so."""
    here = _ELSEWHERE.get(name.casefold())
    own = here.split('"')[1] if here else ""
    return (own, here) if here and own in names else None


def hint(name: str, names: Sequence[str]) -> str:
    """What to write for a name that does not exist, of those that do."""
    here = elsewhere(name, names)
    if here is not None:
        return f"Did you mean {here[1]}?"
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(sorted(names))}."


def _convert(name: str, value: Json) -> Json:
    if value is None:
        return None
    if name in FLAGS:
        if not isinstance(value, bool):
            raise CallError(f'"{name}" is {kind_of(value)}, expected true or false.')
        return value
    option = options()[name]
    if isinstance(option.default, list):
        items = value if isinstance(value, list) else [value]
        return [_convert_one(option, name, item) for item in items]
    return _convert_one(option, name, value)


def _convert_one(option: argparse.Action, name: str, value: Json) -> Json:
    """Convert a single value by the option's own type and choices."""
    number = name in NUMBERS
    if isinstance(value, bool) or not isinstance(value, (int, float) if number else str):
        expected = "number" if number else "text"
        raise CallError(f'"{name}" is {kind_of(value)}, expected a {expected}.')
    parse: Callable[[str], Json] | None = option.type if callable(option.type) else None
    try:
        converted = parse(str(value)) if parse else value
    except argparse.ArgumentTypeError as error:
        raise CallError(f'"{name}": {error}') from None
    if option.choices is not None and converted not in option.choices:
        raise CallError(f'"{name}": {value!r}, expected {", ".join(map(str, option.choices))}.')
    return converted


@lru_cache(maxsize=1)
def options() -> dict[str, argparse.Action]:
    """The options of `inkstone draw` by the names of DrawCall."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_draw(commands)
    actions = commands.choices["draw"]._actions  # argparse has no public way to them
    return {action.dest: action for action in actions if action.dest not in _NOT_HERE}


def kind_of(value: Json) -> str:
    """The JSON type of a value, for a message."""
    if value is None:
        return "null"
    names = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), "a number")
