"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InkstoneError


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: never half of it."""
    pass

    with atomic(path) as file:
        file.write(text.encode())


@contextmanager
def atomic(path: Path) -> Iterator[object]:
    """A temporary file in the same folder that takes `path`'s place only when all went well."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InkstoneError(
            f"{path}: cannot be written: {error.strerror}. Check the folder and the free space; "
            "nothing was changed."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
