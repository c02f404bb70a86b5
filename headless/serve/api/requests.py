"""Bodies of requests -> an order in the queue: JSON, or a form with files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import CallError
from ...draw.option_values import elsewhere, hint
from ...node_types import Json
from ...queue.job_line import parse_object
from ..desk.desk import Desk
from ..desk.graphs import take_graph
from ..desk.orders import EXTRAS, OPTIONS, Order, own_options, rows_of_controls, rows_of_loras
from ..desk.pictures import picture_bytes, save_mask, save_picture
from ..desk.refusal import Refusal
from ..desk.tickets import Ticket
from .wishes import IGNORED, Wish, wish_of

# what OpenAI's clients may send
IMAGE_FIELDS = frozenset(
    "model prompt n size response_format output_format output_compression stream partial_images "
    "background inkstone".split()
) | set(IGNORED)
PICTURE_FIELDS = frozenset(("image", "images", "mask"))
_EMPTY_IS_NONE = ("model", "size", "background", "response_format", "output_format")
_JOB_FIELDS = OPTIONS | PICTURE_FIELDS | {*EXTRAS, "prompt", "model", "n", "batch"}
MOST_IMAGES = 16
_MOST_VALUES = 200_000  # of JSON: three bytes may become a hundred


@dataclass
class Body:
    """A request: its texts and numbers, and the pictures that came with it."""

    data: dict[str, Json]
    images: list[bytes] = field(default_factory=list)
    mask: bytes | None = None


def json_body(raw: bytes, param: str | None = None) -> dict[str, Json]:
    """The JSON object of a body, or of one field of a form. Raises Refusal, also where it would
    become many times its size.
    """
    where = "The body" if param is None else f"The field {param}"
    check_values(raw, where)
    try:
        text = raw.decode("utf-8-sig")
        return parse_object(text) if param is None else parse_object(text, '{"steps": 8}')
    except UnicodeDecodeError:
        raise Refusal(f"{where} is not UTF-8: send JSON.", param=param) from None
    except CallError as error:
        joint = " " if str(error).startswith(("is ", "has ")) else ": "
        raise Refusal(f"{where}{joint}{error}", param=param) from None


def check_values(raw: bytes, where: str) -> None:
    """Raises Refusal where JSON would become many times its size."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise Refusal(f"{where} has too much in it: expected at most {_MOST_VALUES} values.")


def body_of(raw: bytes, pictures: bool) -> Body:
    """A request of OpenAI's image routes in JSON. Raises Refusal."""
    data = json_body(raw)
    return with_pictures(data) if pictures else Body(data)


def with_pictures(data: dict[str, Json]) -> Body:
    """A body of JSON whose pictures are base64. Raises Refusal."""
    one, several = data.pop("image", None), data.pop("images", None)
    if one is not None and several is not None:
        raise Refusal("image and images: send the pictures in one of them.", param="images")
    given = several if one is None else one
    items = given if isinstance(given, list) else [] if given is None else [given]
    _check_count(len(items))
    mask = data.pop("mask", None)
    return Body(
        data,
        [picture_bytes(item, "image") for item in items],
        None if mask is None else picture_bytes(mask, "mask"),
    )


def take_images(desk: Desk, owner: str, body: Body, edit: bool) -> tuple[Ticket, Wish]:
    """A request of OpenAI's image routes, in the queue. Raises Refusal."""
    for name in body.data:
        if name not in IMAGE_FIELDS:
            raise _unknown_field(name)
    body.data = {k: v for k, v in body.data.items() if v != "" or k not in _EMPTY_IS_NONE}
    if edit and not body.images:
        raise Refusal("image is missing: send the picture to edit.", param="image")
    own = body.data.get("inkstone")
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise Refusal("inkstone: expected an object of options.", param="inkstone")
    if body.data.get("response_format") is None and not body.data.get("stream"):
        body.data["response_format"] = desk.call.response_format
    wish = wish_of(body.data, own.get("layers") is not None)
    size = body.data.get("size")
    size = None if size == "auto" else size
    if None not in (size, own.get("size")):
        raise Refusal("size is given twice: leave it out of the object inkstone.", param="size")
    options = dict(own) | ({} if size is None else {"size": size})
    try:
        return _submit(desk, owner, body, options, lasting=False), wish
    except Refusal as error:
        if edit or 'give it with "image"' not in str(error):
            raise
        more = "This route draws from a prompt alone: send both to /v1/images/edits."
        raise Refusal(f"{error} {more}", error.status, error.param, error.code) from None


def _unknown_field(name: str) -> Refusal:
    """For a field that the image routes do not have."""
    shown = name[:60]
    here = (name, f'"{name}"') if name in {*OPTIONS, *EXTRAS} else None
    here = here or elsewhere(name, [*OPTIONS, *EXTRAS, *IMAGE_FIELDS, "batch"])
    advice = (
        'Inkstone\'s own options belong in the object "inkstone", such as '
        '{"inkstone": {"steps": 8}}.'
    )
    if name in PICTURE_FIELDS:
        advice = "Pictures are sent to /v1/images/edits."
    elif here is not None and here[0] in (*IMAGE_FIELDS, "batch"):
        advice = f"Did you mean {here[1]}?".replace('"batch"', '"n"')
    elif here is not None:
        advice = f'Send it in the object "inkstone": {{"inkstone": {{"{here[0]}": VALUE}}}}.'
    return Refusal(f"Unknown parameter: '{shown}'. {advice}", param=shown, code="unknown_parameter")


def take_job(desk: Desk, owner: str, data: dict[str, Json]) -> Ticket:
    """A line of the queue, with pictures as base64; in the queue. Raises Refusal."""
    if "inkstone" in data:
        raise Refusal(
            'A job has its options beside the prompt, such as {"prompt": "a red circle", "steps": '
            '8}: expected no object "inkstone".',
            param="inkstone",
        )
    body = with_pictures(data)
    for name in body.data:
        if name not in _JOB_FIELDS:
            raise _unknown_option(name)
    names = {"prompt": "prompt", "model": "model", "n": "n", "batch": "n"}
    if None not in (body.data.get("n"), body.data.get("batch")):
        raise Refusal("n and batch: they mean the same, send one of them.", param="n")
    given = [key for key in names if body.data.get(key) is not None]
    common = {names[key]: body.data[key] for key in given}
    body.data = {key: value for key, value in body.data.items() if key not in names}
    options = body.data
    return _submit(desk, owner, Body(common, body.images, body.mask), options, lasting=True)


def _unknown_option(name: str) -> Refusal:
    """For a field that a job does not have."""
    shown = name[:60]
    if name in IMAGE_FIELDS:
        advice = "It belongs to /v1/images/generations and /v1/images/edits: leave it out."
    else:
        advice = hint(shown, sorted(_JOB_FIELDS))
        advice += " GET /openapi.json lists all." if advice.endswith("?") else ""
    return Refusal(f'A job has no option "{shown}". {advice}', param=shown)


def take_graph_job(desk: Desk, owner: str, data: dict[str, Json]) -> Ticket:
    """A graph with its pictures, in the queue. Raises Refusal."""
    if not desk.call.graphs:
        raise Refusal("This server takes no graphs: it was started without --graphs.", 403)
    with _place(desk, owner) as (name, folder):
        take_graph(data, name, folder, desk.places, desk.limits)
        return desk.submit(name, None, lasting=True)


@contextmanager
def _place(desk: Desk, owner: str) -> Iterator[tuple[str, Path]]:
    """A place in the queue and its folder; given back where no job comes of it."""
    name, folder = desk.open(owner)
    try:
        yield name, folder
    except BaseException:
        desk.drop(name)
        raise


def _submit(desk: Desk, owner: str, body: Body, options: dict[str, Json], lasting: bool) -> Ticket:
    _check_count(len(body.images))
    extras = {name: options.pop(name, None) for name in EXTRAS}
    n = body.data.get("n")
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int):
        raise Refusal("n: expected a whole number.", param="n")
    model = body.data.get("model")
    model = None if model == "" else model  # some clients send an empty one
    if model is not None and not isinstance(model, str):
        raise Refusal("model: expected the name of a model.", param="model")
    prompt = body.data.get("prompt")
    if prompt is None:
        raise Refusal("prompt is missing: write what is to be drawn.", param="prompt")
    order = Order(
        prompt=prompt,
        options=own_options(options, "inkstone"),
        batch=n,
        model=model,
        loras=rows_of_loras(extras["lora"]),
        controls=rows_of_controls(extras["control"]),
        control_models=_names(extras["control_model"]),
    )
    with _place(desk, owner) as (name, folder):
        _save_pictures(order, body, folder, desk)
        return desk.submit(name, order if body.mask is None else _masked(order), lasting)


def _masked(order: Order) -> Order:
    return Order(**{**order.as_json(), "mask": "mask.png"})


def _save_pictures(order: Order, body: Body, folder: Path, desk: Desk) -> None:
    for k, data in enumerate(body.images):
        order.images.append(save_picture(data, folder, f"image_{k + 1}", desk.limits))
    if body.mask is not None:
        save_mask(body.mask, folder, desk.limits)
    for k, row in enumerate(order.controls):
        data = picture_bytes(row.get("picture"), "control")
        row["picture"] = save_picture(data, folder, f"control_{k + 1}", desk.limits)


def _names(value: Json) -> list[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, str) for item in items) or len(items) > MOST_IMAGES:
        raise Refusal("control_model: expected a name or a list of names.", param="control_model")
    return items


def _check_count(count: int) -> None:
    if count > MOST_IMAGES:
        raise Refusal(f"{count} pictures: expected at most {MOST_IMAGES}.", param="image")
