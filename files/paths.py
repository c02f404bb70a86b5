"""Names that others give, and what may be opened: the rules of POSIX and Windows, on every system.

A name comes from a graph, a job or a journal that somebody hands over; it stays below one folder. A
path comes from the user, who may name any file; only regular files are opened, because reading a
device or a FIFO may never end.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath

from ..errors import CallError, InkstoneError, shorten

_PART_BYTES, _NAME_BYTES = 255, 4096  # limits of the usual file systems
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])", re.IGNORECASE)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def name_fault(name: object) -> str | None:
    """Why a relative name is refused, as the end of a sentence about it; None if it is allowed."""
    if not isinstance(name, str):
        return f"is {type(name).__name__}, expected a text"
    plain = name.replace("\\", "/")
    parts = plain.split("/")
    if not name.strip() or not PurePosixPath(plain).parts:
        return "names no file"
    if _CONTROL.search(name):
        return "has a control character"
    if plain.startswith("/") or any(_DRIVE.match(part) for part in parts):
        return "is a whole path, and leads out of its folder"
    if any(part.rstrip(" .") == "" and part not in ("", ".") for part in parts):
        return "leads out of its folder"  # Windows reads ".. " as ".."
    if os.name == "nt" and ":" in name:
        return "has a colon, which Windows keeps for drives and streams"
    if any(_DEVICE.fullmatch(part.split(".")[0].rstrip(" ")) for part in parts):
        return "is the name of a device on Windows"
    return _length_fault(parts)


def is_plain_name(name: str, beside: str = "") -> bool:
    """True for the name of a file without folders that every system takes. beside: what is added to
    it, in front and behind, for the longest name of a file next to it, with {} for the name.
    """
    bad = name.startswith(".") or any(mark in name for mark in '/\\:*?"<>|')
    longest = beside.format(name) if beside else name
    return not bad and name_fault(name) is None and name_fault(longest) is None


def path_fault(path: str) -> str | None:
    """Why no file can have a path that a user gives, as the end of a sentence; else None."""
    if not path.strip():
        return "is empty"
    if "\0" in path:
        return "has a NUL"
    return _length_fault(path.replace("\\", "/").split("/") if os.name == "nt" else path.split("/"))


def _length_fault(parts: Sequence[str]) -> str | None:
    sizes = [len(part.encode("utf-8", "replace")) for part in parts]
    if max(sizes) > _PART_BYTES or sum(sizes) + len(sizes) > _NAME_BYTES:
        return f"is too long: expected at most {_PART_BYTES} bytes between two slashes"
    return None


def below(folder: Path, name: object) -> Path:
    """The path of a name below a folder; "\\" is "/". InkstoneError where it could lead out, by a
    link too.
    """
    fault = name_fault(name)
    if fault is None:
        path = folder / PurePosixPath(str(name).replace("\\", "/"))
        if stays_in(folder, path):
            return path
        fault = "leads out of its folder by a link"
    raise InkstoneError(
        f"The name {shorten(repr(name), 80)} {fault}. Give a name inside that folder, such as "
        '"name" or "sub/name".'
    )


def stays_in(folder: Path, path: Path) -> bool:
    """True where a path leads to something in a folder, links followed."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False


def kind_of(path: Path) -> str:
    """ "a file", "a folder", "a FIFO", "a device" and so on; "" where there is none."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        circle = isinstance(error, OSError) and error.errno == errno.ELOOP
        return "a circle of links" if circle else ""
    return next((kind for test, kind in _KINDS if test(mode)), "a file")


def check_given(path: Path, option: str = "", *, kinds: Sequence[str] = ("file", "folder")) -> None:
    """Raises CallError where a path of the command line is none of `kinds`. A kind may be longer
    than its last word: "graph file".
    """
    found, wanted = kind_of(path), " or ".join(kinds)
    if found in [f"a {kind.split()[-1]}" for kind in kinds]:
        return
    label = f"{option} {path}".lstrip()
    what = f": it is {found}" if found else ""
    raise CallError(f"{label}: no such {wanted}{what}. Check the path.")


def check_output(path: Path) -> None:
    """Raises CallError where a path for a new file leads to something else: writing would replace
    it, a device too.
    """
    found = kind_of(path)
    if found == "a folder":
        raise CallError(f"{path} is a folder: name a file in it.")
    if found not in ("", "a file"):
        raise CallError(f"{path} is {found}, which a new file would replace. Name a file.")


def open_regular(path: Path) -> BufferedReader:
    """A file, open for reading. OSError, with a reason in `strerror`, for all that is no file."""
    return BufferedReader(open_raw(path))


def open_raw(path: Path) -> FileIO:
    """As `open_regular`, unbuffered."""
    try:
        return FileIO(_open(path), "rb")
    except ValueError:
        raise OSError(errno.EINVAL, "the name has a NUL") from None


def _open(path: Path) -> int:
    """Touches regular files only, and never waits: the writer of a FIFO may never come."""
    _require_file(os.stat(path).st_mode)
    flags = (
        getattr(os, name, 0) for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC", "O_NOINHERIT")
    )
    handle = os.open(path, os.O_RDONLY | sum(flags))
    try:
        _require_file(os.fstat(handle).st_mode)  # it may have been exchanged since
    except OSError:
        os.close(handle)
        raise
    return handle


def _require_file(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in _KINDS if test(mode)), "no file")
        raise OSError(errno.EINVAL, f"it is {kind}, expected a file")


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. OSError otherwise, as of `open_regular`."""
    with open_regular(path) as file:
        chunks, left = [], most + 1
        if os.fstat(file.fileno()).st_size > most:
            left = 0  # nothing is read
        while left and (chunk := file.read(min(left, 1 << 24))):
            chunks.append(chunk)
            left -= len(chunk)
    if not left:
        limit = f"{most >> 20} MiB" if most >> 20 else f"{most >> 10} KiB"
        raise OSError(errno.EOVERFLOW, f"it is larger than {limit}")
    return b"".join(chunks)
