"""Orders that were accepted and have not ended: a folder each, so that none is lost in a restart.

A folder gets its name once all in it is on the disk. It goes when the record of the job is in the
journal (headless/queue/journal.py); of a process that was killed in between, the journal decides.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from ....errors import InkstoneError
from ....files.atomic import sync
from ....files.json_text import parse_json
from ....files.paths import read_regular
from ...node_types import Json

log = logging.getLogger(__name__)

ORDER = "order.json"
_MOST_BYTES = 1 << 28
_OPEN = ".new-"  # a folder that is being filled


@dataclass(frozen=True)
class Waiting:
    """An accepted order on the disk."""

    id: str
    folder: Path
    data: dict[str, Json]


class Accepted:
    """The folder of these folders."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers = itertools.count(1)
        root.mkdir(parents=True, exist_ok=True)
        for folder in root.glob(f"{_OPEN}*"):  # of a process that was killed
            shutil.rmtree(folder, ignore_errors=True)

    def open(self, name: str) -> Path:
        """A folder for the files of a new order."""
        folder = self._root / f"{_OPEN}{name}"
        folder.mkdir()
        return folder

    def folder(self, name: str) -> Path:
        """The folder of an order."""
        sealed = self._root / name
        return sealed if sealed.is_dir() else self._root / f"{_OPEN}{name}"

    def seal(self, name: str, data: dict[str, Json]) -> Path:
        """Keeps the order, on the disk when this returns; its folder from now on."""
        folder = self._root / f"{_OPEN}{name}"
        text = json.dumps({"number": next(self._numbers), **data}, ensure_ascii=False)
        (folder / ORDER).write_text(text, encoding="utf-8", errors="backslashreplace")
        for file in folder.iterdir():
            sync(file)
        sync(folder)
        place = folder.with_name(name)
        folder.rename(place)
        sync(self._root)
        return place

    def remove(self, name: str) -> None:
        """Removes an order, sealed or not; killed meanwhile, it is not a half that stays."""
        open_ = self._root / f"{_OPEN}{name}"
        try:
            (self._root / name).rename(open_)
        except OSError:  # it was not sealed
            pass
        shutil.rmtree(open_, ignore_errors=True)

    def waiting(self) -> list[Waiting]:
        """All orders in their order; what cannot be read is logged and left."""
        found = []
        for folder in self._root.iterdir():
            try:
                data = parse_json(read_regular(folder / ORDER, _MOST_BYTES))
                found.append((int(data.pop("number")), Waiting(folder.name, folder, data)))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, InkstoneError):
                log.warning("%s: cannot be read as an accepted job; it is left alone", folder)
        found.sort(key=lambda item: item[0])
        self._numbers = itertools.count(1 + max((number for number, _ in found), default=0))
        return [one for _, one in found]
