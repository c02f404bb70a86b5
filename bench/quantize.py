"""`inkstone quantize` as a whole process at full width: time and the most memory that it holds.

Writes once, into --folder, a bf16 file of a few full-width blocks, whose tensors are as large as
those of the whole model: the peak does not depend on their number. Peak is all that is
resident in the process, Python and torch included, pages of mapped files too.

python bench/quantize.py --folder /tmp/inkstone-load
"""

from __future__ import annotations

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
from bench.load import WEIGHTS, prepare

GOAL = 2e9  # bytes
# the process says its own peak: what the system counts for a child begins with its parent's
RUN = (
    "import sys; sys.path.insert(0, {root!r}); from bench import harness; "
    "from inkstone.headless.cli.main import main; status = main(sys.argv[1:]); "
    "print(harness.RESULT + str(harness.peak())); sys.exit(status)"
)


@dataclass
class Written:
    """One process: type, wall seconds, most bytes resident, bytes of the file."""

    kind: str
    seconds: float
    peak: int
    size: int


def quantize(source: Path, kind: str, work: Path, threads: int) -> Written:
    """Runs the command once."""
    out = work / f"{kind}{'.safetensors' if kind == 'fp8_scaled' else '.gguf'}"
    call = [sys.executable, "-c", RUN.format(root=str(harness.ROOT)), "quantize"]
    call += [str(source), str(out), "--type", kind, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(call, env=env, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"inkstone quantize ended with status {done.returncode}, see above.")
    line = next(x for x in done.stdout.splitlines() if x.startswith(harness.RESULT))
    peak = int(line.removeprefix(harness.RESULT))
    written = Written(kind, seconds, peak, out.stat().st_size)
    out.unlink()
    return written


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--folder", type=Path, required=True, help="where the model file is kept")
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--types", default="Q4_K_M,Q8_0,fp8_scaled")
    args = p.parse_args()
    part = prepare(args.folder, args.layers)
    size = (part / WEIGHTS).stat().st_size
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        runs = [quantize(part, k, Path(work), args.threads) for k in args.types.split(",")]
    facts = common.facts(args)
    title = f"inkstone quantize, {args.layers} full-width blocks (bf16 file of {size / 1e6:.0f} MB)"
    cells: common.Cells = [("", "seconds", "s / G weights", "peak MB", "/ 2 GB", "file MB")]
    for r in runs:
        cells.append(
            (
                r.kind,
                f"{r.seconds:.1f}",
                f"{r.seconds / (size / 2e9):.0f}",
                f"{r.peak / 1e6:.0f}",
                f"{r.peak / GOAL:.2f}",
                f"{r.size / 1e6:.0f}",
            )
        )
    if args.json:
        print(json.dumps({"title": title, **facts, "runs": [asdict(r) for r in runs]}, indent=1))
    else:
        print(common.report(title, cells, facts))


if __name__ == "__main__":
    main()
