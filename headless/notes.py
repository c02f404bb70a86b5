"""What is said of one piece of work: its warnings, for whoever asked for it.

The command line shows warnings in its log. A server's client and a journal have no log: they
are given the sentences. Results of a cache carry those of the work that made them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MOST = 20  # sentences of one piece of work


class _Collector(logging.Handler):
    """Keeps the warnings of each thread that collects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.open = threading.local()  # .lists: those of this thread, inner ones last

    def emit(self, record: logging.LogRecord) -> None:
        """Adds the sentence to every list that is open in the thread that logs it."""
        if record.levelno == logging.WARNING:  # faults are said otherwise
            repeat([record.getMessage()])


_collector = _Collector()


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collects what is warned of in this thread, within the block; each sentence once."""
    logger = logging.getLogger(__name__.rpartition(".headless")[0])
    if _collector not in logger.handlers:
        logger.addHandler(_collector)
    lists = _lists()
    notes: list[str] = []
    lists.append(notes)
    try:
        yield notes
    finally:
        lists.pop()  # blocks are nested: the inner one ends first


def repeat(notes: Iterable[str]) -> None:
    """Adds sentences to the open lists of this thread, as of a result that a cache had."""
    for own in _lists():
        own += [note for note in notes if note not in own][: MOST - len(own)]


def _lists() -> list[list[str]]:
    if not hasattr(_collector.open, "lists"):
        _collector.open.lists = []
    lists: list[list[str]] = _collector.open.lists
    return lists
