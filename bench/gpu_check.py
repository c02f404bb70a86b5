"""All that a GPU decides, in one command of at most five minutes: kernels, formats, steps, memory.

Needs a machine with one NVIDIA card and a CUDA build of torch, nothing else and no network. Every
Triton kernel against torch; a 20B model of random weights at 1328x1328 as Q4_K_M, fp8 and bf16,
with its peak against the plan and torch's own unpacking as the peer; weights that are streamed;
CFG; Qwen-Image-2.1 with and without its reference cache; one linear layer four ways; the embedded
model drawn from every storage format. The tables are Markdown for bench/RESULTS.md.

Each part has a share of the time; what does not fit is named, never dropped in silence. Parts run
in a process of their own: after a fault that takes the card with it the others go on in a new one.
Exit status 1 where a check failed.

python bench/gpu_check.py                        # about 4.5 minutes on a card
python bench/gpu_check.py --quick --json card.json
python bench/gpu_check.py --only kernels,steps
python bench/gpu_check.py --tiny                 # no GPU: tiny sizes, Triton's interpreter
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import harness
from bench.gpu.report import Part, facts, markdown

# name -> share of the time; what a part leaves goes to those behind it
SHARES = {
    "machine": 4,
    "kernels": 18,
    "steps": 30,
    "streaming": 10,
    "cfg": 6,
    "references": 8,
    "products": 8,
    "formats": 16,
}
GRACE = 20  # seconds after the budget when a part that hangs is ended
MARK = harness.RESULT


def main() -> int:
    args = options()
    if args.child:
        return child(args)
    names = args.only.split(",") if args.only else list(SHARES)
    unknown = [name for name in names if name not in SHARES]
    if unknown:
        raise SystemExit(f"No part {', '.join(unknown)}: expected some of {', '.join(SHARES)}.")
    head, parts = measured([name for name in SHARES if name in names], args)
    report(args, head, parts)
    return 1 if any(part.faults for part in parts) or not parts else 0


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", default="", help=f"some of {','.join(SHARES)}")
    p.add_argument("--quick", action="store_true", help="fewer types and layers, no whole model")
    p.add_argument("--tiny", action="store_true", help="on the CPU, by Triton's interpreter")
    p.add_argument("--budget", type=float, default=270.0, help="seconds for all parts")
    p.add_argument("--folder", type=Path, help="keeps model files (5 GB); default: temporary")
    p.add_argument(
        "--json", nargs="?", const="-", help="facts as JSON: into a file, or in place of the tables"
    )
    p.add_argument("--child", default="", help=argparse.SUPPRESS)
    return p.parse_args()


def measured(names: list[str], args: argparse.Namespace) -> tuple[dict, list[Part]]:
    """(facts about the machine, the parts in order): children run them until none is left."""
    end = time.monotonic() + args.budget
    head: dict = {}
    parts: list[Part] = []
    while left := names[len(parts) :]:
        done = watched(left, args, end)
        for found in done:
            if "device" in found:
                head = found
            else:
                parts.append(Part(**found))
                print(parts[-1].verdict, file=sys.stderr, flush=True)
        if left == names[len(parts) :]:  # the first of them took the process with it
            parts.append(Part(left[0], checks=1, faults=["its process ended without a result"]))
        if time.monotonic() > end + GRACE / 2:
            parts += [Part(name, cut=["the whole part"]) for name in names[len(parts) :]]
    return head, parts


def watched(names: list[str], args: argparse.Namespace, end: float) -> list[dict]:
    """The results that a child gives; it is ended where it goes on too long."""
    budget = max(1.0, end - time.monotonic())
    call = [sys.executable, str(Path(__file__).resolve()), "--child", ",".join(names)]
    call += ["--budget", str(budget), *(["--quick"] if args.quick else [])]
    call += ["--tiny"] if args.tiny else []
    call += ["--folder", str(args.folder)] if args.folder else []
    env = dict(os.environ)
    if args.tiny:  # read when a kernel is defined
        env |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None  # it is a pipe
    killer = threading.Timer(budget + GRACE, process.kill)
    killer.start()
    try:
        lines = [line for line in process.stdout if line.startswith(MARK)]
        process.wait()
    finally:
        killer.cancel()
    return [json.loads(line[len(MARK) :]) for line in lines]


def child(args: argparse.Namespace) -> int:
    """Runs the parts, a line of JSON for each; ends after a fault that takes the card with it."""
    from bench.gpu.parts import run_parts

    def give(result: dict) -> None:
        print(MARK + json.dumps(result), flush=True)

    return run_parts(args, SHARES, give)


def report(args: argparse.Namespace, head: dict, parts: list[Part]) -> None:
    """Tables, or JSON; the verdict last."""
    result = {"command": harness.command(), **head, "parts": facts(parts)}
    if args.json == "-":
        print(json.dumps(result, indent=1))
        return
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), "utf-8")
    print(f"## {head.get('device', 'no device')}\n")
    print(", ".join(f"{key} {value}" for key, value in head.items() if key != "device") + "\n")
    if args.tiny:
        print("Times of --tiny mean nothing: it shows that the script works.\n")
    print("\n".join(markdown(part) for part in parts))
    faults = [f"{part.name}: {fault}" for part in parts for fault in part.faults]
    print(f"    {harness.command()}\n")
    print(f"FAILED: {len(faults)} checks" if faults else "all checks passed")
    print("\n".join(faults))


if __name__ == "__main__":
    sys.exit(main())
