"""Reading and writing .safetensors files: one file, or shards behind an index; opening any file.

How data is read is in file_reader.py; what a header may hold, and every check of it, in
safetensors_header.py.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...files.atomic import atomic
from .file_reader import AGAIN, DiskFile, bytes_of, check_target, find_entry, open_raw
from .safetensors_header import (
    DTYPE_NAMES,
    MAX_HEADER,
    MAX_TENSORS,
    HeaderRules,
    parse_json,
    read_header,
    show,
    sniff,
    write_header,
)

log = logging.getLogger(__name__)

MAX_SHARDS = 1024


class SafetensorsFile:
    """One validated file. `entries` and `metadata` are ready at once, data is read later.

    Safe to read from several threads. Raises InkstoneError for all that is wrong with a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._disk = DiskFile(self.path)
        try:
            self._load_header()
        except InkstoneError as error:
            self.close()
            raise InkstoneError(f"{self.path}: not a sound .safetensors file: {error}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; reading afterwards is an error."""
        self._disk.close()

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Reads one tensor, into `out` (any device, same shape) or a fresh CPU tensor.

        The result has `dtype`, else out's dtype, else the file's; converted in 1 MiB pieces.
        """
        entry = find_entry(self.path, self.entries, name)
        if out is None:
            out = torch.empty(entry.shape, dtype=dtype or entry.dtype)
        check_target(self.path, name, entry.shape, out, dtype)
        if not out.is_contiguous():
            with torch.no_grad():
                return out.copy_(self.read(name, dtype=out.dtype))
        if out.dtype != entry.dtype and DTYPE_NAMES.get(entry.dtype) == "F4":
            raise InkstoneError(
                f"{self.path}: tensor {name} holds packed 4-bit numbers and cannot become "
                f"{out.dtype} by itself. Use a file of this model in bf16."
            )
        self._disk.read_numbers(out, entry.dtype, self._data + entry.begin, name)
        return out

    def read_bytes(self, name: str, start: int, stop: int) -> Tensor:
        """Bytes start .. stop - 1 of a tensor as uint8: a part of a stream, rows of a matrix."""
        entry = find_entry(self.path, self.entries, name)
        if not 0 <= start <= stop <= entry.end - entry.begin:
            raise InkstoneError(
                f"{self.path}: bytes {start} .. {stop} of {name} were asked for, it has "
                f"{entry.end - entry.begin}. The file is damaged: download it again."
            )
        out = torch.empty(stop - start, dtype=torch.uint8)
        self._disk.fill(bytes_of(out), self._data + entry.begin + start, name)
        return out

    def _load_header(self) -> None:
        size, _ = self._disk.stamp()
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
                f"got {length}. It is cut or of another format. {AGAIN}"
            )
        text = bytearray(length)
        self._disk.fill(memoryview(text), 8, "the header")
        try:
            self.entries, self.metadata = read_header(text, size - 8 - length)
        except InkstoneError as error:
            raise InkstoneError(
                f"{error}. {'It seems to be ' + seems if seems else AGAIN}"
            ) from None
        self._data = 8 + length


class ShardedFiles:
    """A model in several files behind an index JSON, with the interface of SafetensorsFile.

    Every shard is opened and checked; the index must name exactly the tensors that the shards hold.
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

    def __enter__(self) -> "ShardedFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every shard."""
        for file in self._files.values():
            file.close()

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """As SafetensorsFile.read."""
        return self._holder(name).read(name, out, dtype)

    def read_bytes(self, name: str, start: int, stop: int) -> Tensor:
        """As SafetensorsFile.read_bytes."""
        return self._holder(name).read_bytes(name, start, stop)

    def _holder(self, name: str) -> SafetensorsFile:
        """The shard of a tensor; any of them says what is wrong with an unknown name."""
        shard = self.weight_map.get(name)
        return self._files[shard] if shard else next(iter(self._files.values()))

    def _load_map(self) -> dict[str, str]:
        with open_raw(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_HEADER:
                raise InkstoneError(
                    f"{self.path}: {size} bytes, an index has at most 64 MiB. Name "
                    "the .safetensors.index.json file."
                )
            text = file.read()
        try:
            rules = HeaderRules()
            rules.other = str  # total_size may be a float in some published files
            index = parse_json(text, rules)
        except InkstoneError as error:
            raise InkstoneError(f"{self.path}: not a sound index: {error}. {AGAIN}") from None
        found = index.get("weight_map")
        if not isinstance(found, dict) or not found or len(found) > MAX_TENSORS:
            raise InkstoneError(
                f"{self.path}: no usable weight_map in it, expected an object of "
                f"tensor name to shard name. {AGAIN}"
            )
        if any(not isinstance(shard, str) for shard in found.values()):
            raise InkstoneError(f"{self.path}: weight_map should hold file names. {AGAIN}")
        if len(set(found.values())) > MAX_SHARDS:
            raise InkstoneError(f"{self.path}: more than {MAX_SHARDS} shards. {AGAIN}")
        return found

    def _shard_path(self, shard: str) -> Path:
        if not shard or shard in (".", "..") or any(mark in shard for mark in "/\\:\0"):
            raise InkstoneError(
                f"{self.path}: the shard name {show(shard)} leaves the folder, "
                f"expected a plain file name. {AGAIN}"
            )
        path = self.path.parent / shard
        if not path.is_file():
            raise InkstoneError(
                f"{self.path}: the shard {shard} is missing from {path.parent}. "
                "Download it into the same folder."
            )
        return path

    def _check(self) -> None:
        held = {name: shard for shard, file in self._files.items() for name in file.entries}
        total = sum(len(file.entries) for file in self._files.values())
        wrong = [name for name in self.weight_map if held.get(name) != self.weight_map[name]]
        wrong += [name for name in held if name not in self.weight_map]
        if wrong or total != len(self.weight_map):
            first = ", ".join(show(name) for name in wrong[:5]) or "a tensor that two shards hold"
            raise InkstoneError(
                f"{self.path}: index and shards disagree on {max(1, len(wrong))} tensors "
                f"({first}): the files are of different versions. Download index and shards "
                "together."
            )


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors atomically: the file is complete or, after any fault, as it was before.

    Same tensors and metadata give the same bytes. Largest item sizes come first, for alignment.
    """
    path = Path(path)
    ordered = dict(sorted(tensors.items(), key=lambda kv: (-kv[1].dtype.itemsize, kv[0])))
    header = write_header(ordered, metadata)
    with atomic(path) as file:
        file.write(header)
        for tensor in ordered.values():
            if tensor.numel():
                file.write(bytes_of(tensor.to("cpu").contiguous()))
    log.debug("wrote %d tensors to %s", len(ordered), path)
