"""Reading and writing .safetensors files: one file, or shards behind an index.

Data is read by file_reader.py; all checks of a header are in safetensors_header.py.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.atomic import atomic
from ...files.paths import kind_of, name_fault
from .file_reader import AGAIN, DiskFile, bytes_of, first_bytes
from .safetensors_header import (
    DTYPE_NAMES,
    MAX_HEADER,
    MAX_TENSORS,
    HeaderRules,
    TensorEntry,
    parse_json,
    read_header,
    show,
    sniff,
    write_header,
)
from .weight_reader import WeightReader, find_entry

log = logging.getLogger(__name__)

MAX_SHARDS = 1024


class SafetensorsFile(WeightReader):
    """One .safetensors file."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._disk = DiskFile(self.path)
        try:
            self._load_header()
        except InkstoneError as error:
            self.close()
            raise InkstoneError(f"{self.path}: not a valid .safetensors file: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._disk.close()

    def _read_into(self, name: str, out: Tensor) -> None:
        entry = self.entries[name]
        if out.dtype != entry.dtype and DTYPE_NAMES.get(entry.dtype) == "F4":
            raise InkstoneError(
                f"{self.path}: tensor {name} holds packed 4-bit numbers, which cannot be converted "
                f"to {out.dtype} without their scales. Use a file of this model in bf16."
            )
        self._disk.read_numbers(out, entry.dtype, self._data + entry.begin, name)
        self._disk.require_unchanged(self._stamp, name)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        entry = find_entry(self.path, self.entries, name)
        out = torch.empty(stop - start, *entry.shape[1:], dtype=dtype or entry.read_dtype)
        begin = self._data + entry.begin + entry.nbytes // entry.shape[0] * start
        self._disk.read_numbers(out, entry.dtype, begin, name)
        self._disk.require_unchanged(self._stamp, name)
        return out

    def read_bytes(self, name: str, start: int, stop: int) -> Tensor:
        """Bytes start .. stop - 1 of a tensor as uint8: a part of a stream, rows of a matrix."""
        entry = find_entry(self.path, self.entries, name)
        if not 0 <= start <= stop <= entry.nbytes:
            raise InkstoneError(
                f"{self.path}: expected bytes {start} to {stop} of {name}, it has "
                f"{entry.nbytes}. The file is damaged: download it again."
            )
        out = torch.empty(stop - start, dtype=torch.uint8)
        self._disk.fill(bytes_of(out), self._data + entry.begin + start, name)
        self._disk.require_unchanged(self._stamp, name)
        return out

    def _load_header(self) -> None:
        self._stamp = self._disk.stamp()
        size = self._stamp.size
        head = bytearray(min(size, 64))
        self._disk.fill(memoryview(head), 0, "the header")
        length = int.from_bytes(head[:8], "little")
        seems = sniff(bytes(head))
        if size < 8 or length > MAX_HEADER or length > size - 8 or length < 2:
            if seems:
                raise InkstoneError(f"it seems to be {seems}")
            if size < 8:
                raise InkstoneError(f"it has {size} bytes, expected at least 10. {AGAIN}")
            raise InkstoneError(
                f"the header should be 2 bytes to 64 MiB and inside the file of {size} bytes, "
                f"got {length}. It is truncated or of another format. {AGAIN}"
            )
        text = bytearray(length)
        self._disk.fill(memoryview(text), 8, "the header")
        try:
            self.entries, self.metadata = read_header(bytes(text), size - 8 - length)
        except InkstoneError as error:
            raise InkstoneError(
                f"{error}. {'It seems to be ' + seems if seems else AGAIN}"
            ) from None
        self._data = 8 + length


class ShardedFiles(WeightReader):
    """A model in several files behind an index JSON.

    Every shard is opened and checked; the index must list exactly the tensors of the shards.
    """

    def __init__(self, index_json_path: str | Path) -> None:
        self.path = Path(index_json_path)
        self._files: dict[str, SafetensorsFile] = {}
        self.weight_map = self._load_map()
        try:
            for shard in sorted(set(self.weight_map.values())):
                self._files[shard] = SafetensorsFile(self._shard_path(shard))
            self._check()
        except BaseException:
            self.close()
            raise
        self.entries = {n: self._files[s].entries[n] for n, s in self.weight_map.items()}
        self.metadata = {k: v for f in self._files.values() for k, v in f.metadata.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def read_bytes(self, name: str, start: int, stop: int) -> Tensor:
        """See SafetensorsFile.read_bytes."""
        find_entry(self.path, self.entries, name)
        return self._files[self.weight_map[name]].read_bytes(name, start, stop)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        find_entry(self.path, self.entries, name)
        return self._files[self.weight_map[name]].read_rows(name, start, stop, dtype)

    def _read_into(self, name: str, out: Tensor) -> None:
        self._files[self.weight_map[name]].read(name, out)

    def _load_map(self) -> dict[str, str]:
        text = first_bytes(self.path, MAX_HEADER + 1)
        if len(text) > MAX_HEADER:
            raise InkstoneError(
                f"{self.path}: an index has at most 64 MiB. Name the .safetensors.index.json file."
            )
        try:
            # total_size is a float in some published files
            index = parse_json(text, HeaderRules(convert_number=str))
        except InkstoneError as error:
            raise InkstoneError(f"{self.path}: not a valid index: {error}. {AGAIN}") from None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not 0 < len(weight_map) <= MAX_TENSORS:
            raise InkstoneError(
                f"{self.path}: expected a weight_map with a shard name for each "
                f"of 1 to {MAX_TENSORS} tensors. {AGAIN}"
            )
        if any(not isinstance(shard, str) for shard in weight_map.values()):
            raise InkstoneError(f"{self.path}: weight_map should contain file names. {AGAIN}")
        count = len(set(weight_map.values()))
        if count > MAX_SHARDS:
            raise InkstoneError(
                f"{self.path}: {count} shards, at most {MAX_SHARDS} are read. {AGAIN}"
            )
        return weight_map

    def _shard_path(self, shard: str) -> Path:
        plain = shard not in (".", "..") and not any(mark in shard for mark in "/\\:")
        fault = name_fault(shard) if plain else "leaves the folder"
        if fault is not None:
            raise InkstoneError(
                f"{self.path}: the shard name {show(shard)} {fault}, "
                f"expected a plain file name. {AGAIN}"
            )
        path = self.path.parent / shard
        if kind_of(path) != "a file":
            raise InkstoneError(
                f"{self.path}: the shard {shard} is missing from {path.parent}. "
                "Download it into the same folder."
            )
        return path

    def _check(self) -> None:
        shard_of = {name: shard for shard, file in self._files.items() for name in file.entries}
        total = sum(len(file.entries) for file in self._files.values())
        wrong = [name for name in self.weight_map if shard_of.get(name) != self.weight_map[name]]
        wrong += [name for name in shard_of if name not in self.weight_map]
        if wrong or total != len(self.weight_map):
            first = ", ".join(show(name) for name in wrong[:5]) or "a tensor that two shards have"
            raise InkstoneError(
                f"{self.path}: index and shards disagree on {max(1, len(wrong))} tensors "
                f"({first}): the files are of different versions. Download index and shards "
                "together."
            )


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors atomically: the file is complete or, after any fault, unchanged.

    The same tensors and metadata give the same bytes, those of the safetensors package. The largest
    item sizes come first, for alignment.
    """
    path = Path(path)
    ordered = _as_stored(tensors)
    header = write_header(ordered, metadata)
    with atomic(path) as file:
        file.write(header)
        for chunk in _contents(ordered):
            file.write(chunk)
    log.debug("wrote %d tensors to %s", len(ordered), path)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256, in hexadecimal, of what `save_safetensors` writes behind the header."""
    digest = hashlib.sha256()
    for chunk in _contents(_as_stored(tensors)):
        digest.update(chunk)
    return digest.hexdigest()


def _as_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(sorted(tensors.items(), key=lambda kv: (-kv[1].dtype.itemsize, kv[0])))


def _contents(ordered: Mapping[str, Tensor]) -> Iterator[memoryview]:
    for tensor in ordered.values():
        if tensor.numel():
            yield bytes_of(tensor.to("cpu").contiguous())
