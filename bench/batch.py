"""`inkstone batch` over hundreds of jobs: memory, handles, kills, and workers on Ray.

    python -m bench.batch --soak 300          resident memory and open handles after every job
    python -m bench.batch --kill 20           kill -9 at random moments, then what the folder holds
    python -m bench.batch --ray 60            jobs per hour of one worker and of two
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import harness
from tests.batches import check_whole, records, write_jobs

_COLOURS = "red blue green yellow black purple orange".split()
_SHAPES = ("circle", "square", "triangle")
_WARM = 50  # jobs before memory counts: allocators and caches fill
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
    return [sys.executable, "-m", "inkstone.headless.cli", *fixed, *more]


def soak(folder: Path, count: int) -> dict:
    """One process; memory and handles are looked at from inside, after each job."""
    from inkstone.headless.batch import BatchCall, Watch, batch
    from inkstone.kernels.memory import process_bytes

    seen: list[tuple[int, int]] = []
    handles = Path("/proc/self/fd")

    def look(record: dict) -> None:
        seen.append((process_bytes(), len(os.listdir(handles))))

    started = time.perf_counter()
    facts = batch(BatchCall(jobs_file(folder, count), folder / "out"), Watch(record=look))
    check_whole(folder / "out", count)
    memory = [m / 1e6 for m, _ in seen[_WARM:]]
    slope, error = line_through(memory)
    return {
        "jobs": count, "seconds": round(time.perf_counter() - started, 1),
        "MB after the warm-up": round(memory[0], 2), "MB at the end": round(memory[-1], 2),
        "MB least and most": [round(min(memory), 2), round(max(memory), 2)],
        "slope, MB per 100 jobs": round(100 * slope, 3),
        "its standard error": round(100 * error, 3),
        "handles": sorted({h for _, h in seen[1:]}),
        "prompts encoded": facts["metrics"]["prompts_encoded"],
        "models opened": facts["metrics"]["models_opened"],
        "images per hour": facts["metrics"]["images_per_hour"],
    }  # fmt: skip


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
    count, chance, moments = kills * 8, random.Random(seed), []
    jobs, out = jobs_file(folder, count), folder / "out"
    while len(moments) < kills:
        before = len(records(out))
        process = subprocess.Popen(command(jobs, out), stdout=subprocess.DEVNULL)
        # some before the first job is done, most in the middle of one
        if chance.random() > 0.2:
            while len(records(out)) <= before and process.poll() is None:
                time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.0))
        if process.poll() is not None:
            raise SystemExit("the jobs ran out before the kills")
        process.kill()
        process.wait()
        left = [p.name for p in (out / ".work").rglob("*")] if out.exists() else []
        moments.append({"done": len(records(out)), "left in the work folder": left})
    subprocess.run(command(jobs, out), check=True, stdout=subprocess.DEVNULL)
    check_whole(out, count)
    return {"kills": kills, "jobs": count, "seed": seed, "moments": moments, "whole": True}


def on_ray(folder: Path, count: int) -> dict:
    """Jobs per hour between the first and the last record, with one worker and with two."""
    found = {}
    for workers in (1, 2):
        place = folder / str(workers)
        place.mkdir()
        jobs = jobs_file(place, count, steps=20, size="128x128", batch=1)
        more = ("--ray", "local", "--workers", str(workers))
        subprocess.run(command(jobs, place / "out", *more), check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        check_whole(place / "out", count)
        found[workers] = rate(records(place / "out"), workers)
    return {"jobs": count, "jobs per hour": found, "ratio": round(found[2] / found[1], 3)}


def rate(done: list[dict], workers: int) -> float:
    """Jobs per hour, without the start of the cluster and the first job of each worker."""
    ends = sorted(r["started"] + r["total_seconds"] for r in done)
    return round((len(ends) - workers) / (ends[-1] - ends[workers - 1]) * 3600, 1)


def main() -> None:
    """Runs what was asked and prints it."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--soak", type=int, metavar="JOBS")
    p.add_argument("--kill", type=int, metavar="TIMES")
    p.add_argument("--ray", type=int, metavar="JOBS")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    runs = {"soak": soak, "kill": lambda f, n: kill(f, n, args.seed), "ray": on_ray}
    for name, run in runs.items():
        amount = getattr(args, name)
        if amount:
            folder = Path(tempfile.mkdtemp(prefix="inkstone-bench-"))
            try:
                said = {"what": name, **run(folder, amount), "command": harness.command()}
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
