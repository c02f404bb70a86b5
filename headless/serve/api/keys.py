"""API keys: read from a file, compared in constant time, shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ....errors import CallError
from ....files.paths import read_regular

_MOST_BYTES = 1 << 20
_SHORTEST = 16  # characters
ANYBODY = "anybody"  # the owner of jobs where no key is asked for


class Keys:
    """The keys of a server. They are kept as digests only."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @property
    def asked(self) -> bool:
        """True where a request has to carry a key."""
        return bool(self._digests)

    def owner(self, authorization: str | None) -> str | None:
        """Who a header `Authorization: Bearer KEY` stands for; None for nobody. Every key is
        compared, whichever fits.
        """
        if not self.asked:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), None
        for digest in self._digests:
            if hmac.compare_digest(digest, given) and scheme.lower() == "bearer":
                found = digest
        return None if found is None else hashlib.sha256(found).hexdigest()[:16]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path | None) -> Keys:
    """The keys of a file, one a line; lines with # are notes. Raises CallError, without a key in
    it.
    """
    if path is None:
        return Keys([])
    try:
        lines = read_regular(path, _MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise CallError(f"--api-key-file {path}: cannot be read: {reason}.") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise CallError(f"--api-key-file {path}: there is no key. Write one a line.")
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise CallError(
                f"--api-key-file {path}: key {number} is no key: expected at least {_SHORTEST} "
                "letters and digits without spaces. `python -c 'import secrets; "
                "print(secrets.token_urlsafe(32))'` makes one."
            )
    return Keys(keys)
