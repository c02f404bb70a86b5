"""A real ComfyUI on this machine's CPU for tests: starts it, talks to it over HTTP, ends it.

    with ComfyServer(source, cache) as server:
        result = server.run(api_graph)          # events, history, pictures

`python -m tests.support.comfy_server --help` starts one by hand; comfy_install.py makes its
parts. Unusual: packs are linked into a base folder of the run's own, so the tree stays clean.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .comfy_install import (
    CACHE_VARIABLE,
    PACK,
    SOURCE_VARIABLE,
    ServerError,
    default_cache,
    given_source,
    prepare_base,
    prepare_python,
    prepare_stubs,
    prepare_tree,
)
from .comfy_socket import WebSocket, event
from .ports import free_port

FLAGS = (
    "--cpu",
    "--disable-api-nodes",
    "--database-url",
    "sqlite:///:memory:",
    "--use-pytorch-cross-attention",
    "--preview-method",
    "auto",
)
_FEATURES = {"supports_preview_metadata": True}
_VIEW = ("filename", "subfolder", "type")


@dataclass
class Picture:
    """One picture that a node reported: the file's bytes as /view gives them."""

    node: str
    filename: str
    type: str
    data: bytes


@dataclass
class RunResult:
    """A finished run: `events` are (type, data) as they came; previews are ("preview", {...})."""

    prompt_id: str
    history: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    images: list[Picture] = field(default_factory=list)

    def progress(self, node: str) -> list[tuple[float, float]]:
        """(value, max) of every progress message of one node."""
        return [
            (data["value"], data["max"])
            for kind, data in self.events
            if kind == "progress" and str(data.get("node")) == node
        ]


class ComfyServer:
    """Context manager: prepares ComfyUI, starts it on a free loopback port, ends it."""

    def __init__(
        self,
        source: Path,
        cache: Path | None = None,
        packs: Sequence[Path] = (PACK,),
        base: Path | None = None,
        port: int = 0,
        flags: Sequence[str] = (),
    ) -> None:
        """`base` keeps the run's input, output and models; else a temporary folder is used.
        `flags` stand behind FLAGS on the server's command line.
        """
        self.source, self.cache, self.packs = Path(source), Path(cache or default_cache()), packs
        self.port, self.flags = port or free_port(), flags
        self.url = f"http://127.0.0.1:{self.port}"
        self._own_base = base is None
        self.base = base
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyServer:
        self.cache.mkdir(parents=True, exist_ok=True)
        with open(self.cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may share a cache
            tree = prepare_tree(self.source, self.cache)
            python = prepare_python(tree, self.cache)
            stubs = prepare_stubs(python, self.cache)
        self.base = Path(self.base or tempfile.mkdtemp(prefix="base-", dir=self.cache)).resolve()
        try:
            prepare_base(self.base, self.packs)
            self._start(tree, python, stubs)
            self._wait(120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._own_base and self.base is not None:
            shutil.rmtree(self.base, ignore_errors=True)

    def _start(self, tree: Path, python: Path, stubs: Path) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": str(stubs),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPYCACHEPREFIX": str(self.cache / "pycache"),
            "HF_HUB_OFFLINE": "1",
        }
        env.pop("INKSTONE_HOST", None)
        command = [
            str(python),
            str(tree / "main.py"),
            *FLAGS,
            *self.flags,
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
        ]
        with open(self.base / "server.log", "wb") as output:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=self.base,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                status = self._process.returncode
                raise ServerError(f"ComfyUI ended at start, status {status}.\n{self.tail()}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise ServerError(f"ComfyUI did not answer within {seconds:.0f} s.\n{self.tail()}")

    @property
    def process(self) -> int:
        """Its process id."""
        return self._process.pid

    def log_text(self) -> str:
        """Everything that the server has written so far."""
        return (self.base / "server.log").read_text("utf-8", "replace")

    def tail(self, lines: int = 40) -> str:
        """The last lines of the server's log, for error messages."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def read(self, path: str) -> bytes:
        """The bytes at a path of the server."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """JSON at a path of the server, e.g. /object_info/KSampler."""
        return json.loads(self.read(path))

    def post(self, path: str, body: Any) -> Any:
        """Posts JSON; the JSON answer, or None. ServerError (with the answer) on a refusal."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            details = json.loads(text) if text.startswith("{") else text
            message = f"POST {path} was refused ({error.code}): {text[:3000]}"
            raise ServerError(message, details) from None

    def run(
        self,
        api_graph: dict[str, Any],
        extra_pnginfo: dict[str, Any] | None = None,
        timeout: float = 600,
    ) -> RunResult:
        """Queues a graph and waits for its end. ServerError if it is refused, fails or hangs.

        `timeout` counts seconds between two messages of the server.
        """
        client = uuid.uuid4().hex
        extra = {"extra_pnginfo": extra_pnginfo} if extra_pnginfo else {}
        with WebSocket(self.port, f"/ws?clientId={client}", timeout) as channel:
            channel.send(json.dumps({"type": "feature_flags", "data": _FEATURES}))
            body = {"prompt": api_graph, "client_id": client, "extra_data": extra}
            queued = self.post("/prompt", body)
            if errors := queued.get("node_errors"):
                raise ServerError(f"parts of the graph were refused: {errors}", queued)
            events = self._follow(channel, queued["prompt_id"])
        history = self._history(queued["prompt_id"])
        return RunResult(queued["prompt_id"], history, events, list(self._pictures(history)))

    def _follow(self, channel: WebSocket, prompt_id: str) -> list[tuple[str, dict[str, Any]]]:
        events = []
        try:
            for message in channel:
                kind, data = event(message)
                events.append((kind, data))
                if data.get("prompt_id") != prompt_id:
                    continue
                if kind == "execution_success":
                    return events
                if kind in ("execution_error", "execution_interrupted"):
                    raise ServerError(_failure(kind, data), data)
        except (TimeoutError, ConnectionError) as error:
            raise ServerError(f"the run did not end ({error!r}).\n{self.tail()}") from error
        raise ServerError(f"the server closed the connection during the run.\n{self.tail()}")

    def _history(self, prompt_id: str) -> dict[str, Any]:
        """The run's history entry; it is written just after the last event, so ask again."""
        for _ in range(50):
            entries = self.get(f"/history/{prompt_id}")
            if prompt_id in entries:
                return entries[prompt_id]
            time.sleep(0.1)
        raise ServerError(f"no history entry for {prompt_id}.\n{self.tail()}")

    def _pictures(self, history: dict[str, Any]) -> Iterator[Picture]:
        for node, output in history["outputs"].items():
            for item in output.get("images", ()):
                query = urllib.parse.urlencode({key: item[key] for key in _VIEW})
                yield Picture(node, item["filename"], item["type"], self.read(f"/view?{query}"))


def _failure(kind: str, data: dict[str, Any]) -> str:
    what = f"{data.get('exception_type', kind)}: {data.get('exception_message', '')}".strip()
    return f"node {data.get('node_id')} ({data.get('node_type')}): {what}"


# ---- command line --------------------------------------------------------------------------------


def main() -> int:
    """Starts a server and waits for Ctrl-C, or for the end of --command ({url} = its address)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--source", type=Path, default=given_source(), help=f"default: {SOURCE_VARIABLE}")
    add("--cache", type=Path, default=default_cache(), help=f"default: {CACHE_VARIABLE}")
    add("--pack", type=Path, action="append", help="a pack to load; default: this repository")
    add("--base", type=Path, help="keep input, output and server.log of the run here")
    add("--port", type=int, default=0)
    add("--command", help="run this in a shell, then end; its status is ours")
    arguments = parser.parse_args()
    if arguments.source is None:
        parser.error(f"give --source or {SOURCE_VARIABLE}: a git directory or a tree of ComfyUI")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    packs = [pack.resolve() for pack in arguments.pack or (PACK,)]
    server = ComfyServer(arguments.source, arguments.cache, packs, arguments.base, arguments.port)
    try:
        with server:
            return _serve(server, arguments.command)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1


def _serve(server: ComfyServer, command: str | None) -> int:
    print(server.url, flush=True)
    if "IMPORT FAILED" in server.log_text():
        print(server.tail(80), file=sys.stderr)
        return 1
    if command:
        command = command.replace("{url}", server.url)
        return subprocess.run(command, check=False, shell=True).returncode
    try:
        return server._process.wait()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
