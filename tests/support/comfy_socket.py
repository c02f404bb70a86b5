"""A websocket client for a ComfyUI on the loopback, and what its messages say.

Unusual: it is the standard library's socket, so the tests need no package beyond pytest.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from .comfy_install import ServerError


def event(message: str | bytes) -> tuple[str, dict[str, Any]]:
    """A message as (type, data). Binary kinds 1 and 4 are previews, without and with metadata."""
    if isinstance(message, str):
        parsed = json.loads(message)
        return parsed["type"], parsed.get("data") or {}
    kind, size = struct.unpack(">II", message[:8])
    if kind == 4:
        return "preview", {**json.loads(message[8 : 8 + size]), "bytes": message[8 + size :]}
    return ("preview" if kind == 1 else f"binary-{kind}"), {"bytes": message[8:]}


class WebSocket:
    """As much of RFC 6455 as a client on the loopback needs; iterating gives str and bytes."""

    def __init__(self, port: int, path: str, timeout: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self._socket.sendall("".join(line + "\r\n" for line in (*lines, "")).encode())
        self._stream = self._socket.makefile("rb")
        status = self._stream.readline()
        if b" 101 " not in status:
            raise ServerError(f"the server refused a websocket: {status!r}")
        while self._stream.readline().strip():
            pass

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, text: str, opcode: int = 1) -> None:
        """Sends one masked frame."""
        self._send(opcode, text.encode())

    def _send(self, opcode: int, data: bytes) -> None:
        mask = os.urandom(4)
        short = len(data) < 126
        size = bytes([128 | len(data)]) if short else struct.pack(">BH", 254, len(data))
        body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(bytes([128 | opcode]) + size + mask + body)

    def __iter__(self) -> Iterator[str | bytes]:
        kind, parts = 0, []
        while True:
            final, opcode, data = self._frame()
            if opcode == 8:
                return
            if opcode == 9:
                self._send(10, data)
            if opcode > 2:
                continue
            kind = opcode or kind
            parts.append(data)
            if final:
                whole = b"".join(parts)
                yield whole.decode() if kind == 1 else whole
                parts = []

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._exactly(2)
        size = second & 127
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        return bool(first & 128), first & 15, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ConnectionError("the server closed the connection")
        return data
