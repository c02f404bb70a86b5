"""The one exception type that users see: what happened, what was expected, what was got, what to
do.
"""


class InkstoneError(ValueError):
    """Raised for every fault a user can mend; the message is a full sentence with the remedy."""


class CallError(InkstoneError):
    """The call itself is wrong (exit status 2)."""


__all__ = ["InkstoneError"]
