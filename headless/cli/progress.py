"""The progress display of the command line."""

from __future__ import annotations

import sys
import time


class ProgressLine:
    """A bar on a terminal, otherwise one line per tenth. `detail`: in place of the seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._start, self._tenths = quiet, time.time(), -1

    def __call__(self, value: int, total: int, detail: str = "") -> None:
        if self._quiet:
            return
        text = f"step {value}/{total}, {detail or f'{time.time() - self._start:.1f} s'}"
        if sys.stderr.isatty():
            filled = 30 * value // total
            end = "\n" if value == total else ""
            clear = "\x1b[K" if detail else ""  # the last text may be longer
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}{clear}{end}")
        elif value == total or value * 10 // total > self._tenths:
            self._tenths = value * 10 // total
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
