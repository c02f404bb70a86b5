"""`inkstone serve --ray local`: pictures per hour of one worker and of two, each with one core, and
one of two killed during work.

python bench/serve_ray.py
python bench/serve_ray.py --size 128x128 --steps 80
python bench/serve_ray.py --kill
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from tests.support.batches import importable, records

_TURNS = (1, 2, 2, 1)  # workers: a shared machine's speed moves from minute to minute
_PROMPT = "a red circle on a white background"
_START = 120  # seconds at most


class Client:
    """Requests to a server."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def __call__(self, path: str, body: dict | None = None) -> str:
        """The text of an answer; with a body a POST."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def states(self, names: list[str]) -> list[str]:
        """Of jobs."""
        return [json.loads(self(f"/v1/jobs/{name}"))["state"] for name in names]

    def metric(self, name: str) -> float:
        """One number of /metrics."""
        return float(re.findall(rf"^{name} (\S+)$", self("/metrics"), re.MULTILINE)[0])


@contextmanager
def server(folder: Path, workers: int) -> Iterator[Client]:
    """A server with these workers, all of them running."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    call = ["serve", "--port", str(port), "--models", str(folder), "--state", str(folder / "state")]
    call += ["--max-queue", "1000", "--max-per-key", "1000"]
    process = subprocess.Popen(
        [*common.INKSTONE, *call, "--ray", "local", "--workers", str(workers)],
        env=importable(folder / "packages") | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    client, until = Client(port), time.monotonic() + _START
    try:
        while True:
            try:
                if client.metric("inkstone_serve_workers") == workers:
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the server does not start: is Ray installed?")
            time.sleep(0.1)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def draw(folder: Path, workers: int, count: int, job: dict, kill: bool) -> dict:
    """Jobs per hour, without the first job of each worker."""
    with server(folder, workers) as client:
        names = [json.loads(client("/v1/jobs", job | {"seed": k}))["id"] for k in range(count)]
        journal = folder / "state" / "results"
        killed = False
        while len(records(journal)) < count:
            if kill and not killed and len(records(journal)) >= count // 3:
                os.kill(records(journal)[-1]["process"], signal.SIGKILL)
                killed = True
            time.sleep(0.1)
        states = client.states(names)
        retries = client.metric("inkstone_batch_retries_total")
    done = records(journal)
    if len({record["id"] for record in done}) != count or len(done) != count:
        raise SystemExit(f"{len(done)} records for {count} jobs")
    ends = sorted(record["ended"] for record in done)
    rate = (count - workers) / (ends[-1] - ends[workers - 1]) * 3600
    facts = {"workers": workers, "per hour": round(rate), "done": states.count("done")}
    return facts | {"retries": int(retries)}


def main() -> None:
    """Measures and prints."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--jobs", type=int, default=24)
    p.add_argument("--steps", type=int, default=16)
    p.add_argument("--size", default="512x512")
    p.add_argument("--kill", action="store_true", help="two workers, one killed during work")
    args = p.parse_args()
    job = {"prompt": _PROMPT, "size": args.size, "steps": args.steps}
    runs = []
    for workers in (2,) if args.kill else _TURNS:
        with tempfile.TemporaryDirectory(prefix="inkstone-bench-") as folder:
            runs.append(draw(Path(folder), workers, args.jobs, job, args.kill))
    result: dict = {"jobs": args.jobs, "runs": runs}
    if not args.kill:
        one, two = (median(r["per hour"] for r in runs if r["workers"] == n) for n in (1, 2))
        result["2 workers / 1 worker"] = round(two / one, 3)
    print(json.dumps(result | {"command": harness.command()}, indent=1))


if __name__ == "__main__":
    main()
