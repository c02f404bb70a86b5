"""What jobs leave that nobody asks for any more: lines of the journal, pictures of graphs."""

from __future__ import annotations

import logging
from pathlib import Path

from ....errors import InkstoneError
from ...queue.journal import Results
from .tickets import Ticket

log = logging.getLogger(__name__)

_OLD_LINES = 10_000  # of the journal, of jobs that were forgotten


def clean(results: Results, tickets: dict[str, Ticket], pictures: Path) -> None:
    """Removes what earlier runs left, before anything draws. tickets: jobs that clients may still
    ask for; those leave it whose files were removed. Raises InkstoneError.
    """
    for name, ticket in list(tickets.items()):
        if ticket.over and ticket.files and not any(file.is_file() for file in ticket.files):
            del tickets[name]
    results.compact(lambda record: record["id"] in tickets)
    for path in pictures.iterdir():
        if path.name.partition("_")[0] not in tickets:
            path.unlink(missing_ok=True)


def compact_long(results: Results, tickets: dict[str, Ticket]) -> None:
    """Compacts a journal that has grown in this run."""
    if results.lines < 2 * len(tickets) + _OLD_LINES:
        return
    try:
        results.compact(lambda record: record["id"] in tickets)
    except InkstoneError as error:
        log.error("%s", error)
