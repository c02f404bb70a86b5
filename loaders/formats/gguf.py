"""Reading .gguf files.

`read` gives floats whatever the type of a tensor, so vectors, modulation and whole VAEs need no
knowledge of GGUF; `raw` gives the bytes of the blocks, which quant/gguf_storage.py keeps packed.
Scales that are NaN or infinite are detected while the bytes are in the cache, once per tensor.
Headers are checked in gguf_header.py, the files of a split model are joined in gguf_parts.py.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...quant.gguf_dequantizer import bad_block, dequantize
from .file_reader import AGAIN, CHUNK, bytes_of, scratch
from .gguf_header import GGUFEntry
from .gguf_metadata import ArrayValue, decode_array
from .gguf_parts import GGUFPart, join, open_parts
from .safetensors_header import show
from .weight_reader import WeightReader, find_entry

log = logging.getLogger(__name__)

MAX_DECODED = 2**20  # elements of an array that is decoded; tokenizers have 150,000 to 300,000


class GGUFFile(WeightReader):
    """One GGUF file, or all parts of a split one.

    entries[name] has the torch shape, the dtype (uint8 where packed) and `kind`. Metadata are the
    scalar values as text; arrays are decoded by `kv_array`.
    """

    entries: dict[str, GGUFEntry]
    metadata: dict[str, str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._checked: set[str] = set()  # tensors whose scales are known to be finite
        self._logged: set[str] = set()  # codebook types that were logged
        self._parts: list[GGUFPart] = open_parts(self.path)
        try:
            self.metadata = self._parts[0].header.metadata
            self.entries = join(self.path, self._parts)
            self._fold_factors()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for part in self._parts:
            part.close()

    @property
    def arrays(self) -> dict[str, int]:
        """Lengths of the arrays by key."""
        return {key: array.count for key, array in self._parts[0].header.arrays.items()}

    def kv_array(self, name: str) -> ArrayValue:
        """The elements of an array of the header, e.g. "tokenizer.ggml.tokens"."""
        part = self._parts[0]
        array = part.header.arrays.get(name)
        if array is None:
            raise InkstoneError(f"{self.path}: its header has no array {show(name)}. {AGAIN}")
        if array.count > MAX_DECODED:
            raise InkstoneError(
                f"{self.path}: the array {show(name)} has {array.count} elements, "
                f"at most {MAX_DECODED} are read. {AGAIN}"
            )
        data = bytearray(array.end - array.begin)
        part.disk.fill(memoryview(data), array.begin, name)
        try:
            return decode_array(array, data)
        except InkstoneError as error:
            raise InkstoneError(f"{self.path}: {show(name)}: {error}. {AGAIN}") from None

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor as they are in the file: uint8 [rows, bytes of a row]."""
        entry = find_entry(self.path, self.entries, name)
        row = entry.shape[-1] if entry.shape else 1
        if row % entry.kind.block:
            raise InkstoneError(
                f"{self.path}: tensor {name} has rows of {row}, not whole blocks of "
                f"{entry.kind.name}. Read it as floats."
            )
        out = torch.empty(entry.numel // max(1, row), entry.kind.row_bytes(row), dtype=torch.uint8)
        for _ in self._chunks(entry, name, out.view(-1)):
            pass
        return out

    def read_rows(
        self, name: str, start: int, stop: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        entry = find_entry(self.path, self.entries, name)
        if entry.kind.packed:
            return super().read_rows(name, start, stop, dtype)
        out = torch.empty(stop - start, *entry.shape[1:], dtype=dtype or entry.read_dtype)
        part = self._part_of(entry, name)
        begin = entry.begin + entry.nbytes // entry.shape[0] * start
        part.disk.read_numbers(out, entry.dtype, begin, name)
        part.require_unchanged(name)
        return out

    def _read_into(self, name: str, out: Tensor) -> None:
        entry = self.entries[name]
        if entry.kind.packed:
            self._unpack(entry, out, name)
        else:
            part = self._part_of(entry, name)
            part.disk.read_numbers(out, entry.dtype, entry.begin, name)
            part.require_unchanged(name)

    def _unpack(self, entry: GGUFEntry, out: Tensor, name: str) -> None:
        """Fills contiguous `out` with the floats of a packed tensor."""
        kind, flat, at = entry.kind, out.view(-1), 0
        with torch.no_grad():
            for chunk in self._chunks(entry, name):
                part = flat[at : at + chunk.numel() // kind.bytes * kind.block]
                at += part.numel()
                if kind.codebook:
                    part.copy_(self._unpack_codebook(chunk, entry, name))
                elif entry.factor != 1:
                    part.copy_(dequantize(chunk.to(out.device), kind).mul_(entry.factor))
                else:
                    dequantize(chunk.to(out.device), kind, part)

    def _chunks(self, entry: GGUFEntry, name: str, out: Tensor | None = None) -> Iterator[Tensor]:
        """The bytes of a tensor in chunks of whole blocks, in `out` or in one scratch buffer."""
        part, size = self._part_of(entry, name), entry.nbytes
        step = max(1, CHUNK // entry.kind.bytes) * entry.kind.bytes
        buffer = scratch((min(step, size),), torch.uint8) if out is None else out
        for at in range(0, size, step):
            begin, n = 0 if out is None else at, min(step, size - at)
            chunk = buffer[begin : begin + n]
            part.disk.fill(bytes_of(chunk), entry.begin + at, name)
            part.require_unchanged(name)
            if name not in self._checked:
                self._check_scales(chunk, entry, name, at)
            yield chunk
        self._checked.add(name)

    def _check_scales(self, chunk: Tensor, entry: GGUFEntry, name: str, at: int) -> None:
        bad = bad_block(chunk, entry.kind)
        if bad is not None:
            raise self._not_finite(entry, name, bad + at // entry.kind.bytes)

    def _not_finite(self, entry: GGUFEntry, name: str, block: int) -> InkstoneError:
        return InkstoneError(
            f"{self.path}: tensor {name} ({entry.kind.name}): block {block} has a scale that is "
            "not a finite number, so the picture would be black. The file is damaged or was made "
            "by a faulty tool: download it again, or use another file."
        )

    def _unpack_codebook(self, chunk: Tensor, entry: GGUFEntry, name: str) -> Tensor:
        """Blocks of a codebook type as float32, by the routines of the gguf package."""
        kind = entry.kind
        try:
            from gguf import GGMLQuantizationType, quants  # an extra, needed for these types only
        except ImportError:
            raise InkstoneError(
                f"{self.path}: tensor {name} has the codebook type {kind.name}, for which the "
                "package `gguf` is needed. Install it with `pip install gguf`, or use a file of "
                "type Q2_K or higher."
            ) from None
        if kind.name not in self._logged:
            self._logged.add(kind.name)
            log.info(
                "%s: %d tensors of the codebook type %s are unpacked by the gguf package, "
                "which is slow",
                self.path.name,
                sum(e.kind is kind for e in self.entries.values()),
                kind.name,
            )
        blocks = chunk.view(-1, kind.bytes).numpy()
        values = torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType(kind.id)))
        bad = ~values.isfinite().all(1)
        if bad.any():
            raise self._not_finite(entry, name, int(bad.nonzero()[0]))
        return values.view(-1)

    def _part_of(self, entry: GGUFEntry, name: str) -> GGUFPart:
        """The part that a tensor is in, if it is still the file whose header was read."""
        part = self._parts[entry.part]
        part.require_unchanged(name)
        return part

    def _fold_factors(self) -> None:
        """NVFP4 has a second scale as a tensor of its own, `X.scale` next to `X.weight`."""
        packed = [n for n, e in self.entries.items() if e.kind.name == "NVFP4"]
        for name in packed:
            scale = name.removesuffix("weight") + "scale"
            if scale not in self.entries:
                continue
            if self.entries[scale].numel != 1 or self.entries[scale].kind.packed:
                shape = list(self.entries[scale].shape)
                raise InkstoneError(
                    f"{self.path}: tensor {scale} has the shape {shape}, expected "
                    f"one number for all of {name}. {AGAIN}"
                )
            factor = float(self.read(scale, dtype=torch.float32))
            if not math.isfinite(factor):
                raise InkstoneError(f"{self.path}: tensor {scale} is {factor}. {AGAIN}")
            self.entries[name] = replace(self.entries[name], factor=factor)
            del self.entries[scale]
