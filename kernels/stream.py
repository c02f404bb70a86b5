"""What a network asks before each of its blocks when its weights are not all in memory."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """Brings blocks in. Who does it, and from where, is loaders/residency.py."""

    def enter(self, index: int) -> None:
        """Returns once the weights of block `index` are in place."""

    def close(self) -> None:
        """Lets go of what was brought in."""
