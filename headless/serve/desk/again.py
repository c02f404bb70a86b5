"""The same request once more: answered with copies of the files that are still kept.

Where it is allowed, and of the same key only: nobody learns by the time of an answer what another
key has drawn. Nothing is kept for it beside the results themselves, so it ends when they expire or
are removed, and is bounded as they are.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .... import __version__
from ....errors import InkstoneError
from ....files.hashes import picture_hash
from ....host.model_folders import stamps_of
from ...draw.request import DrawCall
from ...queue.journal import DONE, Outcome
from . import tickets
from .tickets import Ticket

log = logging.getLogger(__name__)

_MOST = 10_000  # requests that are remembered


class Again:
    """Which results answer which requests. find: the ticket of a job that is not forgotten."""

    def __init__(self, on: bool, work: Path, find: Callable[[str], Ticket | None]) -> None:
        self._on, self._work, self._find = on, work, find
        self._jobs: dict[str, str] = {}  # request -> job that drew it
        self._requests: dict[str, str] = {}  # of jobs at work
        self.answered = 0

    def answer(self, ticket: Ticket) -> Outcome | None:
        """The outcome of a job that was drawn before; None where it has to be drawn."""
        job = ticket.job
        if not self._on or job is None or job.call is None:
            return None
        try:
            request = self._requests[ticket.id] = request_key(job.call, ticket.owner)
            before = self._find(self._jobs.get(request, ""))
            if before is None or before.state != tickets.DONE:
                return None
            self._work.mkdir(exist_ok=True)
            names = [file.name.replace(before.id, ticket.id) for file in before.files]
            pairs = zip(before.files, names, strict=True)
            files = [Path(shutil.copyfile(file, self._work / name)) for file, name in pairs]
        except (OSError, InkstoneError) as error:  # expired just now, or its model is gone
            log.debug("drawn once more: %s", error)
            return None
        self.answered += 1
        return Outcome(job, DONE, files, {"cached": True, "seconds": {}})

    def keep(self, ticket: Ticket) -> None:
        """A job is over: if it is done, its files answer the same request."""
        request = self._requests.pop(ticket.id, None)
        if request is None or ticket.state != tickets.DONE:
            return
        self._jobs.pop(request, None)
        self._jobs[request] = ticket.id
        while len(self._jobs) > _MOST:
            del self._jobs[next(iter(self._jobs))]


def request_key(call: DrawCall, owner: str) -> str:
    """Equal where the bytes of the results are: all options, what is in the pictures, the models'
    files as they are now, this version. Raises OSError.
    """
    nowhere = Path()
    pictures = [*call.image, *(control.path for control in call.control), *call.region_masks]
    pictures += [] if call.mask is None else [call.mask]
    models = [call.model, call.text_encoder, call.vae, *call.control_model]
    files = [path for path in (*models, *(path for path, _ in call.lora)) if path is not None]
    options = replace(
        call,
        out=None,
        image=[nowhere for _ in call.image],
        mask=None if call.mask is None else nowhere,
        control=[replace(control, path=nowhere) for control in call.control],
        region=[r if r.mask is None else replace(r, place=nowhere) for r in call.region],
    )
    parts = [owner, __version__, options, [*map(picture_hash, pictures)], [*map(stamps_of, files)]]
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()
