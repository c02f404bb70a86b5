"""Milliseconds per million weights that unpacking takes on this CPU, for every type in use.

Sides, each in a process of its own: `ours` as it is, `torch` with native code off
(INKSTONE_NATIVE=0). A matrix of a usual size is unpacked whole, row pieces as products take them.
Both sides must give the same bits. The floor is a copy of the result.

python bench/unpack.py
python bench/unpack.py --types Q4_K,Q6_K --dtype bfloat16 --threads 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from inkstone.kernels.linear import UNPACKED
from inkstone.kernels.triton.backend import random_weight
from inkstone.quant.fp8 import E4M3, Fp8Storage
from inkstone.quant.int_quant import RowScaledStorage
from inkstone.quant.storage import Storage

ROWS, WIDTH = 3072, 12288
GGUF = ("Q4_K", "Q6_K", "Q5_K", "Q8_0", "Q3_K", "Q2_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_XS")
TYPES = (*GGUF, "IQ4_NL", "fp8", "int8")
SIDES = {"ours": {}, "torch": {"INKSTONE_NATIVE": "0"}}


def storage_of(name: str) -> Storage:
    """A random weight."""
    dice = torch.Generator().manual_seed(1)
    if name == "fp8":
        codes = torch.randint(0, 127, (ROWS, WIDTH), dtype=torch.uint8, generator=dice)
        return Fp8Storage(codes, E4M3, torch.tensor(0.01))
    if name == "int8":
        codes = torch.randint(-127, 128, (ROWS, WIDTH), dtype=torch.int8, generator=dice)
        return RowScaledStorage("int8_tensorwise", codes, torch.full((ROWS, 1), 0.01), 8, 0)
    return random_weight(name, ROWS, WIDTH)


def one(name: str, dtype: torch.dtype, seconds: float) -> tuple[float, str]:
    """(best milliseconds per million weights, a digest of the bits)"""
    storage, step = storage_of(name), UNPACKED // WIDTH
    buffer = torch.empty(step, WIDTH, dtype=dtype)
    digest, best, began = hashlib.sha256(), float("inf"), time.perf_counter()
    for at in range(0, ROWS, step):
        part = storage.rows_into(at, buffer[: min(step, ROWS - at)])
        digest.update(part.view(torch.uint8).numpy().tobytes())
    while best == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for at in range(0, ROWS, step):
            storage.rows_into(at, buffer[: min(step, ROWS - at)])
        best = min(best, time.perf_counter() - start)
    return 1e9 * best / (ROWS * WIDTH), digest.hexdigest()


def floor(dtype: torch.dtype) -> float:
    """Milliseconds per million weights of a copy."""
    a = torch.ones(UNPACKED, dtype=dtype)
    b = torch.empty_like(a)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        b.copy_(a)
        times.append(time.perf_counter() - start)
    return 1e9 * min(times) / UNPACKED


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--types", default=",".join(TYPES))
    p.set_defaults(seconds=2.0)
    args = p.parse_args()
    names, dtype = args.types.split(","), getattr(torch, args.dtype)
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        p.error(f"no type {', '.join(unknown)}: expected some of {', '.join(TYPES)}")
    torch.set_num_threads(args.threads)
    if args.one_side:
        with torch.inference_mode():
            found = {name: one(name, dtype, args.seconds) for name in names}
        print(harness.RESULT + json.dumps(found))
        return
    sides = args.sides.split(",") if args.sides else list(SIDES)
    found = {side: child(side, args) for side in sides}
    report(args, names, found, floor(dtype))


def child(side: str, args: argparse.Namespace) -> dict[str, tuple[float, str]]:
    """The result of one side."""
    call = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--one-side", side]
    env = {**os.environ, **SIDES[side]}
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False, env=env)
    line = next((x for x in done.stdout.splitlines() if x.startswith(harness.RESULT)), None)
    if line is None:
        raise SystemExit(f"Side '{side}' ended with status {done.returncode}, see above.")
    return json.loads(line[len(harness.RESULT) :])


def report(args: argparse.Namespace, names: list[str], found: dict[str, dict], low: float) -> None:
    """The table, or JSON."""
    facts, title = common.facts(args), f"unpacking to {args.dtype}, ms per million weights"
    if args.json:
        print(json.dumps({"title": title, **facts, "floor": low, "sides": found}, indent=1))
        return
    ours, theirs = found.get("ours", {}), found.get("torch", {})
    cells: common.Cells = [("", "ours", "torch", "ours / torch", "ours / floor", "same bits")]
    for name in names:
        a, b = ours.get(name, (0.0, "")), theirs.get(name, (0.0, ""))
        same = "-" if not a[1] or not b[1] else "yes" if a[1] == b[1] else "NO"
        times = (f"{x:.3f}" if x else "-" for x in (a[0], b[0]))
        cells.append((name, *times, common.ratio(a[0], b[0]), common.ratio(a[0], low), same))
    print(common.report(title, cells, facts))
    if any(row[-1] == "NO" for row in cells):
        raise SystemExit("The two sides do not give the same bits.")


if __name__ == "__main__":
    main()
