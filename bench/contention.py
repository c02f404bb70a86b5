"""How much longer the stages of a 20B draw take while another process holds one core.

Runs the side `ours` of bench/full_size.py twice: on the quiet machine, and with one process beside
it that never rests, pinned to the first core. Prints each stage's seconds and their ratio.

python bench/contention.py --folder /tmp/inkstone-full --size 512x512
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness

BUSY = "import os; os.sched_setaffinity(0, {0})\nwhile True: pass"


@contextmanager
def busy() -> Iterator[None]:
    """A process that holds a core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def stages(options: list[str]) -> dict[str, float]:
    """Seconds of each stage of one draw."""
    script = Path(__file__).resolve().with_name("full_size.py")
    call = [sys.executable, str(script), *options, "--one-side", "ours"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    line = next((x for x in done.stdout.splitlines() if x.startswith(harness.RESULT)), None)
    if line is None:
        raise SystemExit(f"The draw ended with status {done.returncode}, see above.")
    ran = json.loads(line[len(harness.RESULT) :])
    facts = ran["facts"]
    return {
        "headers": facts["headers"],
        "prompt": ran["prompt"],
        "modulation table": facts["table"],
        "first step": ran["steps"][0],
        "later step": min(ran["steps"][1:] or ran["steps"]),
        "VAE": ran["vae"],
    }


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--folder", type=Path, required=True, help="where the 17 GB of files are kept")
    p.add_argument("--size", default="256x256")
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--cfg", type=float, default=1.0)
    args = p.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("This system cannot pin a process to a core: run it on Linux.")
    options = ["--folder", str(args.folder), "--size", args.size, "--steps", str(args.steps)]
    options += ["--cfg", str(args.cfg), "--threads", str(args.threads)]
    quiet = stages(options)
    with busy():
        loaded = stages(options)
    facts, title = common.facts(args), f"{args.size}: quiet, and with one core held by another"
    if args.json:
        print(json.dumps({"title": title, **facts, "quiet": quiet, "busy": loaded}, indent=1))
        return
    cells: common.Cells = [("", "quiet s", "busy s", "busy / quiet")]
    for name, seconds in quiet.items():
        ratio = common.ratio(loaded[name], seconds)
        cells.append((name, f"{seconds:.2f}", f"{loaded[name]:.2f}", ratio))
    print(common.report(title, cells, facts))


if __name__ == "__main__":
    main()
