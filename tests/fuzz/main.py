"""`scripts/fuzz`: all targets in turn within some minutes; the corpus is kept from run to run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from .. import conftest  # noqa: F401  registers the package
from .judge import judge
from .seeds import SEEDS
from .targets import TARGETS

_ROOT = Path(__file__).resolve().parents[2]
_ARTIFACTS = ("crash-", "timeout-", "oom-", "leak-")  # of inputs that end the process
_LEAST = 5  # seconds of a target
_SPARE = 600  # seconds that a process may take beyond its time: a busy machine starts it slowly
_INSTALL = (
    "atheris is missing: install it with `pip install '.[fuzz]'` (Linux, CPython 3.11 to 3.13)."
)


@dataclass(frozen=True)
class Turn:
    """The outcome of one target."""

    name: str
    executions: int
    corpus: int
    findings: list[Path]
    failure: str = ""


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inkstone-fuzz"
    p = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.partition(": ")[2])
    p.add_argument("--minutes", type=float, default=30, help="in all (default %(default)s)")
    p.add_argument("--only", action="append", choices=sorted(TARGETS), help="may be repeated")
    p.add_argument("--jobs", type=int, default=2, help="processes at a time (default %(default)s)")
    p.add_argument("--corpus", type=Path, default=cache, help="kept here (default %(default)s)")
    p.add_argument("--list", action="store_true", help="print the targets")
    return p.parse_args()


def main() -> int:
    """0 without findings, 1 with some, 2 where atheris is missing."""
    args = _arguments()
    if args.list:
        print(*(f"{name:16} {f.__doc__.splitlines()[0]}" for name, f in TARGETS.items()), sep="\n")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(_INSTALL, file=sys.stderr)
        return 2
    names = args.only or list(TARGETS)
    seconds = max(_LEAST, int(args.minutes * 60 * args.jobs / len(names)))
    findings = args.corpus / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        turns = pool.map(lambda name: _turn(name, args.corpus, findings, seconds), names)
        return _report(turns)


def _report(turns) -> int:
    total, bad = 0, 0
    for turn in turns:
        total += turn.executions
        bad += len(turn.findings) + bool(turn.failure)
        print(f"{turn.name:16} {turn.executions:>9,} executions, {turn.corpus:>5} inputs kept")
        for path in turn.findings:
            note = path.with_name(path.name + ".txt")
            print(f"  finding: {path}")
            print(f"    {note.read_text().strip() if note.is_file() else 'ended the process'}")
        if turn.failure:
            print(f"  the fuzzer failed: {turn.failure}")
        sys.stdout.flush()
    print(f"{total:,} executions, {bad} findings")
    return 1 if bad else 0


def _turn(name: str, home: Path, findings: Path, seconds: int) -> Turn:
    """Fuzz one target in a process of its own, since an input may end it."""
    corpus = home / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]():
        (corpus / sha256(seed).hexdigest()).write_bytes(seed)
    count = findings / f"{name}.count"
    executions, end, failure, log = 0, time.monotonic() + seconds, "", findings / f"{name}.log"
    while (left := int(end - time.monotonic())) > 0 and not failure:
        count.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.process", name, corpus, findings, str(left)]
        before = set(findings.iterdir())
        with log.open("wb") as out:
            try:
                done = subprocess.run(
                    command, cwd=_ROOT, stdout=out, stderr=out, timeout=left + _SPARE
                ).returncode
            except subprocess.TimeoutExpired:
                done = None
        executions += json.loads(count.read_text()) if count.is_file() else 0
        ended = [p for p in set(findings.iterdir()) - before if _is_artifact(name, p)]
        if done != 0 and not ended:
            failure = "no end in time" if done is None else f"exit status {done}, see {log}"
    kept = sum(1 for _ in corpus.iterdir())
    return Turn(name, executions, kept, _still_wrong(name, findings), failure)


def _is_artifact(name: str, path: Path) -> bool:
    return path.name.startswith(tuple(f"{name}-{kind}" for kind in _ARTIFACTS))


def _still_wrong(name: str, findings: Path) -> list[Path]:
    """The findings of a target, of earlier runs too; those that are mended are removed."""
    wrong = []
    for path in sorted(findings.glob(f"{name}-*")):
        if path.suffix in (".txt", ".count", ".log"):
            continue
        if not _is_artifact(name, path) and judge(TARGETS[name], path.read_bytes()) is None:
            path.unlink()
            path.with_name(path.name + ".txt").unlink(missing_ok=True)
            continue
        wrong.append(path)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
