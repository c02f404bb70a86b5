"""`inkstone batch` over hundreds of jobs: memory, handles, kills, and workers on Ray.

python bench/batch.py --soak 300          resident memory and open handles after every job
python bench/batch.py --kill 20           kill -9 at random moments, then what the folder holds
python bench/batch.py --ray 60            jobs per hour of one worker and of two
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from tests.support.batches import check_whole, records, write_jobs

_COLOURS = "red blue green yellow black purple orange".split()
_SHAPES = ("circle", "square", "triangle")
_WARM = 20  # jobs of a size before memory counts: allocators and caches fill
_TURNS = 3  # of one worker and two
_SIZES = ("64x64", "96x64", "128x128")


def jobs_file(folder: Path, count: int, **more: object) -> Path:
    """Jobs with recurring prompts, three sizes, every tenth a batch of two."""
    jobs = []
    for k in range(count):
        shape = f"a {_COLOURS[k % 7]} {_SHAPES[k % 3]} on a white background"
        job = {"prompt": shape, "seed": k, "steps": 2, "size": _SIZES[k % len(_SIZES)]}
        jobs.append(job | ({"batch": 2} if k % 10 == 9 else {}) | more)
    return write_jobs(folder / "jobs.jsonl", jobs)


def command(jobs: Path, out: Path, *more: str) -> list[str]:
    """The command line of a run."""
    fixed = ["batch", str(jobs), "--output", str(out), "--quiet"]
    return [*common.INKSTONE, *fixed, *more]


def soak(folder: Path, count: int) -> dict:
    """One process; memory and handles are looked at from inside, after each job. A queue runs its
    sizes one after the other, and each has a level of its own: the slope is that within a size.
    """
    from inkstone.headless.queue.run import BatchCall, QueueCallbacks, batch
    from inkstone.kernels.memory import process_bytes

    memory: dict[str, list[float]] = {}
    handles: set[int] = set()

    def look(record: dict) -> None:
        memory.setdefault(record["call"]["size"], []).append(process_bytes() / 1e6)
        handles.add(len(os.listdir("/proc/self/fd")))

    started = time.perf_counter()
    facts = batch(BatchCall(jobs_file(folder, count), folder / "out"), QueueCallbacks(record=look))
    check_whole(folder / "out", count)
    measures = facts["metrics"]
    return {
        "jobs": count,
        "seconds": round(time.perf_counter() - started, 1),
        "memory by size": {size: level(values[_WARM:]) for size, values in memory.items()},
        "handles": sorted(handles),
        "prompts encoded": measures["prompts_encoded"],
        "models opened": measures["models_opened"],
        "images per hour": measures["images_per_hour"],
    }


def level(memory: list[float]) -> dict:
    """MB at the begin and the end, and the slope in MB per 100 jobs with its standard error."""
    slope, error = line_through(memory)
    return {
        "MB first": round(memory[0], 2),
        "MB last": round(memory[-1], 2),
        "MB least and most": [round(min(memory), 2), round(max(memory), 2)],
        "MB per 100 jobs": round(100 * slope, 3),
        "standard error": round(100 * error, 3),
    }


def line_through(values: list[float]) -> tuple[float, float]:
    """Slope per value of the least-squares line, and its standard error."""
    n = len(values)
    centre, mean = (n - 1) / 2, sum(values) / n
    spread = sum((k - centre) ** 2 for k in range(n))
    slope = sum((k - centre) * (v - mean) for k, v in enumerate(values)) / spread
    rest = sum((v - mean - slope * (k - centre)) ** 2 for k, v in enumerate(values))
    return slope, (rest / (n - 2) / spread) ** 0.5


def kill(folder: Path, kills: int, seed: int) -> dict:
    """kill -9 at random moments of a run that goes on each time; then all must be there once."""
    count, chance = kills * 30, random.Random(seed)
    moments: list[dict] = []
    jobs, out = jobs_file(folder, count), folder / "out"
    import torch  # noqa: F401  what a child need not import again

    import inkstone.headless.queue.run  # noqa: F401

    while len(moments) < kills:
        before, child = len(records(out)), run_apart(jobs, out)
        goal = before + (chance.random() > 0.2)  # most in the midst of work, some at the start
        while len(records(out)) < goal:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.0))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            raise SystemExit("the jobs ran out before the kills")
        left = [p.name for p in (out / ".work").rglob("*")] if out.exists() else []
        moments.append({"done": len(records(out)), "left in the work folder": left})
    os.waitpid(run_apart(jobs, out), 0)
    check_whole(out, count)
    return {"kills": kills, "jobs": count, "seed": seed, "moments": moments, "whole": True}


def run_apart(jobs: Path, out: Path) -> int:
    """A run in a process of its own, begun behind the imports: more kills fall into work."""
    child = os.fork()
    if child:
        return child
    from inkstone.headless.cli.main import main as inkstone

    status = 1
    try:
        sys.stdout = open(os.devnull, "w")
        status = inkstone(["batch", str(jobs), "--output", str(out), "--quiet"])
    finally:
        os._exit(status)


def on_ray(folder: Path, count: int) -> dict:
    """Jobs per hour of one worker on one core and of two, and of the same queue without Ray: in
    turns, because a shared machine's speed moves by a tenth and more from minute to minute.
    """
    kinds = {
        "without Ray": (),
        "1 worker": ("--ray", "local", "--workers", "1"),
        "2 workers": ("--ray", "local", "--workers", "2"),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(_TURNS):
        for kind, more in list(kinds.items())[:: 1 if turn % 2 == 0 else -1]:
            place = folder / f"{turn} {kind}"
            place.mkdir()
            jobs = jobs_file(place, count, steps=20, size="128x128", batch=1)
            subprocess.run(
                command(jobs, place / "out", *more),
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            check_whole(place / "out", count)
            rates[kind].append(rate(records(place / "out"), 2 if kind == "2 workers" else 1))
    middle = {kind: median(values) for kind, values in rates.items()}
    return {
        "jobs": count,
        "jobs per hour": rates,
        "2 workers / 1 worker, each turn": [
            round(two / one, 3) for one, two in zip(rates["1 worker"], rates["2 workers"])
        ],
        "2 workers / 1 worker": round(middle["2 workers"] / middle["1 worker"], 3),
        "1 worker / without Ray": round(middle["1 worker"] / middle["without Ray"], 3),
    }


def rate(done: list[dict], workers: int) -> float:
    """Jobs per hour, without the start of the cluster and the first job of each worker."""
    ends = sorted(r["started"] + r["total_seconds"] for r in done)
    return round((len(ends) - workers) / (ends[-1] - ends[workers - 1]) * 3600, 1)


def main() -> None:
    """Runs the chosen measurements and prints them."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--soak", type=int, metavar="JOBS")
    p.add_argument("--kill", type=int, metavar="TIMES")
    p.add_argument("--ray", type=int, metavar="JOBS")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    least = len(_SIZES) * (_WARM + 3)
    if args.soak is not None and args.soak < least:
        p.error(f"--soak {args.soak}: expected at least {least} jobs, {_WARM} of each size warm up")
    runs = {"soak": soak, "kill": lambda f, n: kill(f, n, args.seed), "ray": on_ray}
    for name, run in runs.items():
        amount = getattr(args, name)
        if amount:
            folder = Path(tempfile.mkdtemp(prefix="inkstone-bench-"))
            try:
                result = {"what": name, **run(folder, amount), "command": harness.command()}
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
