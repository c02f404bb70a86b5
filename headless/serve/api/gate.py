"""What stands before every route: keys, the browser's origin, the size and speed of a body.

A request is refused here before its body is read, and before a framework sees it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from urllib.parse import urlsplit

from ...node_types import Json
from ..desk.refusal import Full, Refusal, error_document
from ..desk.settings import Limits, ServeCall, is_loopback
from .keys import Keys

Scope = MutableMapping[str, Json]
Receive = Callable[[], Awaitable[MutableMapping[str, Json]]]
Send = Callable[[MutableMapping[str, Json]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health", "/ready", "/openapi.json")  # without a key; results have names of their own
FILES, PAGE = "/v1/files/", "/page/"
QUEUED = ("/v1/images/generations", "/v1/images/edits", "/v1/jobs", "/v1/graphs")  # POST: a job
_HOST = re.compile(r"[A-Za-z0-9._~-]{0,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_AT_ONCE = 4  # uploads of the greatest size whose bytes may be here at the same time
_LINGER, _PAUSE = 10.0, 1.0  # seconds that the rest of a refused body is read; between two parts


class Gate:
    """An ASGI application around another. check_room: raises Full where an owner's job would find
    no place in the queue.
    """

    def __init__(
        self,
        app: App,
        call: ServeCall,
        keys: Keys,
        check_room: Callable[[str], None] = lambda owner: None,
        refused: Counter[int] | None = None,
    ) -> None:
        self._app, self._call, self._keys, self._check_room = app, call, keys, check_room
        self._refused = Counter[int]() if refused is None else refused
        self._held = 0  # bytes of bodies that are being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        body = _Body(receive, _has_body(scope), self._call.limits, self._hold)
        try:
            self._check(scope)
        except Refusal as error:
            self._refused[error.status] += 1
            await _refuse(error, body.before_the_end(send))
            return
        try:
            await self._app(scope, body.part, body.before_the_end(send))
        finally:
            body.leave()

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        owner = self._keys.owner(headers.get(b"authorization"))
        path = scope["path"]
        if owner is None and path not in OPEN and not path.startswith((FILES, PAGE)):
            refusal = Refusal(
                "The API key is missing or wrong: send `Authorization: Bearer KEY`.",
                401,
                code="invalid_api_key",
            )
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal
        scope["inkstone.owner"] = owner
        self._check_names(headers)
        length = headers.get(b"content-length", "0")
        if len(length) > 18 or not length.isdecimal() or int(length) > self._call.limits.upload:
            raise too_large(self._call.limits)
        if owner is not None and scope["method"] == "POST" and path in QUEUED:
            self._check_room(owner)

    def _check_names(self, headers: dict[bytes, str]) -> None:
        """Pages of other sites must not use a server that asks for no key."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not _HOST.fullmatch(host):
            raise Refusal("The header Host is no name of a machine: expected NAME or NAME:PORT.")
        if self._keys.asked:
            return
        if not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refusal(
                "This server asks for no key, so it answers under the names of this machine only: "
                "localhost or 127.0.0.1.",
                403,
            )
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal("A page of another site may not use this server.", 403)

    def _hold(self, count: int) -> None:
        """Counts bytes that came, or with a negative count those that have left."""
        if count > 0 and self._held + count > _AT_ONCE * self._call.limits.upload:
            raise Full("Too much is being sent to this server at once. Try again later.", 1)
        self._held += count


def too_large(limits: Limits) -> Refusal:
    """For a body above the limit."""
    units = ((1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
    most = next(
        f"{limits.upload // size} {name}"
        for size, name in units
        if limits.upload % size == 0 or limits.upload >= 10 * size
    )
    return Refusal(f"The request is too large: expected at most {most}.", 413)


def _has_body(scope: Scope) -> bool:
    """True where more than the headers is to come."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


class _Body:
    """The body of a request, with bounds for its bytes and its time."""

    def __init__(
        self, receive: Receive, comes: bool, limits: Limits, hold: Callable[[int], None]
    ) -> None:
        self._receive, self._limits, self._hold = receive, limits, hold
        self._comes = comes  # False once the last part is here
        self._count = self._mine = 0  # bytes that came; that are counted as held
        self._ends = time.monotonic() + limits.request

    async def part(self) -> MutableMapping[str, Json]:
        """The next message of `receive`. Raises Refusal."""
        if not self._comes:
            self.leave()
            return await self._receive()  # for as long as the client stays
        wait = min(self._limits.wait, max(0.0, self._ends - time.monotonic()))
        try:
            message = await asyncio.wait_for(self._receive(), wait)
        except asyncio.TimeoutError:
            raise Refusal("The request came too slowly and was given up.", 408) from None
        size = len(message.get("body") or b"")
        self._count += size
        if self._count > self._limits.upload:
            raise too_large(self._limits)
        self._hold(size)
        self._mine += size
        self._comes = bool(message.get("more_body", False))
        return message

    def leave(self) -> None:
        """The bytes are not in memory any more."""
        self._hold(-self._mine)
        self._mine = 0

    def before_the_end(self, send: Send) -> Send:
        """`send` for an answer that may come before the body is whole: it says that the connection
        closes, and lets the client finish sending for a moment, since one that is cut off while it
        sends never reads its answer.
        """
        early = False

        async def sending(message: MutableMapping[str, Json]) -> None:
            nonlocal early
            if message["type"] == "http.response.start" and self._comes:
                early = True
                headers = [pair for pair in message["headers"] if pair[0] != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            last = not message.get("more_body", False)
            if early and message["type"] == "http.response.body" and last:
                await send({**message, "more_body": True})
                await self._discard()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return sending

    async def _discard(self) -> None:
        ends = time.monotonic() + _LINGER
        while self._comes and time.monotonic() < ends:
            try:
                message = await asyncio.wait_for(self._receive(), _PAUSE)
            except asyncio.TimeoutError:
                return
            self._comes = bool(message.get("more_body", False))


async def _refuse(error: Refusal, send: Send) -> None:
    document = error_document(str(error), error.status, error.param, error.code)
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    headers |= error.headers
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
