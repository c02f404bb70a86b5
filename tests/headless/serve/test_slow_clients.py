"""Clients that come slowly, never read, keep connections or hang up: they cost nothing for long."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn")

from uvicorn.server import ServerState

from inkstone.headless.serve.api import gate, wire
from inkstone.headless.serve.desk.settings import Limits, ServeCall
from inkstone.kernels.memory import process_bytes

from .running import Served, as_text, httpx, png, serving
from .test_hostile_requests import raw

GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@contextmanager
def linked(server: Served, wait: float = 10) -> Iterator[socket.socket]:
    """A connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as link:
        yield link


def heard(link: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := link.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def until(true: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Waits for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def hurried(monkeypatch):
    """Time limits of a test."""
    monkeypatch.setattr(wire, "HEADERS", 1.5)
    monkeypatch.setattr(wire, "UNREAD", 0.6)
    monkeypatch.setattr(gate, "_PAUSE", 0.2)


def test_headers_that_do_not_end_are_given_up(hurried, tmp_path):
    with serving(ServeCall(models=tmp_path), start=False) as server, linked(server) as link:
        for byte in GET[:-2] + b"X-More: x\r\n" * 1000:
            try:
                link.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        answer = heard(link)
        assert answer.startswith(b"HTTP/1.1 408") or answer == b"", answer
        with linked(server) as still:
            still.sendall(GET[:20])
            answer = heard(still)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408"), answer
        assert "too slowly" in json.loads(body)["error"]["message"]
        assert server.client.get("/health").status_code == 200


def test_a_connection_without_a_request_ends(hurried, tmp_path):
    with serving(ServeCall(models=tmp_path), start=False) as server:
        with linked(server) as silent:
            assert heard(silent).startswith(b"HTTP/1.1 408")
        with linked(server) as kept:
            kept.sendall(GET)
            assert heard(kept).count(b"HTTP/1.1") == 1, "after an answer it ends without a word"


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        GET[:-2] + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        GET[:-2] + b"Content-Length: -1\r\n\r\n",
        GET[:-2] + b"Transfer-Encoding: zip\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=range(9),
)
def test_what_is_no_http_gets_a_sentence(server, text):
    answer = raw(server, text, 1)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403")), answer[:300]
    assert json.loads(body)["error"]["message"]


def test_a_broken_chunk_ends_the_connection(server, caplog):
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = raw(server, head + b'5\r\n{"pro\r\nnonsense\r\n')
    assert answer.startswith(b"HTTP/1.1 400") or answer == b"", answer
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_idle_connections_make_room(monkeypatch, tmp_path):
    monkeypatch.setattr(wire, "CONNECTIONS", 8)
    with serving(ServeCall(models=tmp_path), start=False) as server:
        host, port = server.url.removeprefix("http://").split(":")
        links = [socket.create_connection((host, int(port))) for _ in range(300)]
        try:
            with httpx.Client(base_url=server.url, trust_env=False) as client:
                assert client.get("/health").status_code == 200
        finally:
            for link in links:
                link.close()


def test_connections_that_come_at_once_each_take_another_ones_place(monkeypatch):
    monkeypatch.setattr(wire, "CONNECTIONS", 8)
    server, config = ServerState(), wire.server_config(lambda *_: None)
    config.load()

    class Line(asyncio.Transport):
        """Is taken out of the connections when the loop comes to it: after this test."""

        gone = False

        def abort(self):
            self.gone = True

        def is_closing(self):
            return self.gone

    async def connect(count: int) -> list[Line]:
        loop, lines = asyncio.get_running_loop(), [Line() for _ in range(count)]
        for line in lines:
            one = wire.Connection(config, server, {}, loop)
            one.connection_made(line)
        return lines

    lines = asyncio.run(connect(100))
    assert [line.gone for line in lines] == [True] * 92 + [False] * 8


def test_connections_at_work_are_not_closed_for_others(monkeypatch, tmp_path):
    monkeypatch.setattr(wire, "CONNECTIONS", 2)
    with serving(ServeCall(models=tmp_path), start=False) as server:
        server.client.close()
        with linked(server) as one, linked(server) as two:
            for link in (one, two):
                link.sendall(POST + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n")
                assert link.recv(100).startswith(b"HTTP/1.1 100")
            assert raw(server, GET, 3).startswith(b"HTTP/1.1 503")
            for link in (one, two):
                link.sendall(b"{}        ")
                assert link.recv(100).startswith(b"HTTP/1.1 400")


def test_who_reads_nothing_is_cut_off(hurried, tmp_path):
    with serving(ServeCall(models=tmp_path), start=False) as server:
        before = process_bytes()
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with linked(server) as link:
            with pytest.raises(OSError):  # reset: nobody sends into it any more
                for _ in range(1000):
                    link.sendall(ask * 100)
                    time.sleep(0.01)
        assert process_bytes() - before < 32 << 20
        assert server.client.get("/health").status_code == 200


def test_who_reads_no_events_is_cut_off(hurried, tmp_path):
    """The job is not disturbed, and of its previews no more is kept than the last."""
    with serving(ServeCall(models=tmp_path), start=False) as server:
        name = server.client.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
        ticket = server.desk.ticket(name, "anybody")
        before = process_bytes()
        with linked(server) as link:
            link.sendall(GET.replace(b"/health", f"/v1/jobs/{name}/events".encode()))
            until(lambda: ticket._watchers, "nobody watches")
            for step in range(1000):
                ticket.show(bytes(1 << 20))
                ticket.on_step(step, 1000)
                time.sleep(0.01)
                if not ticket._watchers:
                    break
            assert not ticket._watchers, "it still waits for its reader"
            assert process_bytes() - before < 64 << 20
        assert not ticket.over and server.client.get("/health").status_code == 200


def test_a_stream_ends_its_job_when_the_client_goes(tmp_path):
    body = json.dumps({"prompt": "x", "stream": True}).encode()
    head = POST.replace(b"/v1/jobs", b"/v1/images/generations")
    with serving(ServeCall(models=tmp_path), start=False) as server:
        with linked(server) as link:
            link.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: server.desk.numbers()[1] == 1, "it does not wait")
        until(lambda: server.desk.numbers()[1] == 0, "it waits for nobody")


def test_a_large_body_is_refused_in_a_sentence_that_arrives(tmp_path):
    limits = Limits(upload=1 << 20)
    with serving(ServeCall(models=tmp_path, limits=limits), start=False) as server:
        for _ in range(3):
            with httpx.Client(base_url=server.url, trust_env=False) as client:
                answer = client.post(
                    "/v1/images/edits",
                    data={"prompt": "x"},
                    files={"image": ("a.png", bytes(20 << 20), "image/png")},
                )
            assert answer.status_code == 413 and "at most 1 MiB" in answer.text


def test_all_bodies_together_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(gate, "_AT_ONCE", 1)
    call = ServeCall(models=tmp_path, limits=Limits(upload=1 << 20))
    part = POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 700_000
    with serving(call, start=False) as server:
        with linked(server) as one, linked(server) as two:
            one.sendall(part)
            time.sleep(0.2)
            two.sendall(part)
            answer = two.recv(1000)
            assert answer.startswith(b"HTTP/1.1 429") and b"retry-after" in answer, answer
        until(lambda: server.client.post("/v1/jobs", json={}).status_code == 400, "still held")


def test_requests_that_wait_hold_no_body(tmp_path):
    image = as_text(png() + bytes(6 << 20))  # behind a PNG's end there may be anything
    text = json.dumps({"prompt": "x", "image": image}).encode()
    call = ServeCall(models=tmp_path)

    def wait(server: Served) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            try:
                client.post(
                    "/v1/images/edits", content=text, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError:  # the server ends
                pass

    with ThreadPoolExecutor(8) as pool, serving(call, start=False) as server:
        pool.submit(wait, server)
        until(lambda: server.desk.numbers()[1] == 1, "the first does not wait", 20)
        tracemalloc.start()
        for _ in range(6):
            pool.submit(wait, server)
        until(lambda: server.desk.numbers()[1] == 7, "not all wait", 30)
        time.sleep(0.2)
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for ticket in list(server.desk._tickets.values()):
            server.desk.cancel(ticket)
    assert grown < 8 << 20, f"{grown >> 20} MiB for six requests of 8 MiB"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_pipelined_requests_are_answered_in_turn(server, version):
    ask = b"GET /health HTTP/" + version + b"\r\nHost: 127.0.0.1\r\n"
    last = ask + b"Connection: close\r\n\r\n"
    many = 1 if version == b"1.0" else 50
    answer = raw(server, (ask + b"\r\n") * (many - 1) + last)
    assert answer.count(b'{"status":"ok"}') == many
