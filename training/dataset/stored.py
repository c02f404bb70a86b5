"""One file of the cache: tensors under the digest of what they depend on, with one of their own."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.hashes import model_hash
from ...files.paths import kind_of
from ...loaders.formats.file_reader import AGAIN, bytes_of
from ...loaders.formats.safetensors import SafetensorsFile, save_safetensors

VERSION = 1  # of what is encoded and how: another number encodes all again
_KEY, _SUM, _NAME = "inkstone_key", "inkstone_sum", "inkstone_name"
_SHOWN = 32  # digits of the key in a file's name
_PARTIAL = re.compile(r"\.(picture|text|sample)-[0-9a-f]{32}\.[0-9a-f]{8}\.tmp")  # of replacement()
_WRITTEN = 1.0  # seconds: a partial file that another process writes now changes in less


@dataclass(frozen=True)
class Stored:
    """A file of the cache, there or not."""

    path: Path
    key: str

    @classmethod
    def of(cls, folder: Path, kind: str, facts: Mapping[str, object]) -> Stored:
        """The file of tensors that depend on these facts, which are JSON."""
        text = json.dumps({"version": VERSION, "kind": kind, **facts}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        return cls(folder / f"{kind}-{key[:_SHOWN]}.safetensors", key)

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes the file, whole or not at all. name: of the example, for people."""
        plain = name.encode("utf-8", "backslashreplace").decode()
        metadata = {_KEY: self.key, _SUM: _sum(tensors), _NAME: plain}
        save_safetensors(self.path, tensors, metadata)

    def read(self) -> dict[str, Tensor]:
        """The tensors. InkstoneError where they are not those that were written."""
        try:
            with SafetensorsFile(self.path) as file:
                if file.metadata.get(_KEY) != self.key:
                    raise InkstoneError(f"{self.path}: it belongs to another example.")
                tensors = {name: file.read(name) for name in file.entries}
                if file.metadata.get(_SUM) != _sum(tensors):
                    raise InkstoneError(f"{self.path}: its data are not those that were written.")
            return tensors
        except InkstoneError as error:  # it was made here: there is nothing to download
            raise InkstoneError(str(error).replace(AGAIN, "").rstrip()) from None

    def fault(self) -> str | None:
        """Why the file cannot be used; "" where there is none, None where it can."""
        if not kind_of(self.path):
            return ""
        try:
            self.read()
        except InkstoneError as error:
            return str(error)
        return None

    @property
    def nbytes(self) -> int:
        """Of the file."""
        return self.path.stat().st_size


def remove_partial(folder: Path, begin: float) -> None:
    """Removes what runs that were killed left of files that they wrote. begin: of this run, as of
    time.time(): what has changed since may be of another one that works now.
    """
    latest = min(begin, time.time() - _WRITTEN)
    for path in folder.iterdir():
        try:
            if _PARTIAL.fullmatch(path.name) and path.stat().st_mtime < latest:
                path.unlink()
        except OSError:  # another process was first, or may alone
            continue


def model_stamp(path: Path, dtype: torch.dtype) -> list[str]:
    """What of an encoder's file decides about its results."""
    try:
        return [model_hash(path), str(dtype)]
    except OSError as error:
        raise InkstoneError(
            f"{path}: cannot be read: {error.strerror}. Check the file; it was there before."
        ) from None


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and data."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()
