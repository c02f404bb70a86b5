"""`inkstone serve` under load: mixed requests, cancelling, kills, a full queue. The embedded model.

Every answer is checked: its status, its number of pictures, and that each PNG has the seed that was
asked for, so that none is lost, doubled or somebody else's.

python bench/serve_load.py --load 300      16 clients; seconds by kind, memory, handles, threads
python bench/serve_load.py --cancel 10     seconds until a job has ended, cancelled in each phase
python bench/serve_load.py --kill 20       kill -9 at random moments: every accepted job ends once
python bench/serve_load.py --overload 50   that many clients at once for a queue of four
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common
from bench.serve_requests import KINDS, WAIT, Server, check, drawing

ROOM = ("--max-queue", "500", "--max-per-key", "500")
_PART = 100  # requests after which memory is looked at


def load(folder: Path, count: int, clients: int) -> common.Cells:
    """Mixed requests; a row for each kind, and one for each hundred."""
    server, names = Server(folder, *ROOM), list(KINDS)
    took: dict[str, list[float]] = defaultdict(list)
    levels: common.Cells = [("after", "MB", "handles", "threads")]

    def one(k: int) -> None:
        name, start = names[k % len(names)], time.perf_counter()
        KINDS[name](server, 10 * k)
        took[name].append(time.perf_counter() - start)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for first in range(0, count, _PART):
            list(pool.map(one, range(first, min(count, first + _PART))))
            memory, handles, threads = server.facts()
            levels.append(
                (f"{min(count, first + _PART)}", f"{memory:.0f}", f"{handles}", f"{threads}")
            )
    seconds = time.perf_counter() - began
    time.sleep(2)
    text = server.ask("GET", "/metrics")[1].decode()
    for left in ("inkstone_serve_waiting 0", "inkstone_serve_running 0"):
        check(left in text, f"jobs are left: {left} is not there")
    twice = [name for name, number in Counter(server.records()).items() if number > 1]
    check(not twice, f"ended twice: {twice}")
    server.end()
    cells: common.Cells = [("kind", "requests", "p50, s", "p95, s")]
    for name in [*names, "all"]:
        values = sorted(took[name] if name != "all" else sum(took.values(), []))
        p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
        cells.append((name, f"{len(values)}", f"{statistics.median(values):.2f}", f"{p95:.2f}"))
    return [*cells, (f"{count / seconds:.1f} requests per second", "", "", ""), *levels]


def cancels(folder: Path, times: int) -> common.Cells:
    """Seconds from DELETE until a job is over, at random moments of its phases."""
    server, chance = Server(folder, *ROOM), random.Random(0)
    line = {"prompt": "x", "size": "512x512", "steps": 1}
    cells: common.Cells = [("phase", "cancels", "median, s", "most, s")]
    phases = {  # a job, and the part of its time in which it is cancelled
        "waits": (line, 0.0, 0.0),
        "loads, encodes": (line, 0.0, 0.1),
        "in a step": ({**line, "steps": 8}, 0.2, 0.7),
        "decodes, saves": ({**line, "n": 2}, 0.5, 0.95),
        "enlarges": ({**line, "size": "256x256", "upscale": 3}, 0.3, 0.95),
    }
    for phase, (body, least, most) in phases.items():
        values = []

        def sent(body: dict = body) -> str:
            own = {**body, "seed": chance.randrange(1 << 31)}  # what was drawn before is kept
            return json.loads(server.ask("POST", "/v1/jobs", own)[1])["id"]

        start = time.perf_counter()
        server.ended(sent())
        whole = time.perf_counter() - start
        for _ in range(times):
            names = [sent() for _ in range(2 if phase == "waits" else 1)]
            while server.job(names[0])["state"] == "queued":
                time.sleep(0.01)
            time.sleep(whole * chance.uniform(least, most))
            start = time.perf_counter()
            ended = json.loads(server.ask("DELETE", f"/v1/jobs/{names[-1]}")[1])
            if ended["state"] == "cancelled":
                values.append(time.perf_counter() - start)
            server.ask("DELETE", f"/v1/jobs/{names[0]}")
        middle = f"{statistics.median(values):.2f}" if values else "-"
        cells.append((phase, f"{len(values)}", middle, f"{max(values, default=0):.2f}"))
    server.end()
    return cells


def kills(folder: Path, times: int) -> common.Cells:
    """kill -9 while jobs come and run; at the end each has one record and its file."""
    accepted, chance = [], random.Random(1)
    for _ in range(times):
        server = Server(folder, *ROOM)
        moment = time.monotonic() + chance.uniform(0.0, 1.0)
        while time.monotonic() < moment:
            line = {"prompt": "x", "size": "64x64", "steps": 2, "image": None, "seed": 1}
            status, data = server.ask("POST", "/v1/jobs", line)
            check(status == 202, data)
            accepted.append(json.loads(data)["id"])
            time.sleep(0.05)
        server.end(kill=True)
    server = Server(folder, *ROOM)
    states = Counter(server.ended(name)["state"] for name in accepted)
    count = Counter(server.records())
    server.end()
    check(states == {"done": len(accepted)}, states)
    check(count == dict.fromkeys(accepted, 1), "lost or doubled")
    left = [path for path in (server.state / "accepted").iterdir()]
    check(not left, left)
    return [("kills", "accepted", "done once"), (f"{times}", f"{len(accepted)}", f"{len(count)}")]


def overload(folder: Path, clients: int) -> common.Cells:
    """Many at once for a queue of four."""
    server = Server(folder, "--max-queue", "4", "--max-per-key", "100")
    waits: list[float] = []
    body = drawing(1, inkstone={"steps": 20, "seed": 1})

    def one(k: int) -> int:
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
        start = time.perf_counter()
        link.request(
            "POST", "/v1/images/generations", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = link.getresponse()
        answer.read()
        if answer.status == 429:
            waits.append(time.perf_counter() - start)
            check(int(answer.headers["Retry-After"]) >= 1, "no Retry-After")
        link.close()
        return answer.status

    before = server.facts()[0]
    with ThreadPoolExecutor(clients) as pool:
        statuses = Counter(pool.map(one, range(clients)))
    after = server.facts()[0]
    server.end()
    check(set(statuses) <= {200, 429} and statuses[200] >= 4, statuses)
    row = (f"{clients}", f"{statuses[200]}", f"{statuses[429]}", f"{max(waits, default=0):.2f}")
    return [
        ("clients", "drawn", "429", "slowest 429, s", "MB more"),
        (*row, f"{after - before:.0f}"),
    ]


def main() -> None:
    """Runs what is asked for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=int, metavar="N", help="mixed requests")
    parser.add_argument("--clients", type=int, default=16, help="of --load, at a time")
    parser.add_argument("--cancel", type=int, metavar="N", help="cancels of each phase")
    parser.add_argument("--kill", type=int, metavar="N", help="kills")
    parser.add_argument("--overload", type=int, metavar="N", help="clients at once")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    parts = {
        "load": lambda folder: load(folder, args.load, args.clients),
        "cancel": lambda folder: cancels(folder, args.cancel),
        "kill": lambda folder: kills(folder, args.kill),
        "overload": lambda folder: overload(folder, args.overload),
    }
    for name, part in parts.items():
        if getattr(args, name):
            with tempfile.TemporaryDirectory() as folder:
                print(common.report(name, part(Path(folder)), common.facts(args)))


if __name__ == "__main__":
    main()
