"""Connections that cost nothing: bounds for what uvicorn waits for without end.

uvicorn has no time limit for headers, nor for a client that reads no answer, and counts idle
connections among those that it serves. Here a connection has a few seconds for its headers, a
client that stops reading is cut off, and where all places are taken the oldest connection without a
request makes room for a new one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..desk.refusal import error_document

CONNECTIONS = 256  # at a time
HEADERS = 10.0  # seconds from a connection, or from an answer's end, until a request is there
UNREAD = 30.0  # seconds in which a client reads nothing of its answer
LINGER = 1.0  # seconds until a refused connection is gone
HEADER_BYTES = 32 << 10


def server_config(app: Callable[..., Any], **more: Any) -> Config:  # Any: as uvicorn has it
    """uvicorn's settings for a server here."""
    return Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,  # addresses of results are secrets
        log_level="error",  # a warning for every bad request would be a client's to write
        server_header=False,
        timeout_keep_alive=int(HEADERS),
        h11_max_incomplete_event_size=HEADER_BYTES,
        **more,
    )


class Connection(H11Protocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None  # until its headers must be there
    _unread: asyncio.TimerHandle | None = None  # until its client must have read something
    _began = 0.0
    _ended = False  # refused: what still comes is not read
    _gone = False  # made room for another one; the loop takes it out a moment later

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room where there is none, and waits for the headers."""
        super().connection_made(transport)
        self._began = time.monotonic()
        known = [each for each in self.connections if isinstance(each, Connection)]
        every = [each for each in known if not each._gone]
        others = [each for each in every if each is not self and not each._ended]
        if len(others) >= CONNECTIONS:
            idle = [each for each in others if each.idle]
            if len(every) > 2 * CONNECTIONS:
                self.transport.abort()
                return
            if not idle:
                self._refuse("All connections of this server are in use. Try again later.", 503)
                return
            oldest = min(idle, key=lambda each: each._began)
            oldest._gone = True
            oldest.transport.abort()
        self._watch()

    @property
    def idle(self) -> bool:
        """True while no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if not self._ended and not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """The next request may come; one that was refused early may not send for ever."""
        super().on_response_complete()
        self._began = time.monotonic()
        self._watch()
        if self.transport.is_closing():
            self.loop.call_later(UNREAD, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Closes, also where the client does not read the rest."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(UNREAD, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        super().connection_lost(exc)
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()

    def _watch(self) -> None:
        """Gives the headers their time; not the body, which the gate bounds."""
        if not self.idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self.idle and self._timer is None and not self._ended:
            self._timer = self.loop.call_later(HEADERS, self._late)

    def _late(self) -> None:
        self._timer = None
        if self.idle:
            self._refuse("The headers of the request came too slowly.", 408)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, and headers that are too long."""
        self._refuse(
            f"This is no HTTP request, or its headers are longer than {HEADER_BYTES >> 10} kB.", 400
        )

    def _refuse(self, message: str, status: int) -> None:
        """Answers where no request stands, and closes; not at once, since a client that is cut off
        while it sends never reads its answer.
        """
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and self._speaks():
            body = json.dumps(error_document(message, status)).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            answer = h11.Response(
                status_code=status, headers=[*headers, ("Connection", "close")], reason=b""
            )
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)

    def _speaks(self) -> bool:
        """True where something of a request has come, or nothing was ever answered: a connection
        that is kept after its answer ends without a word.
        """
        return self.cycle is None or bool(self.conn.trailing_data[0])

    def _should_upgrade(self) -> bool:
        return False
