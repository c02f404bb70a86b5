"""The exceptions that Inkstone raises on purpose.

    ValueError
      InkstoneError   something that a user can fix: a file, a setting, memory, the disk
        CallError     the call itself is wrong: an unknown option, a missing input

Every message is a full sentence: what happened, what was expected, what was got, what to do. Other
modules may define subclasses for their own `except` clauses; callers only need these two.
"""

import re

__all__ = ["CallError", "InkstoneError", "bounded", "shorten"]

_LONGEST = 16_000  # characters of a message; a list of missing models may have many lines
_LONG_WORD = re.compile(r"\S{400,}")
_SHOWN = 200  # characters of a text from others that a message repeats


def shorten(text: str, most: int = _SHOWN) -> str:
    """A text from others as a message repeats it: its beginning and end where it is long."""
    if len(text) <= most:
        return text
    head = most * 3 // 4
    return f"{text[:head]}...{text[head - most :]}"


def bounded(message: str) -> str:
    """A message whose words have bounds: names, keys and values in it come from anybody's files."""
    return _LONG_WORD.sub(lambda match: shorten(match[0]), shorten(message, _LONGEST))


class InkstoneError(ValueError):
    """Base class of every error that a user can fix; exit status 1 on the command line."""

    def __init__(self, message: str = "", *rest: object) -> None:
        super().__init__(bounded(str(message)), *rest)


class CallError(InkstoneError):
    """The call is wrong: nothing was run. Exit status 2 on the command line."""
