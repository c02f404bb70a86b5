"""The progress display of the command line."""

from __future__ import annotations

import sys
import time


class ProgressLine:
    """A bar on a terminal, one line per tenth otherwise."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.start, self.told = quiet, time.time(), -1

    def __call__(self, value: int, total: int) -> None:
        if self.quiet:
            return
        passed = time.time() - self.start
        text = f"step {value}/{total}, {passed:.1f} s"
        if sys.stderr.isatty():
            filled = 30 * value // total
            end = "\n" if value == total else ""
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}{end}")
        elif value == total or value * 10 // total > self.told:
            self.told = value * 10 // total
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
