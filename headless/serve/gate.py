"""What stands before every route: keys, the browser's origin, the size and speed of a body.

A request is refused here before its body is read, and before a framework sees it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from urllib.parse import urlsplit

from ..node_types import Json
from .keys import Keys
from .refusal import Refusal, error_document
from .settings import ServeCall, is_loopback

Scope = MutableMapping[str, Json]
Receive = Callable[[], Awaitable[MutableMapping[str, Json]]]
Send = Callable[[MutableMapping[str, Json]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health", "/ready", "/openapi.json")  # without a key; results have names of their own
FILES, PAGE = "/v1/files/", "/page/"


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: App, call: ServeCall, keys: Keys) -> None:
        self._app, self._call, self._keys = app, call, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except Refusal as error:
            await _refuse(error, send)
            return
        await self._app(scope, self._measured(receive), send)

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
        self._check_browser(headers)
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > self._call.limits.upload:
            raise self._too_large()

    def _check_browser(self, headers: dict[bytes, str]) -> None:
        """Pages of other sites must not use a server that asks for no key."""
        if self._keys.asked:
            return
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refusal(
                "This server asks for no key, so it answers under the names of this machine only: "
                "localhost or 127.0.0.1.",
                403,
            )
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal("A page of another site may not use this server.", 403)

    def _too_large(self) -> Refusal:
        most = self._call.limits.upload >> 20
        return Refusal(f"The request is too large: expected at most {most} MiB.", 413)

    def _measured(self, receive: Receive) -> Receive:
        """`receive` with bounds for the bytes and the time of the body."""
        count, ends, whole = 0, time.monotonic() + self._call.limits.request, False

        async def measured() -> MutableMapping[str, Json]:
            nonlocal count, whole
            if whole:
                return await receive()  # for as long as the client stays
            wait = min(self._call.limits.wait, max(0.0, ends - time.monotonic()))
            try:
                message = await asyncio.wait_for(receive(), wait)
            except asyncio.TimeoutError:
                refusal = Refusal("The request came too slowly and was given up.", 408)
                refusal.headers["Connection"] = "close"
                raise refusal from None
            count += len(message.get("body") or b"")
            if count > self._call.limits.upload:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        return measured


async def _refuse(error: Refusal, send: Send) -> None:
    document = error_document(str(error), error.status, error.param, error.code)
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    headers |= error.headers | {"Connection": "close"}  # what is still coming is not read
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
