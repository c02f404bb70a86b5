"""Reading .gguf files, with the interface of SafetensorsFile.

`read` gives floats whatever the type of a tensor, so vectors, modulation and whole VAEs need no
knowledge of GGUF; `raw` gives the bytes of the blocks, which quant/gguf_storage.py keeps as they
are. Scales that are no numbers are found while the bytes are in the cache, once per tensor. Files
in several parts are one. All checks of a header are in gguf_header.py.
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...quant.gguf_dequantizer import bad_block, dequantize
from .file_reader import AGAIN, PIECE, DiskFile, bytes_of, check_target, find_entry, scratch
from .gguf_header import GGUFEntry, GGUFHeader, read_architecture, read_gguf_header
from .gguf_metadata import decode_array
from .safetensors_header import show

log = logging.getLogger(__name__)

MAX_PARTS = 1024
MAX_DECODED = 2**20  # elements of an array that is decoded; tokenizers have 150,000 to 300,000
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass
class _Part:
    """One open file and what it was when its header was read."""

    disk: DiskFile
    stamp: tuple[int, int]
    header: GGUFHeader


def _open_part(path: Path) -> _Part:
    disk = DiskFile(path, ".gguf")
    try:
        stamp = disk.stamp()
        header = read_gguf_header(lambda view, at: disk.fill(view, at, "the header"), stamp[0])
        return _Part(disk, stamp, header)
    except InkstoneError as error:
        disk.close()
        words = f"{path}: not a sound .gguf file: {str(error).rstrip('.')}. {_advice(str(error))}"
        raise InkstoneError(words.rstrip()) from None
    except BaseException:
        disk.close()
        raise


def _advice(words: str) -> str:
    """What to do, where the words do not say it yet."""
    said = ("download", "Rename", "Use ", "use ", "git lfs", "Log in", "Unpack")
    return "" if any(word in words for word in said) else AGAIN


def architecture_of(path: Path) -> str:
    """What a GGUF file says it is, from its first keys; "" for any other file."""
    try:
        disk = DiskFile(path, ".gguf")
    except InkstoneError:
        return ""
    try:
        return read_architecture(lambda view, at: disk.fill(view, at, path.name), disk.stamp()[0])
    except InkstoneError:
        return ""
    finally:
        disk.close()


class GGUFFile:
    """One validated file (of any number of parts). `entries` and `metadata` are ready at once.

    entries[name] has the torch shape, the dtype (uint8 where packed) and `kind`. Metadata are the
    scalar values as text; arrays are decoded by `kv_array`. Safe to read from several threads.
    Raises InkstoneError for all that is wrong with a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._parts: list[_Part] = []
        self._checked: set[str] = set()  # tensors whose scales are known to be numbers
        self._told: set[str] = set()
        try:
            self._open()
            self.entries = self._join()
            self._fold_factors()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; reading afterwards is an error."""
        for part in self._parts:
            part.disk.close()

    @property
    def metadata(self) -> dict[str, str]:
        """Scalar values by key, e.g. "general.architecture"."""
        return self._parts[0].header.metadata

    @property
    def arrays(self) -> dict[str, int]:
        """Lengths of the arrays by key."""
        return {key: array.count for key, array in self._parts[0].header.arrays.items()}

    def kv_array(self, name: str) -> list:
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

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Reads one tensor, into `out` (any device, same shape) or a fresh CPU tensor.

        The result has `dtype`, else out's dtype, else float32 where the tensor is packed and the
        file's where it is not; unpacked or converted in pieces of 1 MiB.
        """
        entry = find_entry(self.path, self.entries, name)
        if out is None:
            out = torch.empty(entry.shape, dtype=dtype or entry.kind.dtype or torch.float32)
        check_target(self.path, name, entry.shape, out, dtype)
        if not out.is_contiguous():
            with torch.no_grad():
                return out.copy_(self.read(name, dtype=out.dtype))
        if entry.kind.packed:
            self._unpack(entry, out, name)
        else:
            part = self._unchanged(entry, name)
            part.disk.read_numbers(out, entry.dtype, entry.begin, name)
        return out

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor as they lie in the file: uint8 [rows, bytes of a row]."""
        entry = find_entry(self.path, self.entries, name)
        row = entry.shape[-1] if entry.shape else 1
        if row % entry.kind.block:
            raise InkstoneError(
                f"{self.path}: tensor {name} has rows of {row}, no whole blocks of "
                f"{entry.kind.name}. Read it as floats."
            )
        out = torch.empty(entry.numel // max(1, row), entry.kind.row_bytes(row), dtype=torch.uint8)
        for _ in self._pieces(entry, name, out.view(-1)):
            pass
        return out

    def _unpack(self, entry: GGUFEntry, out: Tensor, name: str) -> None:
        """Fills contiguous `out` with the floats of a packed tensor."""
        kind, flat, at = entry.kind, out.view(-1), 0
        with torch.no_grad():
            for piece in self._pieces(entry, name):
                part = flat[at : at + piece.numel() // kind.bytes * kind.block]
                at += part.numel()
                if kind.codebook:
                    part.copy_(self._by_package(piece, entry, name))
                elif entry.factor != 1:
                    part.copy_(dequantize(piece.to(out.device), kind).mul_(entry.factor))
                else:
                    dequantize(piece.to(out.device), kind, part)

    def _pieces(self, entry: GGUFEntry, name: str, out: Tensor | None = None) -> Iterator[Tensor]:
        """The bytes of a tensor in runs of whole blocks, in `out` or in one short-lived buffer."""
        part, size = self._unchanged(entry, name), entry.nbytes
        step = max(1, PIECE // entry.kind.bytes) * entry.kind.bytes
        if out is None:
            buffer = scratch((min(step, size),), torch.uint8)
        for at in range(0, size, step):
            n = min(step, size - at)
            piece = buffer[:n] if out is None else out[at : at + n]
            part.disk.fill(bytes_of(piece), entry.begin + at, name)
            if name not in self._checked:
                self._check_scales(piece, entry, name, at)
            yield piece
        self._checked.add(name)

    def _check_scales(self, piece: Tensor, entry: GGUFEntry, name: str, at: int) -> None:
        bad = bad_block(piece, entry.kind)
        if bad is not None:
            raise self._not_finite(entry, name, bad + at // entry.kind.bytes)

    def _not_finite(self, entry: GGUFEntry, name: str, block: int) -> InkstoneError:
        return InkstoneError(
            f"{self.path}: tensor {name} ({entry.kind.name}): block {block} has a scale that is no "
            "finite number, so the picture would be black. The file is damaged or was made by a "
            "faulty tool: download it again, or use another file."
        )

    def _by_package(self, piece: Tensor, entry: GGUFEntry, name: str) -> Tensor:
        """Blocks of a codebook type as float32, by the routines of the gguf package."""
        kind = entry.kind
        try:
            from gguf import GGMLQuantizationType, quants
        except ImportError:
            raise InkstoneError(
                f"{self.path}: tensor {name} has the codebook type {kind.name}, for which the "
                "package `gguf` is needed. Install it with `pip install gguf`, or use a file of "
                "type Q2_K or higher."
            ) from None
        if kind.name not in self._told:
            self._told.add(kind.name)
            count = sum(e.kind is kind for e in self.entries.values())
            log.info(
                "%s: %d tensors of the codebook type %s are unpacked by the gguf package, "
                "which is slow",
                self.path.name,
                count,
                kind.name,
            )
        blocks = piece.view(-1, kind.bytes).numpy()
        found = torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType(kind.id)))
        bad = ~found.isfinite().all(1)
        if bad.any():
            raise self._not_finite(entry, name, int(bad.nonzero()[0]))
        return found.view(-1)

    def _unchanged(self, entry: GGUFEntry, name: str) -> _Part:
        """The part that holds a tensor, if it is still the file whose header was read."""
        part = self._parts[entry.part]
        if part.disk.stamp() != part.stamp:
            raise InkstoneError(
                f"{part.disk.path}: it was changed on disk after it was opened, {name} may be "
                "elsewhere now. Load the model again when the file is complete."
            )
        return part

    def _open(self) -> None:
        """Opens the file, or all parts of it, whichever part was named."""
        first = _open_part(self.path)
        self._parts.append(first)
        count = self._number(first, "split.count", 1)
        if count <= 1:
            return
        for path in self._part_paths(count):
            self._parts.append(first if path == self.path else _open_part(path))
        del self._parts[0]  # now it is in its place

    def _number(self, part: _Part, key: str, default: int) -> int:
        told = part.header.metadata.get(key, str(default))
        if not told.isdecimal():
            raise InkstoneError(
                f"{part.disk.path}: {key} is {show(told)}, expected a number. {AGAIN}"
            )
        return int(told)

    def _part_paths(self, count: int) -> list[Path]:
        if count > MAX_PARTS:
            raise InkstoneError(
                f"{self.path}: split.count is {count}, at most {MAX_PARTS} parts are read. {AGAIN}"
            )
        named = _PART.fullmatch(self.path.name)
        if not named or int(named[3]) != count:
            raise InkstoneError(
                f"{self.path}: it is one of {count} parts, so its name should end in "
                f"-00001-of-{count:05}.gguf. Give all parts the publisher's names again."
            )
        names = [f"{named[1]}-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]
        paths = [self.path.with_name(name) for name in names]
        gone = [path.name for path in paths if not path.is_file()]
        if gone:
            raise InkstoneError(
                f"{self.path}: {len(gone)} of its {count} parts are missing: "
                f"{', '.join(gone[:5])}. Download them into the same folder."
            )
        return paths

    def _join(self) -> dict[str, GGUFEntry]:
        """The tensors of all parts, which must fit together."""
        entries: dict[str, GGUFEntry] = {}
        count = len(self._parts)
        for number, part in enumerate(self._parts):
            told = (self._number(part, "split.no", 0), self._number(part, "split.count", count))
            if count > 1 and told != (number, count):
                raise InkstoneError(
                    f"{part.disk.path}: it says that it is part {told[0] + 1} of {told[1]}, "
                    f"expected part {number + 1} of {count}. Download all parts again."
                )
            twice = entries.keys() & part.header.entries.keys()
            if twice:
                raise InkstoneError(
                    f"{part.disk.path}: tensor {show(min(twice))} is in another "
                    "part too. Download all parts again."
                )
            for name, entry in part.header.entries.items():
                entries[name] = replace(entry, part=number) if number else entry
        wanted = self._number(self._parts[0], "split.tensors.count", len(entries))
        if count > 1 and wanted != len(entries):
            raise InkstoneError(
                f"{self.path}: its {count} parts hold {len(entries)} tensors, "
                f"expected {wanted}. Download all parts again."
            )
        if not entries:
            raise InkstoneError(
                f"{self.path}: it holds no tensors, only settings or a tokenizer. "
                "Use the file with the weights."
            )
        return entries

    def _fold_factors(self) -> None:
        """NVFP4 has a second scale as a tensor of its own, `X.scale` beside `X.weight`."""
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
