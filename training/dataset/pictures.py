"""What is known of a picture file before training: its size, its digest, that it can be decoded.

Files are looked at on some threads at once, each file once, however many examples use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InkstoneError
from ...files.hashes import picture_hash
from ...files.images import channel, look
from ...sampling.masks import NEARLY

OnItem = Callable[[str, int, int], None]
"""(what is done, how many are done, of how many); may raise to stop."""

_THREADS = 4
_ADVICE = ". Save it again as PNG or JPEG."
_BEFORE = "cannot be read as a picture: "


def NO_PROGRESS(what: str, done: int, total: int) -> None:  # noqa: N802  # a constant of OnItem
    """Shows nothing."""


@dataclass(frozen=True)
class Picture:
    """A picture file that can be decoded."""

    path: Path
    size: tuple[int, int]  # upright
    digest: str  # of its bytes
    animated: bool = False
    look: bytes = field(default=b"", repr=False)  # files/images.py: look


class Pictures:
    """The files that were looked at, by path: a `Picture`, or why it is none."""

    def __init__(self) -> None:
        self._known: dict[Path, Picture | str] = {}

    def look(self, paths: Iterable[Path], what: str, on_item: OnItem, mask: bool = False) -> None:
        """Looks at files. what: for `on_item`; mask: refuses those that are black."""
        todo = [path for path in dict.fromkeys(paths) if path not in self._known]
        look = _mask if mask else _picture
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            try:
                for done, (path, facts) in enumerate(zip(todo, pool.map(look, todo)), 1):
                    self._known[path] = facts
                    on_item(what, done, len(todo))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def __getitem__(self, path: Path) -> Picture | str:
        return self._known[path]


def _picture(path: Path) -> Picture | str:
    try:
        facts, means = look(path)
        return Picture(path, facts.size, picture_hash(path), facts.animated, means)
    except InkstoneError as error:
        return reason(error, path)
    except OSError as error:  # between the two, another took its place
        return (error.strerror or str(error)).lower()


def _mask(path: Path) -> Picture | str:
    facts = _picture(path)
    if isinstance(facts, Picture):
        try:
            grey = channel(path, "red")
        except InkstoneError as error:
            return reason(error, path)
        if grey is None or grey.max() <= NEARLY:
            return "it is black: nothing of the picture would be learned"
    return facts


def reason(error: InkstoneError, path: Path) -> str:
    """The part of a picture's error that says why, for a line that has its name."""
    text = str(error).removeprefix(f"{path} ").removeprefix(_BEFORE)
    return text.removesuffix(_ADVICE)
