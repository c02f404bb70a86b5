"""Times commands that start cold, as a person waits for them: whole processes, in turn with another
checkout of this repository, so that both meet the same machine.

git worktree add ../before COMMIT
python bench/cold.py --against ../before
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red star on a white background"
COMMANDS = {
    "draw, embedded model": ["draw", PROMPT, "-o", "cold.png", "--quiet"],
    "--help": ["--help"],
}
# tests/conftest.py registers a checkout as `inkstone`, whatever is installed
RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from tests import conftest; "
    "from inkstone.headless.cli import main; sys.exit(main(sys.argv[1:]))"
)


def seconds(tree: Path, words: list[str], folder: str) -> float:
    """Wall time of one command in a new process."""
    start = time.perf_counter()
    command = [sys.executable, "-c", RUN, str(tree), *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Prints the median of each, and of the ratio of neighbours."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout")
    parser.add_argument("--runs", type=int, default=9, help="of each (default 9)")
    arguments = parser.parse_args()
    trees = [ROOT, *([arguments.against.resolve()] if arguments.against else [])]
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            times = [[seconds(t, words, folder) for t in trees] for _ in range(arguments.runs)]
            own = statistics.median(row[0] for row in times)
            line = f"{name}: {own:.2f} s"
            if len(trees) > 1:
                other = statistics.median(row[1] for row in times)
                ratio = statistics.median(row[0] / row[1] for row in times)
                line += f", the other tree {other:.2f} s, ratio {ratio:.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
