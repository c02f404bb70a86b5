"""What a request asks for: options and files that came with it, and the call that draws it.

An order is plain JSON and names of files in its own folder, so that it survives the process.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import CallError, InkstoneError
from ....files.images import glance
from ....loaders.models.load import family_in
from ....pipeline.upscale import enlarged_size
from ....pipeline.usual_settings import largest_usual_size
from ....sampling.region_choices import EXAMPLE
from ...draw.control_option import ControlOption, kinds
from ...draw.option_values import hint, parse_values
from ...draw.request import (
    DrawCall,
    check_call,
    model_folder,
    size_before_upscale,
    without_own_size,
)
from ...node_types import Json
from .offers import Offers
from .refusal import Refusal
from .settings import Limits

# options of `inkstone draw` that name no file and change nothing of the server
OPTIONS = frozenset(
    "size steps cfg schedule negative seed fast enhance strength layers control_fit region "
    "region_method reference_cache cache variety upscale upscale_strength".split()
)
_MOST_ROWS = 16  # LoRAs, controls
_SEEDS = 2**32
EXTRAS = ("lora", "control", "control_model")  # options of ours that name what is offered
_NAMED = re.compile(r'(?:--|")([a-z][a-z_-]+)')  # the option that a message begins with
# options of the command line that requests have too; the others are of who runs the server
_SHARED = "|".join(sorted({*OPTIONS, *EXTRAS, "image", "mask", "batch", "set"}))
_FLAG = re.compile(rf"--({_SHARED.replace('_', '-')})(?![\w-])( F\b)?")


@dataclass(frozen=True)
class Order:
    """A drawing that a client wants. Pictures are names in the order's folder."""

    prompt: str
    options: Mapping[str, Json] = field(default_factory=dict)
    batch: int = 1
    model: str | None = None
    loras: list[list[Json]] = field(default_factory=list)  # [name, strength]
    images: list[str] = field(default_factory=list)
    mask: str | None = None
    controls: list[dict[str, Json]] = field(default_factory=list)
    control_models: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Json]:
        """For the disk."""
        return dataclasses.asdict(self)


def own_options(data: Mapping[str, Json], where: str) -> dict[str, Json]:
    """The options of a request that are those of `inkstone draw`; a seed is chosen where none is
    given. Raises Refusal for others.
    """
    for name in data:
        if name not in OPTIONS:
            shown = str(name)[:60]
            near = hint(shown, [*OPTIONS, *EXTRAS])
            near += " GET /openapi.json lists all." if near.endswith("?") else ""
            raise Refusal(f'{where} has no option "{shown}". {near}', param=shown)
    options = {name: value for name, value in data.items() if value is not None}
    return {"seed": secrets.randbelow(_SEEDS)} | options


def rows_of_loras(value: Json) -> list[list[Json]]:
    """[name, strength] of "NAME", "NAME:STRENGTH", {"name":, "strength":} or a list of these."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    rows = []
    for item in items[: _MOST_ROWS + 1]:
        if isinstance(item, str):
            front, _, tail = item.rpartition(":")
            number = _number(tail) if front else None
            rows.append([item, 1.0] if number is None else [front, number])
        elif isinstance(item, dict) and isinstance(item.get("name"), str):
            strength = _number(item.get("strength", 1.0))
            if strength is None or set(item) - {"name", "strength"}:
                raise _bad_lora()
            rows.append([item["name"], strength])
        else:
            raise _bad_lora()
    if len(rows) > _MOST_ROWS:
        raise Refusal(f"{len(items)} LoRAs: expected at most {_MOST_ROWS}.", param="lora")
    return rows


def _bad_lora() -> Refusal:
    return Refusal(
        'lora: expected "NAME", "NAME:STRENGTH" or {"name": NAME, "strength": NUMBER}, or a list '
        "of these, with a strength from -100 to 100.",
        param="lora",
    )


def _number(value: Json) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if -100 <= number <= 100 else None


def rows_of_controls(value: Json) -> list[dict[str, Json]]:
    """The rows of a control, checked but for their pictures."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > _MOST_ROWS:
        raise Refusal(f"{len(items)} controls: expected at most {_MOST_ROWS}.", param="control")
    rows = []
    for item in items:
        known = {"type", "picture", "strength", "start", "end"}
        if not isinstance(item, dict) or set(item) - known or item.get("type") not in kinds():
            raise Refusal(
                'control: expected {"type": TYPE, "picture": DATA, "strength": 1, "start": 0, '
                f'"end": 1}} or a list of these, with a type of {", ".join(kinds())}.',
                param="control",
            )
        row = {"strength": 1.0, "start": 0.0, "end": 1.0} | item
        numbers = [_number(row[name]) for name in ("strength", "start", "end")]
        strength, start, end = (-99.0 if number is None else number for number in numbers)
        if not -10 <= strength <= 10 or not 0 <= start < end <= 1:
            raise Refusal(
                "control: expected a strength from -10 to 10 and 0 <= start < end <= 1.",
                param="control",
            )
        rows.append({**row, "strength": strength, "start": start, "end": end})
    return rows


def call_of(order: Order, folder: Path, offers: Offers, limits: Limits) -> DrawCall:
    """The checked call of an order whose files are in a folder. Raises Refusal."""
    _check_texts(order, limits)
    if not 1 <= order.batch <= limits.pictures:
        raise Refusal(f"n is {order.batch}: expected 1 to {limits.pictures} pictures.", param="n")
    try:
        values = parse_values(order.options)
        values = {name: value for name, value in values.items() if value is not None}
        loras = [(offers.file("loras", name, "lora"), strength) for name, strength in order.loras]
        controls = [
            ControlOption(c["type"], folder / c["picture"], c["strength"], c["start"], c["end"])
            for c in order.controls
        ]
        given = {
            "prompt": order.prompt,
            "batch": order.batch,
            "image": [folder / name for name in order.images],
            "mask": None if order.mask is None else folder / order.mask,
            "control": controls,
            "control_model": [
                offers.file("controlnet", name, "control_model") for name in order.control_models
            ],
        }
        if loras:
            given["lora"] = loras
        call = DrawCall(**{**offers.model(order.model), **values, **given})
        if call.region_masks:  # files of this machine
            raise Refusal(
                "region: expected PROMPT:x,y,width,height, for example "
                f"{EXAMPLE}. Masks of regions are files, which a request cannot name.",
                param="region",
            )
        call = without_own_size(call, canvas=True)
        check_limits(call, limits)
        check_call(call)
    except Refusal:
        raise
    except InkstoneError as error:
        named = _NAMED.match(str(error))
        message = in_request(str(error), folder, offers.folder)
        raise Refusal(message, param=named and named[1].replace("-", "_")) from None
    return call


def _check_texts(order: Order, limits: Limits) -> None:
    if not isinstance(order.prompt, str):
        raise Refusal("prompt is no text: write what is to be drawn.", param="prompt")
    for name, value in {"prompt": order.prompt, **order.options}.items():
        texts = [text for text in (value if isinstance(value, list) else [value])]
        length = sum(len(text) for text in texts if isinstance(text, str))
        if length > limits.prompt:
            raise Refusal(
                f"{name} has {length} characters: expected at most {limits.prompt}.", param=name
            )


def check_limits(call: DrawCall, limits: Limits) -> None:
    """Raises Refusal where a call asks for more than this server does."""
    if call.steps is not None and call.steps > limits.steps:
        raise Refusal(
            f"steps is {call.steps}: this server does at most {limits.steps}.", param="steps"
        )
    pictures = [*call.image, *(control.path for control in call.control)]
    pictures += [] if call.mask is None else [call.mask]
    sizes = [glance(path).size for path in pictures]
    sizes += [] if call.size is None else [call.size]
    for width, height in sizes:
        if width * height > limits.pixels:
            raise Refusal(
                f"{width}x{height} is more than this server draws or takes: expected at most "
                f"{limits.pixels} pixels. Make the picture smaller.",
                param="size" if (width, height) == call.size else "image",
            )
    if call.upscale is not None and call.upscale > 1:
        _check_enlarged(call, call.upscale, limits)


def _check_enlarged(call: DrawCall, factor: float, limits: Limits) -> None:
    """Raises Refusal where the drawing becomes larger than this server enlarges."""
    size = size_before_upscale(
        call,
        lambda path: glance(path).size,
        lambda: largest_usual_size(family_in(model_folder(call)), call.fast),
    )
    try:
        width, height = enlarged_size(size, factor)
    except InkstoneError as error:
        raise Refusal(str(error), param="upscale") from None
    if width * height > limits.enlarged:
        raise Refusal(
            f"upscale {factor:g} of {size[0]}x{size[1]} is {width}x{height}, more than this server "
            f"draws: expected at most {limits.enlarged} pixels. Lower the factor, or name a "
            "smaller size.",
            param="upscale",
        )


def in_request(message: str, folder: Path, *others: Path) -> str:
    """A message as a client reads it: options by their names in a request, and without folders of
    this machine: an order's, those above it, and others.
    """
    message = _FLAG.sub(_in_json, message)
    return without_folders(message, folder, folder.parent, folder.parent.parent, *others)


def without_folders(message: str, *folders: Path) -> str:
    """A message without these folders of this machine."""
    for root in folders:
        for form in (str(root.absolute()), str(root)):  # the long form ends as the short one
            if form != ".":
                message = message.replace(f"{form}/", "").replace(f"{form}\\", "")
    return message


def _in_json(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return f'"{"n" if name == "batch" else name}"'


def order_from(data: Mapping[str, Json]) -> Order:
    """An order that was kept on the disk. Raises CallError."""
    try:
        return Order(**data)
    except TypeError as error:
        raise CallError(f"the order cannot be read: {error}.") from None
