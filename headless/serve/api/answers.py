"""Answers of the image routes: pictures as base64 or addresses, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from ...node_types import Json
from ..desk import tickets
from ..desk.desk import Desk
from ..desk.orders import EXTRAS, OPTIONS
from ..desk.refusal import Refusal, stopping
from ..desk.tickets import Ticket
from .encoding import check_sides, encoded, is_transparent
from .requests import PICTURE_FIELDS
from .wishes import Wish

T = TypeVar("T")
_QUOTED = re.compile(f'"({"|".join(sorted({*OPTIONS, *EXTRAS, *PICTURE_FIELDS}))})"')
_ABOUT = (
    ("mask", re.compile(r"^The mask ")),
    ("region", re.compile(r"^Regional prompts |^The box .{1,80} of a region ")),
    # files below --models, as `in_request` names them
    ("lora", re.compile(r"^loras[/\\]| of this LoRA ")),
    ("control_model", re.compile(r"^controlnet[/\\]")),
    ("model", re.compile(r"^(diffusers|checkpoints|diffusion_models)[/\\]")),
    ("image", re.compile(r"^[0-9]+ pictures |takes? [0-9]+ pictures?, got ")),
)
Gone = Callable[[], Awaitable[bool]]  # True once the client has hung up


async def ended(desk: Desk, ticket: Ticket, gone: Gone) -> None:
    """Waits until a job is over; cancels it where its client has gone."""
    async for _ in ticket.changes():
        if not ticket.over and await gone():
            await asyncio.to_thread(desk.cancel, ticket)


def check_done(ticket: Ticket) -> None:
    """Raises Refusal where a job has no pictures to give."""
    if ticket.state == tickets.DONE:
        return
    if ticket.stopped:
        raise stopping()
    if ticket.state == tickets.CANCELLED:
        raise Refusal("The job was cancelled.", 409, code="cancelled")
    if ticket.unexpected:
        raise Refusal(ticket.error or "The drawing failed.", 500)
    error = ticket.error or "The drawing failed."
    raise Refusal(error, 400, param_of(error))


def param_of(error: str) -> str | None:
    """The option that a drawing's fault is about, as far as its sentence says."""
    named = _QUOTED.search(error)
    about = next((name for name, pattern in _ABOUT if pattern.search(error)), None)
    return named[1] if named else about


def images_document(ticket: Ticket, wish: Wish, base: str) -> dict[str, Json]:
    """OpenAI's answer, with what made the pictures."""
    data: list[dict[str, Json]]
    if wish.address:
        data = [{"url": address} for address in _addresses(ticket, wish, base)]
    else:
        data = [{"b64_json": as_text(path, wish)} for path in ticket.files]
    for one, text in zip(data, itertools.cycle(ticket.enhanced)):
        one["revised_prompt"] = text
    return {
        "created": int(time.time()),
        "data": data,
        "output_format": wish.format,
        "inkstone": about(ticket, wish),
    }


def _addresses(ticket: Ticket, wish: Wish, base: str) -> list[str]:
    """Where the results are in the form that was asked for. Raises Refusal."""
    for path in ticket.files:
        _kept(path, wish, check_sides)
    return [wish.at(address) for address in ticket.addresses(base)]


def about(ticket: Ticket, wish: Wish) -> dict[str, Json]:
    """The seed that draws the same picture again, the time it took, what there is to say of it."""
    return {
        "id": ticket.id,
        "seed": ticket.seed,
        "seconds": ticket.seconds,
        "notes": [*wish.notes, *ticket.notes],
    }


def as_text(path: Path, wish: Wish) -> str:
    """A result as base64. Raises Refusal."""
    return base64.b64encode(_kept(path, wish, encoded)).decode("ascii")


def _kept(path: Path, wish: Wish, use: Callable[[Path, Wish], T]) -> T:
    """What `use` makes of a result. Raises Refusal where it is no more."""
    try:
        return use(path, wish)
    except FileNotFoundError:
        raise Refusal("The result has expired before it was sent.", 409) from None


async def image_events(
    desk: Desk, ticket: Ticket, wish: Wish, gone: Gone, kind: str
) -> AsyncIterator[str]:
    """The events of a stream: pictures of steps where they were asked for, then the results. kind:
    image_generation or image_edit. Where the client goes, its job ends.
    """
    try:
        async for text in _partial_images(desk, ticket, wish, gone, kind):
            yield text
        check_done(ticket)
        for path in ticket.files:
            facts: dict[str, Json] = {"output_format": wish.format, "inkstone": about(ticket, wish)}
            facts |= await asyncio.to_thread(_whole, path, wish)
            facts["usage"] = None  # OpenAI's events have it; tokens are not counted here
            yield _image_event(f"{kind}.completed", facts)
    except Refusal as error:
        yield event("error", {"type": "error", **error.document()})
    finally:  # here also where this is cancelled, since its client hung up: nothing is awaited
        asyncio.get_running_loop().run_in_executor(None, _leave, desk, ticket)


def _leave(desk: Desk, ticket: Ticket) -> None:
    if ticket.over:
        desk.forget(ticket)
    else:
        desk.cancel(ticket)


async def _partial_images(
    desk: Desk, ticket: Ticket, wish: Wish, gone: Gone, kind: str
) -> AsyncIterator[str]:
    """Pictures of steps, until the job is over."""
    sent = 0
    async for _ in ticket.changes():
        if not ticket.over and await gone():
            await asyncio.to_thread(desk.cancel, ticket)
        preview, due = ticket.preview, (sent + 1) * ticket.steps / (wish.partial + 1)
        if preview is not None and sent < wish.partial and 0 < due <= ticket.step < ticket.steps:
            facts: dict[str, Json] = {"partial_image_index": sent, "output_format": "jpeg"}
            facts |= _as_event(preview)
            yield _image_event(f"{kind}.partial_image", facts)
            sent += 1


def _whole(path: Path, wish: Wish) -> dict[str, Json]:
    """A result in an event. Raises Refusal."""
    return _as_event(_kept(path, wish, encoded))


def _as_event(data: bytes) -> dict[str, Json]:
    """A picture, and what it is: not what was asked for."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return {
            "b64_json": base64.b64encode(data).decode("ascii"),
            "size": f"{picture.width}x{picture.height}",
            "background": "transparent" if is_transparent(picture) else "opaque",
        }


def _image_event(kind: str, facts: dict[str, Json]) -> str:
    return event(kind, {"type": kind, "created_at": int(time.time()), "quality": "auto", **facts})


def event(kind: str, data: dict[str, Json]) -> str:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def job_events(ticket: Ticket, document: Callable[[], dict[str, Json]]) -> AsyncIterator[str]:
    """The states of a job as events, each with its preview, until it is over."""
    last: tuple[Json, ...] = ()
    beats = 0
    async for _ in ticket.changes():
        facts = document()
        state = (facts["state"], facts["place"], facts["step"], ticket.previewed)
        if state == last:
            beats += 1
            yield ": still here\n\n" if beats % 20 == 0 else ""
            continue
        last = state
        yield event("job", facts | {"preview": preview_of(ticket)})
    yield "data: [DONE]\n\n"


def preview_of(ticket: Ticket) -> str | None:
    """The picture of the last step as a data URL."""
    preview = ticket.preview
    return (
        None
        if preview is None
        else "data:image/jpeg;base64," + base64.b64encode(preview).decode("ascii")
    )
