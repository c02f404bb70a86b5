"""What is known of a picture file before training: its size, its digest, that it can be decoded.

Files are looked at on some threads at once, each file once, however many examples use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InkstoneError
from ...files.hashes import picture_hash
from ...files.images import channel, look
from ...sampling.masks import NEARLY

if TYPE_CHECKING:
    import numpy as np

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
    by_alpha: bool = False  # of a mask: what is opaque is learned
    whole: bool = False  # of a mask: all of the picture is learned

    @property
    def transparent(self) -> bool:
        """True where a part can be seen through."""
        return min(self.look[3::4], default=255) < 255


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


def mask_values(path: Path) -> tuple[np.ndarray, bool]:
    """[H,W] in 0..1: how much of a pixel is learned; and whether its alpha says so. A mask with
    transparency is read as kohya's and ai-toolkit's alpha masks are: what is opaque is learned,
    whatever its colour. Of others what is white is. Raises InkstoneError.
    """
    alpha = channel(path, "alpha")
    if alpha is not None and alpha.min() < 1 - NEARLY:
        return alpha, True
    grey = channel(path, "red")
    assert grey is not None, "only alpha may be missing"
    return grey, False


def _mask(path: Path) -> Picture | str:
    facts = _picture(path)
    if not isinstance(facts, Picture):
        return facts
    try:
        values, by_alpha = mask_values(path)
    except InkstoneError as error:
        return reason(error, path)
    if values.max() <= NEARLY:
        what = "transparent everywhere" if by_alpha else "black"
        return f"it is {what}: nothing of the picture would be learned"
    return replace(facts, by_alpha=by_alpha, whole=bool(values.min() >= 1 - NEARLY))


def reason(error: InkstoneError, path: Path) -> str:
    """The part of a picture's error that says why, for a line that has its name."""
    text = str(error).removeprefix(f"{path} ").removeprefix(_BEFORE)
    return text.removesuffix(_ADVICE)
