"""`inkstone draw` as a whole process: wall time by stage, and the error of a faster type.

Every run is a fresh process (libraries come from the page cache). `start` is the interpreter,
imports, saving and everything else outside the stages that the command reports. With a second type
in --dtype its picture is compared with the float32 one, in steps of 1/255.

python bench/draw.py --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness

STAGES = ("load", "encode", "denoise", "decode")


@dataclass
class Drawn:
    """One process: type, wall seconds, seconds by stage, settings."""

    dtype: str
    seconds: float
    stages: dict[str, float]
    call: dict


def draw(dtype: str, out: Path, args: argparse.Namespace) -> Drawn:
    """Runs the command once."""
    call = [*common.INKSTONE, "draw", args.prompt, "-o", str(out)]
    call += ["--json", "--quiet", "--dtype", dtype, "--seed", str(args.seed)]
    call += [
        x
        for name in ("model", "size", "steps", "cfg")
        if (value := getattr(args, name))
        for x in (f"--{name}", str(value))
    ]
    threads = str(args.threads)
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    start = time.perf_counter()
    done = subprocess.run(call, env=env, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"inkstone draw ended with status {done.returncode}, see above.")
    facts = json.loads(done.stdout)
    return Drawn(dtype, seconds, facts["seconds"], facts["call"])


def error(a: Path, b: Path) -> tuple[int, float]:
    """Largest and mean difference of two pictures, in steps of 1/255."""
    import numpy as np
    from PIL import Image

    first, second = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (a, b))
    difference = abs(first - second)
    return int(difference.max()), float(difference.mean())


def lines(runs: list[Drawn]) -> common.Cells:
    """The quickest process of every type, and the slowest wall time."""
    out: common.Cells = [("", "wall s", "worst", "start", *STAGES)]
    for dtype in dict.fromkeys(r.dtype for r in runs):
        mine = [r for r in runs if r.dtype == dtype]
        best = min(mine, key=lambda r: r.seconds)
        rest = best.seconds - sum(best.stages.values())
        numbers = [best.seconds, max(r.seconds for r in mine), rest]
        out.append((dtype, *(f"{x:.2f}" for x in [*numbers, *(best.stages[s] for s in STAGES)])))
    return out


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--model", type=Path, help="model folder; default: the embedded model")
    p.add_argument("--prompt", default="a red circle on a white background")
    p.add_argument("--size", help="WxH; default: the model's")
    p.add_argument("--steps", help="default: the model's")
    p.add_argument("--cfg", help="default: the model's")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--rounds", type=int, default=3, help="processes of every type, in turns")
    args = p.parse_args()
    types = list(dict.fromkeys(["float32", args.dtype]))
    with tempfile.TemporaryDirectory() as folder:
        files = {dtype: Path(folder) / f"{dtype}.png" for dtype in types}
        runs = [draw(t, files[t], args) for _ in range(args.rounds) for t in types]
        errors = {t: error(files["float32"], files[t]) for t in types[1:]}
    facts, call = common.facts(args), runs[0].call
    what = f"{call['size']}, {call['steps']} steps, CFG {call['cfg']:g}"
    title = f"inkstone draw as a whole process, {what}"
    if args.json:
        report = {"title": title, **facts, "runs": [asdict(r) for r in runs], "errors": errors}
        print(json.dumps(report, indent=1))
        return
    print(common.report(title, lines(runs), facts))
    for dtype, (most, mean) in errors.items():
        print(f"{dtype} against float32: at most {most}, on average {mean:.3f} of 255")


if __name__ == "__main__":
    main()
