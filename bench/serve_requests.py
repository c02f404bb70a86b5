"""A server in a process of its own, and the requests of bench/serve_load.py, each checked: status,
number of pictures, and that a PNG has the seed that was asked for.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import common, harness

GRAPH = harness.ROOT / "workflows" / "api" / "text_to_image_embedded.json"
OVER = ("done", "failed", "cancelled")
WAIT = 120.0  # seconds for one answer


class Server:
    """A server in a process of its own, with a state folder."""

    def __init__(self, folder: Path, *more: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.state = folder / "state"
        call = ["serve", "--port", str(self.port), "--state", str(self.state), "--graphs"]
        self._log = open(folder / "log", "ab")
        self.process = subprocess.Popen(
            [*common.INKSTONE, *call, "--models", str(folder), *more],
            stdout=self._log,
            stderr=self._log,
        )
        until = time.monotonic() + WAIT
        while self.status("/ready") != 200:
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(
                    f"the server does not start: {(folder / 'log').read_text()[-500:]}"
                )
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "") -> tuple[int, bytes]:
        """Status and body of an answer; body: bytes, or what is sent as JSON."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            headers = {"Content-Type": kind or "application/json"} if data is not None else {}
            link.request(method, path, data, headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def status(self, path: str) -> int:
        """Of a GET; 0 where nobody answers."""
        try:
            return self.ask("GET", path)[0]
        except OSError:
            return 0

    def job(self, name: str) -> dict[str, Any]:
        """A job as it is now."""
        return json.loads(self.ask("GET", f"/v1/jobs/{name}")[1])

    def ended(self, name: str) -> dict[str, Any]:
        """A job once it is over."""
        while (job := self.job(name))["state"] not in OVER:
            time.sleep(0.02)
        return job

    def facts(self) -> tuple[float, int, int]:
        """MB of memory, handles, threads."""
        proc = Path(f"/proc/{self.process.pid}")
        values = dict(
            line.split(":", 1) for line in (proc / "status").read_text("ascii").splitlines()
        )
        resident = int(values["VmRSS"].split()[0]) / 1024
        return resident, len(list((proc / "fd").iterdir())), int(values["Threads"])

    def records(self) -> list[str]:
        """The ids in the journal."""
        path = self.state / "results" / "results.jsonl"
        return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]

    def end(self, kill: bool = False) -> None:
        """Stops it."""
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(WAIT)
        self._log.close()


def picture(grey: int = 128) -> bytes:
    """A PNG of 64x64."""
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (64, 64), grey).save(data, "PNG")
    return data.getvalue()


def check(true: object, what: object) -> None:
    """An assertion that python -O keeps."""
    if not true:
        raise AssertionError(what)


def own(data: bytes, seed: int) -> None:
    """A PNG is that of a seed."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        check(json.loads(image.text["inkstone"])["seed"] == seed, f"not the picture of seed {seed}")


def drawing(k: int, **more: Any) -> dict[str, Any]:
    """A request of its own seed."""
    return {"prompt": "a red circle", "size": "64x64", "inkstone": {"steps": 2, "seed": k}, **more}


def generation(server: Server, k: int, n: int = 1) -> None:
    """base64."""
    status, data = server.ask("POST", "/v1/images/generations", drawing(k, n=n))
    check(status == 200, data)
    answer = json.loads(data)
    check(len(answer["data"]) == n, answer)
    for j, one in enumerate(answer["data"]):
        own(base64.b64decode(one["b64_json"]), k + j)


def address(server: Server, k: int) -> None:
    """A result at an address, read twice."""
    status, data = server.ask("POST", "/v1/images/generations", drawing(k, response_format="url"))
    check(status == 200, data)
    path = "/v1" + json.loads(data)["data"][0]["url"].partition("/v1")[2]
    for _ in range(2):
        own(server.ask("GET", path)[1], k)


def stream(server: Server, k: int) -> None:
    """Events with pictures of steps."""
    status, data = server.ask(
        "POST", "/v1/images/generations", drawing(k, stream=True, partial_images=1)
    )
    last = data.decode().rstrip().rpartition("data: ")[2]
    check(status == 200 and data.count(b".completed\ndata") == 1, data[:300])
    own(base64.b64decode(json.loads(last)["b64_json"]), k)


def edit(server: Server, k: int) -> None:
    """A form with a picture and a mask."""
    fields = [("prompt", "", b"a red circle"), ("inkstone", "", b'{"steps":2,"seed":%d}' % k)]
    fields += [("image", "a.png", picture()), ("mask", "m.png", picture(255))]
    parts = []
    for name, file, value in fields:
        called = f'; filename="{file}"' if file else ""
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{called}\r\n\r\n'
        parts.append(head.encode() + value + b"\r\n")
    body = b"".join(parts) + b"--x--\r\n"
    status, data = server.ask("POST", "/v1/images/edits", body, "multipart/form-data; boundary=x")
    check(status == 200, data)
    own(base64.b64decode(json.loads(data)["data"][0]["b64_json"]), k)


def job(server: Server, k: int) -> None:
    """From line to file, and away."""
    line = {"prompt": "a blue square", "size": "64x64", "steps": 2, "seed": k}
    status, data = server.ask("POST", "/v1/jobs", line)
    check(status == 202, data)
    done = server.ended(json.loads(data)["id"])
    check(done["state"] == "done" and len(done["files"]) == 1, done)
    own(server.ask("GET", "/v1" + done["files"][0].partition("/v1")[2])[1], k)
    check(server.ask("DELETE", f"/v1/jobs/{done['id']}")[0] == 200, "not removed")


def graph(server: Server, k: int) -> None:
    """The shipped graph."""
    api = json.loads(GRAPH.read_text("utf-8"))
    few = {f"{key}.steps": 1 for key, node in api.items() if "steps" in node["inputs"]}
    status, data = server.ask("POST", "/v1/graphs", {"graph": api, "set": few})
    check(status == 202, data)
    check(server.ended(json.loads(data)["id"])["state"] == "done", "a graph failed")


def cancel(server: Server, k: int) -> None:
    """A long job that is ended."""
    line = {"prompt": "x", "size": "128x128", "steps": 100, "seed": k}
    name = json.loads(server.ask("POST", "/v1/jobs", line)[1])["id"]
    time.sleep(k % 5 * 0.1)
    status, data = server.ask("DELETE", f"/v1/jobs/{name}")
    check(status == 200 and json.loads(data)["state"] == "cancelled", data)


def hang_up(server: Server, k: int) -> None:
    """A client that goes before its answer."""
    body = json.dumps(drawing(k, stream=bool(k % 2), inkstone={"steps": 100})).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
    head += f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        link.sendall(head.encode() + body)
        time.sleep(0.2)


def wrong(server: Server, k: int) -> None:
    """Refused, with a sentence."""
    for body, status in ((drawing(k, n=99), 400), (drawing(k, model="nobody"), 404), (b"{", 400)):
        got, data = server.ask("POST", "/v1/images/generations", body)
        check(got == status and json.loads(data)["error"]["message"], data)


def metrics(server: Server, k: int) -> None:
    """What Prometheus and people read."""
    for path in ("/metrics", "/v1/models", "/", "/health"):
        check(server.status(path) == 200, path)


KINDS: dict[str, Callable[[Server, int], None]] = {
    "generation": generation,
    "generation, n = 3": lambda server, k: generation(server, k, 3),
    "result at an address": address,
    "stream": stream,
    "edit with a mask": edit,
    "job": job,
    "graph": graph,
    "job, cancelled": cancel,
    "hang-up": hang_up,
    "refused": wrong,
    "metrics, pages": metrics,
}
