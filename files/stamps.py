"""Whether a file is still the one that it was, by what the system keeps about it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """Size, times of the last changes, and the number of names of a file."""

    size: int
    modified: int  # of the content, in ns; a program may set it back, as `cp -p` and `rsync -t` do
    changed: int  # of content or attributes, in ns; no program sets it (on Windows: of its birth)
    names: int  # hard links; another one, or one fewer, moves `changed` and not the content

    def same_content(self, later: Stamp) -> bool:
        """True unless the content may be another. A file that lost its name, because a new one
        took its place, is still the old one for whoever has it open.
        """
        if (self.size, self.modified) != (later.size, later.modified):
            return False
        return self.changed == later.changed or self.names != later.names


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of os.stat or os.fstat."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink)
