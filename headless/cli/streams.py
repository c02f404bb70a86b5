"""stdout and stderr as a shell hands them over: closed, full, on a code page without the letters.

Progress that nobody can see is dropped. Results are not: where stdout fails, StdoutError is raised.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from ...errors import InkstoneError


class StdoutError(InkstoneError, OSError):
    """The results of a command could not be printed."""


class _Stream:
    """A text stream that may be missing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        if stream is not None and hasattr(stream, "reconfigure"):
            # a name that the terminal cannot show must not end a queue
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._stream is not None and self._stream.isatty()

    def _silence(self) -> None:
        """What is still buffered goes nowhere: the interpreter would complain at its end."""
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), cast(TextIO, self._stream).fileno())


class _Progress(_Stream):
    """stderr: what cannot be written is dropped."""

    def write(self, text: str) -> int:
        """As TextIO."""
        try:
            if self._stream is not None:
                self._stream.write(text)
        except (OSError, ValueError):
            self._silence()
        return len(text)

    def flush(self) -> None:
        """As TextIO."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._silence()


class Results(_Stream):
    """stdout: raises StdoutError, or BrokenPipeError where its reader has enough."""

    fault: StdoutError | None = None  # the last one

    def write(self, text: str) -> int:
        """As TextIO."""
        if self._stream is None:
            raise self._unprinted(OSError(errno.EBADF, "it is closed"))
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._silence()
            raise self._unprinted(error) from error

    def flush(self) -> None:
        """As TextIO."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._silence()
            raise self._unprinted(error) from error

    def _unprinted(self, error: OSError) -> StdoutError:
        self.fault = StdoutError(
            f"stdout cannot be written to: {error.strerror or error}. Results were not printed; "
            "files that were saved stay. Expected a terminal, a pipe, or a file with room."
        )
        return self.fault


@contextmanager
def standard_streams() -> Iterator[Results]:
    """stdout. Within it stdout and stderr exist, and no file that is opened gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by the shell: what C code prints would go into the next file
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    results = Results(sys.stdout)
    sys.stdout = cast(TextIO, results)
    sys.stderr = cast(TextIO, _Progress(sys.stderr))
    try:
        yield results
    finally:
        sys.stdout, sys.stderr = before
