"""Positioned reads of an open file, the same for every container.

Unusual: no mmap. Data is read straight into the tensor's own memory, so the peak is one tensor, and
a file that shrinks while it is read raises InkstoneError instead of SIGBUS.
"""

import io
import math
import mmap
import os
import threading
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files import paths
from ...files.stamps import Stamp, stamp_of
from .weight_reader import Closable

CHUNK = 2**20  # bytes per read where data is converted or goes to another device
LARGEST_READ = 2**30  # bytes per system call (Linux stops at 2 GiB - 4 KiB)
CHECK = "Check the disk and whether the file is still there."
AGAIN = "Download it again and compare its size with the publisher's."


def open_raw(path: Path, kind: str = ".safetensors") -> io.RawIOBase:
    """The file, unbuffered; InkstoneError where it cannot be opened."""
    if paths.kind_of(path) == "a folder":
        raise InkstoneError(f"{path} is a folder, expected a {kind} file. Name the file.")
    try:
        return paths.open_raw(path)
    except FileNotFoundError:
        raise InkstoneError(f"{path} does not exist. Check the name and the folder.") from None
    except OSError as error:
        raise InkstoneError(f"{path} cannot be opened: {error.strerror}. Check it.") from None


def first_bytes(path: Path, most: int, kind: str = ".safetensors") -> bytes:
    """At most so many bytes of the file's beginning; InkstoneError where it cannot be read."""
    with open_raw(path, kind) as file:
        try:
            return file.read(most) or b""
        except OSError as error:
            raise InkstoneError(f"{path}: cannot be read: {error.strerror}. {CHECK}") from None


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor as writable bytes."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A short-lived tensor whose memory does not come from malloc.

    Malloc would leave holes between the weights that glibc cannot fill again: the same load then
    took 3 % or 29 % more memory than its weights, at random.
    """
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class DiskFile(Closable):
    """One open file. Safe to read from several threads."""

    def __init__(self, path: Path, kind: str = ".safetensors") -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = open_raw(path, kind)

    def close(self) -> None:
        self._file.close()

    def stamp(self) -> Stamp:
        """The file as it is now."""
        try:
            return stamp_of(os.fstat(self._file.fileno()))
        except (OSError, ValueError) as error:
            raise InkstoneError(f"{self.path}: cannot be read: {error}. Check the disk.") from None

    def require_unchanged(self, stamp: Stamp, name: str) -> None:
        """InkstoneError where the file is no longer the one that had this stamp. Asked after a
        read, so that what was written during it counts too.
        """
        if not stamp.same_content(self.stamp()):
            raise InkstoneError(
                f"{self.path}: it was changed on disk after it was opened, {name} may be "
                "elsewhere now. Load the model again when the file is complete, and leave its name "
                "and permissions as they are while it is read."
            )

    def fill(self, view: memoryview, offset: int, name: str) -> None:
        """Fills `view` with the file's bytes from `offset`; a short file is an error."""
        done, size = 0, len(view)
        while done < size:
            part = view[done : min(size, done + LARGEST_READ)]
            try:
                count = self._read_once(part, offset + done)
            except (OSError, ValueError) as error:
                raise InkstoneError(f"{self.path}: cannot read {name}: {error}. {CHECK}") from None
            if not count:
                raise InkstoneError(
                    f"{self.path}: the file was truncated while it was read: {name} needs "
                    f"{size} bytes, got {done}. Wait until the download is complete, or "
                    f"{AGAIN.lower()}"
                )
            done += count

    def _read_once(self, part: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [part], offset)
        with self._lock:  # Windows and old macOS
            self._file.seek(offset)
            return self._file.readinto(part) or 0

    def read_numbers(self, out: Tensor, stored: torch.dtype, start: int, name: str) -> None:
        """Fills contiguous `out`, of any device and type, from numbers of type `stored`."""
        if out.dtype == stored and out.device.type == "cpu":
            return self.fill(bytes_of(out), start, name)
        flat, step = out.view(-1), max(1, CHUNK // stored.itemsize)
        chunk = scratch((min(step, flat.numel()),), stored)
        with torch.no_grad():
            for at in range(0, flat.numel(), step):
                part = chunk[: min(step, flat.numel() - at)]
                self.fill(bytes_of(part), start + at * stored.itemsize, name)
                flat[at : at + part.numel()].copy_(part)
