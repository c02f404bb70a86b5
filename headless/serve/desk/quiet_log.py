"""A log without words of prompts: what drawing logs repeats them."""

from __future__ import annotations

import logging

DRAWS = "inkstone-draws"  # the name of threads that draw, or what it begins with


class WithoutPrompts(logging.Filter):
    """Keeps what drawing logs out of the server's log: it repeats words of prompts. Faults and the
    queue's own lines stay.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """True for lines that are kept."""
        own = ".headless.queue." in record.name or ".headless.serve." in record.name
        draws = str(record.threadName).startswith(DRAWS)
        return own or record.levelno >= logging.ERROR or not draws


def keep_quiet() -> None:
    """Of a process of a cluster, which keeps all that is printed: warnings and faults go to stderr,
    without prompts.
    """
    package = logging.getLogger(__name__.partition(".")[0])
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(WithoutPrompts())
    package.addHandler(handler)
    package.propagate = False
