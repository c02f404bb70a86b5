"""Counts how often one load opens its files: weight files, JSON files, searches for packed weights.

Every open of a file goes through an audit hook of Python, so nothing is missed and nothing in the
package is patched; calls of `find_packed` and `latent_statistics` are counted by their code.

python bench/opens.py                        # the embedded model
python bench/opens.py --folder MODEL_FOLDER --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.loaders.arch.folder_config import ModelFolder
from inkstone.loaders.formats.file_reader import DiskFile
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.quant.registry import find_packed

WEIGHTS = (".safetensors", ".gguf")
COUNTED: dict[CodeType, str] = {
    DiskFile.__init__.__code__: "parsed",
    find_packed.__code__: "find_packed",
    ModelFolder.latent_statistics.__code__: "latent_statistics",
}


@dataclass
class Opens:
    """Counts of one load."""

    parsed: int = 0  # weight files opened as such; `opened` counts looks at their first bytes too
    opened: dict[str, int] = field(default_factory=dict)
    json_files: dict[str, int] = field(default_factory=dict)
    find_packed: int = 0
    latent_statistics: int = 0


def count(work: Callable[[], object]) -> Opens:
    """Runs the work and counts what it opens."""
    paths: Counter[Path] = Counter()
    calls: Counter[str] = Counter()
    counting = True

    def on_audit(event: str, args: tuple[object, ...]) -> None:
        if counting and event == "open" and isinstance(args[0], str | Path):
            paths[Path(args[0])] += 1

    def on_call(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code in COUNTED:
            calls[COUNTED[frame.f_code]] += 1

    sys.addaudithook(on_audit)  # it cannot be taken away again, so it is switched off
    sys.setprofile(on_call)
    try:
        work()
    finally:
        sys.setprofile(None)
        counting = False
    return Opens(opened=_named(paths, WEIGHTS), json_files=_named(paths, (".json",)), **dict(calls))


def _named(paths: Counter[Path], suffixes: tuple[str, ...]) -> dict[str, int]:
    """Counts by the last two parts of a path."""
    return {"/".join(p.parts[-2:]): n for p, n in sorted(paths.items()) if p.suffix in suffixes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=EMBEDDED_FOLDER)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    opens = count(lambda: load_all(args.folder))
    if args.json:
        print(json.dumps(asdict(opens)))
        return
    print(f"weight files: parsed {opens.parsed} times, opened {sum(opens.opened.values())} times")
    print(f"find_packed: {opens.find_packed}, latent_statistics: {opens.latent_statistics}")
    print(f"JSON files: read {sum(opens.json_files.values())} times")
    for name, number in (opens.opened | opens.json_files).items():
        print(f"  {number} x {name}")


if __name__ == "__main__":
    main()
