"""Routes of our own at ComfyUI's server, for the menu of its page: POST, JSON in, JSON out.

A request is answered only if it comes from the server's own page (or from a program, not from
another site's page in somebody's browser), is JSON, and is no larger than a graph may be. An answer
is computed in a thread, one at a time, so that the server goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import InkstoneError
from ..files.json_text import parse_json
from .headless import headless_host

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

LARGEST = 8 << 20  # bytes of a body; the largest official graph is below 1 MB
# Any: JSON of any shape, which the answering function has to check
Answer = Callable[[Any], dict[str, Any]]


def serve(path: str, answer: Answer) -> None:
    """Answers POST requests to `path` of the running server. An InkstoneError becomes status 400
    with its sentence.
    """
    if headless_host() is not None:
        return
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # imported outside a server
        return
    turn = asyncio.Lock()

    async def handle(request: web.Request) -> web.Response:
        status = _refusal(request)
        result: dict[str, Any] = {}
        if not status:
            data = await _body(request)
            if data is None:
                status = (413, f"The body is too large: expected at most {LARGEST >> 20} MiB.")
            else:
                async with turn:
                    status, result = await asyncio.to_thread(_answered, answer, data)
        if status:
            return web.json_response({"error": status[1]}, status=status[0])
        return web.json_response(result)

    server.routes.post(path)(handle)


def _refusal(request: web.Request) -> tuple[int, str] | None:
    """(status, sentence) for a request that is not answered."""
    if request.content_type != "application/json":
        return 415, f"The body is {request.content_type}: expected application/json."
    site, origin = (request.headers.get(name, "") for name in ("Sec-Fetch-Site", "Origin"))
    foreign = (
        site not in ("same-origin", "none")
        if site
        else bool(origin)
        and (urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower())
    )
    return (403, "The request comes from another site's page.") if foreign else None


async def _body(request: web.Request) -> bytes | None:
    """The whole body, or None as soon as it is too large."""
    parts, size = [], 0
    async for part in request.content.iter_chunked(1 << 16):
        size += len(part)
        if size > LARGEST:
            return None
        parts.append(part)
    return b"".join(parts)


def _answered(answer: Answer, data: bytes) -> tuple[tuple[int, str] | None, dict[str, Any]]:
    """(None, result), or ((status, sentence), {})."""
    try:
        return None, answer(parse_json(data.decode("utf-8")))
    except InkstoneError as error:
        return (400, str(error)), {}
    except ValueError as error:
        return (400, f"The body is not JSON: {error}."), {}
    except Exception:  # a fault of ours must not end in a page of the server's with a traceback
        log.exception("a request of the page failed")
        return (500, "Inkstone failed on this graph; the server's log has the reason."), {}
