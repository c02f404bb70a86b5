"""A server of the embedded model on a free port, in a thread. Without the extra its tests skip."""

from __future__ import annotations

import base64
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from inkstone.headless.serve.api.app import build_app  # noqa: E402
from inkstone.headless.serve.api.keys import read_keys  # noqa: E402
from inkstone.headless.serve.api.wire import server_config  # noqa: E402
from inkstone.headless.serve.desk.desk import Desk  # noqa: E402
from inkstone.headless.serve.desk.settings import ServeCall  # noqa: E402
from inkstone.headless.serve.desk.tickets import Ticket  # noqa: E402

from ...support.ports import free_port  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
QUICK = {"steps": 1, "seed": 1}
SLOW = {"prompt": "a red circle", "size": "64x64", "steps": 100}


@dataclass
class Served:
    """A running server, and a client of it."""

    desk: Desk
    url: str
    client: httpx.Client

    def ended(self, name: str, seconds: float = 60) -> dict:
        """The job once it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            job = self.client.get(f"/v1/jobs/{name}").json()
            if job["state"] in ("done", "failed", "cancelled"):
                return job
            time.sleep(0.02)
        raise AssertionError(f"{name} did not end within {seconds} s: {job}")

    def running(self, name: str, seconds: float = 60) -> None:
        """Waits until a job has done a step."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.client.get(f"/v1/jobs/{name}").json()["step"]:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} did not begin within {seconds} s")

    @contextmanager
    def slowly(self, seconds: float, first: bool = False) -> Iterator[None]:
        """Each step takes at least these seconds, or until its job is stopped: what is asked of a
        running job does not come too late. first: only those of the job that steps first.
        """
        on_step, stop = Ticket.on_step, self.desk._hands[0].stop
        slow: list[Ticket] = []
        over = threading.Event()

        def step(ticket: Ticket, done: int, of: int) -> None:
            on_step(ticket, done, of)
            slow.append(ticket)
            until = time.monotonic() + seconds
            while time.monotonic() < until and not (first and ticket is not slow[0]):
                if stop.wait(0.01) or ticket.stop.is_set() or over.is_set():
                    return

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ticket, "on_step", step)
            try:
                yield
            finally:
                over.set()


@contextmanager
def serving(call: ServeCall, start: bool = True) -> Iterator[Served]:
    """A server of this call. start=False: nothing draws, so that jobs wait."""
    import uvicorn

    desk = Desk(call)
    if not start:
        desk._work = lambda worker: None
    desk.start()
    taken = socket.create_server(("127.0.0.1", 0))
    app = build_app(desk, read_keys(call.api_key_file))
    server = uvicorn.Server(server_config(app, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not server.started:
                time.sleep(0.01)
            yield Served(desk, url, client)
    finally:
        server.should_exit = True
        thread.join(10)
        desk.close(10)


class Process:
    """`inkstone serve` as a process of its own, with a state folder."""

    def __init__(
        self, folder: Path, *more: str, env: Mapping[str, str] | None = None, seconds: float = 60
    ) -> None:
        port = free_port()
        code = (
            "import sys; sys.path.insert(0, '.')\nimport tests.conftest\n"
            "from inkstone.headless.cli.main import main\nsys.exit(main(sys.argv[1:]))"
        )
        call = ["serve", "--port", str(port), "--state", str(folder / "state")]
        call += ["--models", str(folder), *more]
        self.log = open(folder / "log", "ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *call], cwd=ROOT, env=env, stderr=self.log, stdout=self.log
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        until = time.monotonic() + seconds
        while True:
            assert time.monotonic() < until and self.process.poll() is None, "it does not start"
            try:
                self.client.get("/health")
                return
            except httpx.TransportError:
                time.sleep(0.05)

    def end(self, number: int) -> int:
        """Sends a signal; the exit status."""
        self.process.send_signal(number)
        self.client.close()
        status = self.process.wait(60)
        self.log.close()
        return status


def png(width: int = 64, height: int = 64, mode: str = "RGB", colour: object = 128) -> bytes:
    """A picture's bytes."""
    data = io.BytesIO()
    Image.new(mode, (width, height), colour).save(data, "PNG")
    return data.getvalue()


def as_text(data: bytes) -> str:
    """base64."""
    return base64.b64encode(data).decode()


def picture(text: str) -> Image.Image:
    """The picture of a b64_json."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def keys_file(folder: Path, *keys: str) -> Path:
    """A file of keys."""
    path = folder / "keys.txt"
    path.write_text("# ours\n" + "\n".join(keys) + "\n")
    return path
