"""The frame of every benchmark: each side in its own process, a table with ratios and a floor.

A benchmark file lists sides (name -> function that prepares and returns the work as a callable),
calls `main`, and gets: the same thread count for all, repeats bounded by `--seconds`, peak memory
above the loaded weights, an aligned table, `--json`. The floor is the products of our own work
(convolutions, matrix products, attention) recorded on the meta device and then timed alone on data
of those shapes. Importing this module makes the tree importable as `inkstone`, installed or not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.package import ROOT

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)
RESULT = "RESULT "
Work = Callable[[], object]
Prepare = Callable[[argparse.Namespace], Work]


@dataclass(frozen=True)
class Result:
    """One side: best and all times in seconds, peak bytes above what was there before the work."""

    side: str
    seconds: float
    runs: tuple[float, ...] = ()
    peak: int | None = None


@dataclass(frozen=True)
class Bench:
    """Sides in the order of the table; `peer` is the one that ratios refer to."""

    title: str
    sides: Mapping[str, Prepare]
    peer: str
    floor: str  # the side that gives the products alone


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    p = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="for every side")
    p.add_argument("--seconds", type=float, default=20.0, help="stop repeating a side after this")
    p.add_argument("--sides", default="", help="comma-separated; default: all")
    p.add_argument("--json", action="store_true", help="print facts as JSON instead of a table")
    p.add_argument("--one-side", help=argparse.SUPPRESS)
    return p


def main(bench: Bench, args: argparse.Namespace) -> None:
    """Runs one side (in a child) or all of them (in the parent) and prints."""
    if args.one_side:
        print(RESULT + json.dumps(asdict(measure(args.one_side, bench.sides[args.one_side], args))))
        return
    names = args.sides.split(",") if args.sides else list(bench.sides)
    unknown = [name for name in names if name not in bench.sides]
    if unknown:
        raise SystemExit(
            f"No side {', '.join(unknown)}: expected some of {', '.join(bench.sides)}."
        )
    results = [_child(name, args.threads) for name in names]
    facts = {"title": bench.title, "command": command(), **machine(), "threads": args.threads}
    if args.json:
        print(json.dumps({**facts, "results": [asdict(r) for r in results]}, indent=1))
    else:
        print(table(bench, results, facts))


def _child(side: str, threads: int) -> Result:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    call = [sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:], "--one-side", side]
    done = subprocess.run(call, env=env, stdout=subprocess.PIPE, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith(RESULT)), None)
    if line is None:
        raise SystemExit(
            f"Side '{side}' ended with status {done.returncode} and no result, see above."
        )
    return Result(**json.loads(line[len(RESULT) :]))


def measure(side: str, prepare: Prepare, args: argparse.Namespace) -> Result:
    """Prepares, then repeats the work for `--seconds`; the work may return its own seconds."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        work = prepare(args)
        gc.collect()
        before, began = resident(), time.perf_counter()
        runs: list[float] = []
        while not runs or time.perf_counter() - began + runs[-1] < args.seconds:
            start = time.perf_counter()
            own = work()
            runs.append(own if isinstance(own, float) else time.perf_counter() - start)
            own = None
    return Result(side, min(runs), tuple(runs), peak() - before)


def resident() -> int:
    """Bytes resident now; resets the kernel's high-water mark where it can be reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak()


def peak() -> int:
    """The most bytes resident since `resident()`."""
    try:
        match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        assert match is not None  # every Linux says it
        return int(match[1]) * 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def products(run: Work) -> Callable[[], float]:
    """Records the products of `run` on the meta device -> a function that times them alone."""
    import torch
    from torch.overrides import TorchFunctionMode

    heavy = {
        torch.conv2d,
        torch.nn.functional.linear,
        torch.mm,
        torch.bmm,
        torch.matmul,
        torch.nn.functional.scaled_dot_product_attention,
    }
    calls: Counter = Counter()

    class Record(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in heavy:
                calls[func, tuple(map(_spec, args)), tuple(_specs(kwargs or {}))] += 1
            return func(*args, **(kwargs or {}))

    with Record():
        run()
    return lambda: sum(_time_one(key) * count for key, count in calls.items())


def _spec(value: object) -> object:
    """A tensor as (shape, strides, type); anything else as it is."""
    if hasattr(value, "stride"):
        return ("tensor", tuple(value.shape), tuple(value.stride()), value.dtype)
    return tuple(value) if isinstance(value, list) else value


def _specs(kwargs: dict) -> list[tuple[str, object]]:
    return [(name, _spec(value)) for name, value in kwargs.items()]


def _real(spec: object) -> object:
    import torch

    if not (isinstance(spec, tuple) and spec and spec[0] == "tensor"):
        return spec
    _, shape, strides, dtype = spec
    size = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    return torch.randn(size).to(dtype).as_strided(shape, strides)


def _time_one(key: tuple) -> float:
    """Best of three calls in seconds."""
    func, specs, named = key
    args, kwargs = [_real(s) for s in specs], {name: _real(s) for name, s in named}
    times = []
    for _ in range(3):
        start = time.perf_counter()
        func(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return min(times)


def command() -> str:
    """The command line that gives these figures again."""
    path = Path(sys.argv[0]).resolve()
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return " ".join(["python", str(name), *sys.argv[1:]])


def machine() -> dict:
    """Processor, its instructions that matter here, and torch's version."""
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", text)
    have = set(flags[1].split()) if flags else set()
    return {
        "cpu": name[1].strip() if name else platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in have],
        "torch": torch.__version__,
    }


def table(bench: Bench, results: list[Result], facts: dict) -> str:
    """Aligned columns: side, seconds, of the peer, of the floor, peak memory, of the peer."""
    by = {r.side: r for r in results}
    peer, floor = by.get(bench.peer), by.get(bench.floor)
    lines = [("", "seconds", f"/ {bench.peer}", "/ floor", "peak MB", f"/ {bench.peer}", "runs")]
    for r in results:
        memory = None if r.side == bench.floor else r.peak
        lines.append(
            (
                r.side,
                f"{r.seconds:.3f}",
                _ratio(r.seconds, peer.seconds if peer else None),
                _ratio(r.seconds, floor.seconds if floor else None),
                f"{memory / 1e6:.0f}" if memory else "-",
                _ratio(memory, peer.peak if peer else None),
                str(len(r.runs)),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    ]
    machine = f"{facts['cpu']} ({' '.join(facts['flags'])})"
    foot = f"{machine}, {facts['threads']} threads, torch {facts['torch']}"
    return "\n".join([facts["title"], *rows, foot, f"$ {facts['command']}"])


def _ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f}" if a and b else "-"
