"""The exceptions that Inkstone raises on purpose.

    ValueError
      InkstoneError   something that a user can fix: a file, a setting, memory, the disk
        CallError     the call itself is wrong: an unknown option, a missing input

Every message is a full sentence: what happened, what was expected, what was got, what to do. Other
modules may define subclasses for their own `except` clauses; callers only need these two.
"""

__all__ = ["CallError", "InkstoneError"]


class InkstoneError(ValueError):
    """Base class of every error that a user can fix; exit status 1 on the command line."""


class CallError(InkstoneError):
    """The call is wrong: nothing was run. Exit status 2 on the command line."""
