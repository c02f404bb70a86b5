"""The routes of a server. Each takes the desk and a Starlette request, and returns an answer."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...draw.control_option import kinds
from ...node_types import Json
from ..desk.desk import Desk
from ..desk.refusal import Refusal
from ..desk.tickets import Ticket
from .answers import check_done, ended, image_events, images_document, job_events, preview_of
from .encoding import encoded
from .forms import form_texts
from .requests import (
    MOST_IMAGES,
    PICTURE_FIELDS,
    Body,
    body_of,
    json_body,
    take_graph_job,
    take_images,
    take_job,
)
from .wishes import FORMATS, Wish, wish_of_address

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile
    from starlette.requests import Request
    from starlette.responses import Response

_MOST_FIELDS = 200  # of a form: sixteen controls in parts
_UTF8 = re.compile(r'^(?!.*charset)|charset="?(utf-8|us-ascii)"?\s*(;|$)', re.I)
_PART = 1 << 18  # bytes of a result that are read at a time
_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_ENCODERS = ThreadPoolExecutor(2, "encode")  # results in other formats, which anybody may ask for


async def generations(desk: Desk, request: Request) -> Response:
    """POST /v1/images/generations."""
    return await _images(desk, request, edit=False)


async def edits(desk: Desk, request: Request) -> Response:
    """POST /v1/images/edits: a form with files, or JSON with base64."""
    return await _images(desk, request, edit=True)


async def _images(desk: Desk, request: Request, edit: bool) -> Response:
    from starlette.responses import JSONResponse, StreamingResponse

    ticket, wish = await _taken(desk, request, edit)
    if wish.stream:
        kind = "image_edit" if edit else "image_generation"
        events = image_events(desk, ticket, wish, request.is_disconnected, kind)
        return StreamingResponse(events, media_type="text/event-stream", headers=_UNSTORED)
    await ended(desk, ticket, request.is_disconnected)
    try:
        check_done(ticket)
        document = await asyncio.to_thread(images_document, ticket, wish, _base(request))
    except Refusal:
        desk.forget(ticket)
        raise
    if not wish.address:
        await asyncio.to_thread(desk.forget, ticket)
    return JSONResponse(document, headers=_UNSTORED)


async def _taken(desk: Desk, request: Request, edit: bool) -> tuple[Ticket, Wish]:
    """The request in the queue. Nothing of its body is held once this returns."""
    if edit and _media(request) == "multipart/form-data":
        body = await _form(request, desk.limits.upload)
        return await asyncio.to_thread(take_images, desk, _owner(request), body, edit)
    kinds = "a form (multipart/form-data) with the picture as a file, or JSON" if edit else "JSON"
    raw = await _json(request, kinds)
    return await asyncio.to_thread(
        lambda: take_images(desk, _owner(request), body_of(raw, pictures=edit), edit)
    )


async def models(desk: Desk, request: Request) -> Response:
    """GET /v1/models."""
    from starlette.responses import JSONResponse

    names = await asyncio.to_thread(desk.offers.models)
    return JSONResponse({"object": "list", "data": [_model(name) for name in names]})


async def model(desk: Desk, request: Request) -> Response:
    """GET /v1/models/NAME."""
    from starlette.responses import JSONResponse

    name = request.path_params["name"]
    await asyncio.to_thread(desk.offers.model, name)
    return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Json]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "inkstone"}


async def loras(desk: Desk, request: Request) -> Response:
    """GET /v1/loras."""
    from starlette.responses import JSONResponse

    names = await asyncio.to_thread(desk.offers.loras)
    return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})


async def controls(desk: Desk, request: Request) -> Response:
    """GET /v1/controls: names of control models, and the types of control."""
    from starlette.responses import JSONResponse

    names = await asyncio.to_thread(desk.offers.controls)
    data = [{"id": name} for name in names]
    return JSONResponse({"object": "list", "data": data, "types": list(kinds())})


async def new_job(desk: Desk, request: Request) -> Response:
    """POST /v1/jobs."""
    return await _new(desk, request, take_job)


async def new_graph(desk: Desk, request: Request) -> Response:
    """POST /v1/graphs."""
    return await _new(desk, request, take_graph_job)


async def _new(desk: Desk, request: Request, take: Callable[..., Ticket]) -> Response:
    from starlette.responses import JSONResponse

    raw = await _json(request)
    ticket = await asyncio.to_thread(lambda: take(desk, _owner(request), json_body(raw)))
    headers = {"Location": f"/v1/jobs/{ticket.id}", **_UNSTORED}
    return JSONResponse(_document(desk, request, ticket), 202, headers)


async def job(desk: Desk, request: Request) -> Response:
    """GET /v1/jobs/ID; with ?preview=true the picture of the last step too."""
    from starlette.responses import JSONResponse

    shown = request.query_params.get("preview", "false")
    if shown not in ("true", "false"):
        raise Refusal("preview: expected true or false.", param="preview")
    ticket = _ticket(desk, request)
    document = _document(desk, request, ticket)
    if shown == "true":
        document["preview"] = preview_of(ticket)
    return JSONResponse(document, headers=_UNSTORED)


async def job_progress(desk: Desk, request: Request) -> Response:
    """GET /v1/jobs/ID/events."""
    from starlette.responses import StreamingResponse

    ticket = _ticket(desk, request)
    events = job_events(ticket, lambda: _document(desk, request, ticket))
    return StreamingResponse(events, media_type="text/event-stream", headers=_UNSTORED)


async def end_job(desk: Desk, request: Request) -> Response:
    """DELETE /v1/jobs/ID: ends a job, or removes the results of one that is over."""
    from starlette.responses import JSONResponse

    ticket = _ticket(desk, request)
    if ticket.over:
        await asyncio.to_thread(desk.forget, ticket)
    else:
        await asyncio.to_thread(desk.cancel, ticket)
        async for _ in ticket.changes():
            pass
    return JSONResponse(_document(desk, request, ticket), headers=_UNSTORED)


async def file(desk: Desk, request: Request) -> Response:
    """GET /v1/files/ID/NUMBER.SUFFIX: a result, a picture as .jpeg and .webp too."""
    from starlette.responses import Response, StreamingResponse

    number, _, suffix = request.path_params["name"].partition(".")
    if not number.isascii() or not number.isdecimal() or len(number) > 4:
        raise Refusal("There is no such file: the address is wrong.", 404)
    path = desk.file(request.path_params["id"], int(number))
    other = path.suffix == ".png" and suffix in FORMATS
    if f".{suffix}" != path.suffix and not other:
        raise Refusal("There is no such file: the address is wrong.", 404)
    kind = _TYPES.get(f".{suffix}".lower(), "application/octet-stream")
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    wish = wish_of_address(suffix, request.query_params) if other else Wish()
    if wish != Wish():
        return Response(await _encoded(path, wish), media_type=kind, headers=headers)
    try:
        data = await asyncio.to_thread(open, path, "rb")
    except OSError:  # it expired just now
        raise Refusal("There is no such file: it has expired.", 404) from None
    headers["Content-Length"] = str(os.fstat(data.fileno()).st_size)
    return StreamingResponse(_parts(data), media_type=kind, headers=headers)


async def _encoded(path: Path, wish: Wish) -> bytes:
    """A result in another form than it is kept in; a few at a time, whoever asks."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_ENCODERS, encoded, path, wish)
    except FileNotFoundError:
        raise Refusal("There is no such file: it has expired.", 404) from None


async def _parts(data: BinaryIO) -> AsyncIterator[bytes]:
    """An open file, which may be removed meanwhile."""
    with data:
        while part := await asyncio.to_thread(data.read, _PART):
            yield part


async def health(desk: Desk, request: Request) -> Response:
    """GET /health: the process answers."""
    from starlette.responses import JSONResponse

    return JSONResponse({"status": "ok"})


async def ready(desk: Desk, request: Request) -> Response:
    """GET /ready: it draws."""
    from starlette.responses import JSONResponse

    ready = desk.drawing > 0
    return JSONResponse({"status": "ready" if ready else "starting"}, 200 if ready else 503)


async def metrics(desk: Desk, request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    from starlette.responses import Response

    text, waiting, running = await asyncio.to_thread(desk.numbers)
    own = f"# TYPE inkstone_serve_waiting gauge\ninkstone_serve_waiting {waiting}\n"
    own += f"# TYPE inkstone_serve_running gauge\ninkstone_serve_running {running}\n"
    own += "# TYPE inkstone_serve_refused_total counter\n"
    for status, count in sorted({400: 0, 401: 0, 429: 0, 500: 0, **desk.refused}.items()):
        own += f'inkstone_serve_refused_total{{status="{status}"}} {count}\n'
    own += "# TYPE inkstone_serve_cached_total counter\n"
    own += f"inkstone_serve_cached_total {desk.again.answered}\n"
    own += f"# TYPE inkstone_serve_workers gauge\ninkstone_serve_workers {desk.drawing}\n"
    return Response(text + own.encode(), media_type="text/plain; version=0.0.4")


_UNSTORED = {"Cache-Control": "no-store"}


def _document(desk: Desk, request: Request, ticket: Ticket) -> dict[str, Json]:
    return ticket.document(_base(request), desk.place(ticket))


def _ticket(desk: Desk, request: Request) -> Ticket:
    return desk.ticket(request.path_params["id"], _owner(request))


def _owner(request: Request) -> str:
    owner: str = request.scope["inkstone.owner"]
    return owner


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _media(request: Request) -> str:
    return str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def _json(request: Request, kinds: str = "JSON") -> bytes:
    """A body of JSON; kinds: what the route takes. A form is refused: a page of another site could
    send one. The request keeps no copy, as `request.body()` would for as long as the job waits.
    """
    if _media(request) != "application/json":
        sent = _media(request)[:60] or "nothing"
        raise Refusal(
            f"The Content-Type is {sent}: expected {kinds}, sent as application/json.", 415
        )
    return b"".join([part async for part in request.stream()])


async def _form(request: Request, most: int) -> Body:
    """The fields and files of a form. most: bytes of a text, which may be a picture."""
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException

    if not _UTF8.search(request.headers["content-type"]):
        raise Refusal("The form has another charset: send it in UTF-8.", 415)
    texts: dict[str, list[str]] = {}
    files: dict[str, list[Any]] = {"image": [], "mask": []}
    try:
        form = await request.form(max_files=20, max_fields=_MOST_FIELDS, max_part_size=most)
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            most_files = f"expected at most {MOST_IMAGES} pictures and a mask"
            raise Refusal(f"The form has too many files: {most_files}.", param="image") from None
        raise Refusal(f"The form cannot be read: {error.detail}") from None
    async with request.form() as form:
        for name, value in form.multi_items():
            plain = name.partition("[")[0]
            if plain in PICTURE_FIELDS and _is_empty(value):
                continue
            if isinstance(value, UploadFile) and plain in PICTURE_FIELDS:
                files["mask" if plain == "mask" else "image"].append(await value.read())
            elif isinstance(value, str) and plain not in PICTURE_FIELDS:
                texts.setdefault(name, []).append(value)
            else:
                raise Refusal(
                    f"{name[:60]}: expected image and mask as files, everything else as text.",
                    param=name[:60],
                )
    if len(files["mask"]) > 1:
        raise Refusal("mask: expected one file.", param="mask")
    return Body(form_texts(texts), files["image"], files["mask"][0] if files["mask"] else None)


def _is_empty(value: UploadFile | str) -> bool:
    """True for what a page sends of a file that nobody chose."""
    return not value if isinstance(value, str) else not value.filename and not value.size
