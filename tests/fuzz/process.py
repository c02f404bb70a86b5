"""One process that fuzzes one target with atheris: `python -m tests.fuzz.process TARGET CORPUS
FINDINGS SECONDS`. Findings do not stop it; it writes a file for each kind, and counts executions.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from random import Random

import atheris

_SLOW_DOWN = 4  # of Python with coverage counters, and other work on the machine
_HANG = 60  # seconds after which an execution is ended, and the process with it
_MEMORY = 4096  # MiB of the process


def main() -> None:
    """Fuzz until the time is over."""
    name, corpus, findings, seconds = sys.argv[1], *map(Path, sys.argv[2:4]), int(sys.argv[4])
    with atheris.instrument_imports(include=["inkstone"]):
        from .. import conftest  # noqa: F401  registers the package
        from .judge import SECONDS, judge
        from .mutants import mutant
        from .targets import TARGETS

        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        target, counts, known = TARGETS[name], {"executions": 0}, set[str]()

        def one_input(data: bytes) -> None:
            counts["executions"] += 1
            finding = judge(target, data, SECONDS * _SLOW_DOWN)
            if finding is not None and finding.kind not in known:
                known.add(finding.kind)
                (findings / f"{name}-{finding.kind}").write_bytes(data)
                (findings / f"{name}-{finding.kind}.txt").write_text(finding.text + "\n")
            if counts["executions"] % 50 == 1:
                (findings / f"{name}.count").write_text(json.dumps(counts["executions"]))

        def changed(data: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            if rng.random() < 0.4:
                return atheris.Mutate(data, most)
            return mutant(data, rng)[:most]

        options = (
            f"-max_total_time={seconds}",
            f"-timeout={_HANG}",
            f"-rss_limit_mb={_MEMORY}",
            f"-artifact_prefix={findings}/{name}-",
            "-max_len=65536",
            "-len_control=0",
            "-print_final_stats=0",
            "-verbosity=0",
        )
        atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=changed)
        try:
            atheris.Fuzz()
        finally:
            (findings / f"{name}.count").write_text(json.dumps(counts["executions"]))


if __name__ == "__main__":
    main()
