"""Reading and writing .safetensors: every byte of the header is checked before any data is used.

Unusual: no mmap. Data comes by positioned reads straight into the tensor's own memory, so the peak
is one tensor, and a file that shrinks while it is read gives an error in words instead of SIGBUS.
Stricter than the safetensors package: duplicate names, ranks above 8, names above 1 KiB, more than
65,536 tensors and headers above 64 MiB are refused too. Source: the safetensors format description.
"""

import io
import json
import logging
import math
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from ..kernels.errors import InkstoneError

log = logging.getLogger(__name__)

MAX_HEADER = 64 * 2**20  # bytes; the 1933 tensors of Qwen-Image need about 0.25 MiB
MAX_TENSORS = 65_536
MAX_RANK = 8
MAX_NAME = 1024  # bytes of UTF-8
MAX_INTEGER = 2**53
MAX_SHARDS = 1024
PIECE = 8 * 2**20  # bytes per read where data is converted or goes to another device
LARGEST_READ = 2**30  # bytes per system call (Linux stops at 2 GiB - 4 KiB)
AGAIN = "Download it again and compare its size with the publisher's."

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "U16": torch.uint16, "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64,
    "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
for _name, _attribute in (("F8_E8M0", "float8_e8m0fnu"), ("F4", "float4_e2m1fn_x2")):
    if hasattr(torch, _attribute):  # newer torch only
        DTYPES[_name] = getattr(torch, _attribute)
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# First bytes of what people take for a .safetensors file, and what to say about it.
MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file. Rename it to .gguf, so that it is read as one."),
    (
        b"PK\x03\x04",
        "a zip archive, most likely a pickled PyTorch checkpoint (.ckpt, .pt). {pickle}",
    ),
    (b"\x80\x02", "a pickle (.ckpt, .pt, .bin). {pickle}"),
    (b"\x80\x03", "a pickle (.ckpt, .pt, .bin). {pickle}"),
    (b"\x80\x04", "a pickle (.ckpt, .pt, .bin). {pickle}"),
    (b"\x80\x05", "a pickle (.ckpt, .pt, .bin). {pickle}"),
    (b"version https://git-lfs", "a Git LFS pointer without the weights. Run `git lfs pull`."),
    (b"<!DOCTYPE", "a web page that was saved instead of the file. {page}"),
    (b"<!doctype", "a web page that was saved instead of the file. {page}"),
    (b"<html", "a web page that was saved instead of the file. {page}"),
    (b"\x1f\x8b", "a gzip archive. Unpack it first."),
    (b"\x93NUMPY", "a NumPy array file. Use the publisher's .safetensors file."),
)
ADVICE = {
    "pickle": "Such a file can run code when it is read: use the publisher's .safetensors file.",
    "page": "Log in or accept the licence on the site, then download again.",
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: torch dtype, shape in torch order, byte range in the data section."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def sniff(head: bytes) -> str | None:
    """What a file with these first bytes seems to be, with advice; None when nothing is known."""
    found = next((text for magic, text in MAGICS if head.startswith(magic)), None)
    return found.format_map(ADVICE) if found else None


class _HeaderRules:
    """Hooks of the JSON parser: duplicate names, odd numbers and floods are refused on the way."""

    def __init__(self) -> None:
        self.objects = self.integers = 0

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        self.objects += 1
        if self.objects > MAX_TENSORS + 2:
            raise InkstoneError(f"more than {MAX_TENSORS} tensors")
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise InkstoneError(f"the name {_show(twice)} occurs twice in the header")
        return result

    def integer(self, text: str) -> int:
        self.integers += 1
        if self.integers > MAX_TENSORS * (MAX_RANK + 2) or len(text) > 20:
            raise InkstoneError(f"too many or too large numbers in the header ({text[:24]})")
        return int(text)

    def other(self, text: str) -> object:
        raise InkstoneError(f"the header holds the number {text[:24]}, where only integers belong")


def _show(name: str) -> str:
    return ascii(name if len(name) <= 120 else name[:120] + "...")


def _parse_json(text: bytes, rules: _HeaderRules) -> dict[str, object]:
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=rules.pairs, parse_int=rules.integer,
            parse_float=rules.other, parse_constant=rules.other,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise InkstoneError(f"the header is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InkstoneError(f"the header is not JSON ({error.msg}, byte {error.pos})") from None
    except RecursionError:
        raise InkstoneError("the header is nested too deeply") from None
    if not isinstance(header, dict):
        raise InkstoneError(f"the header should be a JSON object, got {type(header).__name__}")
    return header


def _integers(value: object, what: str, most: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise InkstoneError(f"{what} should be a list of at most {most} integers")
    for number in value:
        if type(number) is not int or not 0 <= number <= MAX_INTEGER:
            raise InkstoneError(f"{what} holds {str(number)[:24]}, expected 0 to 2^53")
    return tuple(value)


def _entry(name: str, value: object) -> Entry:
    """Checks one header entry; the message of an error names the tensor but not yet the file."""
    what = f"tensor {_show(name)}"
    try:
        if len(name.encode("utf-8")) > MAX_NAME:
            raise InkstoneError(f"{what} has a name of more than {MAX_NAME} bytes")
    except UnicodeEncodeError:
        raise InkstoneError(f"{what} has a name that is not valid Unicode") from None
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise InkstoneError(f"{what} should have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise InkstoneError(f"{what} has the unknown type {_show(str(value['dtype']))}")
    shape = _integers(value["shape"], f"the shape of {what}", MAX_RANK)
    offsets = _integers(value["data_offsets"], f"data_offsets of {what}", 2)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InkstoneError(f"data_offsets of {what} should be [begin, end], got {list(offsets)}")
    numel = math.prod(shape)
    if numel > MAX_INTEGER:
        raise InkstoneError(f"the shape {list(shape)} of {what} overflows 2^53 elements")
    size = numel * dtype.itemsize
    if value["dtype"] == "F4":  # two per byte; torch counts bytes, the file counts elements
        if not shape or shape[-1] % 2:
            raise InkstoneError(f"{what} is F4 and needs an even last dimension")
        shape, size = (*shape[:-1], shape[-1] // 2), numel // 2
    if offsets[1] - offsets[0] != size:
        got = offsets[1] - offsets[0]
        raise InkstoneError(f"{what} needs {size} bytes by type and shape, its offsets give {got}")
    return Entry(dtype, shape, *offsets)


def _check_cover(entries: Mapping[str, Entry], data: int) -> None:
    """The tensors must tile the data section of `data` bytes exactly, without holes or overlaps."""
    at, last = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            kind = "a hole between" if entry.begin > at else "an overlap of"
            raise InkstoneError(f"there is {kind} {last} and tensor {_show(name)} at byte {at}")
        at, last = entry.end, f"tensor {_show(name)}"
    if at > data:
        raise InkstoneError(f"the file is cut: {at - data} of {at} bytes of data are missing")
    if at < data:
        raise InkstoneError(f"{data - at} bytes follow the last tensor, where none may be")


def _check_header(header: dict[str, object]) -> tuple[dict[str, Entry], dict[str, str]]:
    metadata = header.pop("__metadata__", {})
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise InkstoneError("__metadata__ should map strings to strings")
    if len(header) > MAX_TENSORS:
        raise InkstoneError(f"{len(header)} tensors, expected at most {MAX_TENSORS}")
    return {name: _entry(name, value) for name, value in header.items()}, metadata


def _open(path: Path) -> io.RawIOBase:
    if path.is_dir():
        raise InkstoneError(f"{path} is a folder, expected a .safetensors file. Name the file.")
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        raise InkstoneError(f"{path} does not exist. Check the name and the folder.") from None
    except OSError as error:
        raise InkstoneError(f"{path} cannot be opened: {error.strerror}. Check it.") from None


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor as writable bytes."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


class SafetensorsFile:
    """One validated file. `entries` and `metadata` are ready after construction, data is read later.

    Safe to read from several threads. Raises InkstoneError for everything that is wrong with a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._file = _open(self.path)
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
        self._file.close()

    def read(
        self, name: str, out: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Reads one tensor, into `out` (any device, same shape) or a fresh CPU tensor.

        The result has `dtype`, else out's dtype, else the file's. Conversion goes in 8 MiB pieces.
        """
        entry = self._find(name)
        if out is None:
            out = torch.empty(entry.shape, dtype=dtype or entry.dtype)
        elif tuple(out.shape) != entry.shape or dtype not in (None, out.dtype):
            raise InkstoneError(
                f"{self.path}: tensor {name} {list(entry.shape)} cannot be read into "
                f"{list(out.shape)} {out.dtype} (asked for {dtype}). Pass a matching tensor."
            )
        if not out.is_contiguous():
            with torch.no_grad():
                return out.copy_(self.read(name, dtype=out.dtype))
        start = self._data + entry.begin
        if out.dtype == entry.dtype and out.device.type == "cpu":
            self._fill(_bytes_of(out), start, name)
        else:
            self._convert(entry, start, out, name)
        return out

    def _find(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            near = ", ".join(get_close_matches(name, self.entries, 3)) or "nothing similar"
            raise InkstoneError(
                f"{self.path}: no tensor {_show(name)} among {len(self.entries)}; it has {near}. "
                "Check that the file is the model it should be with `inkstone inspect`."
            )
        return entry

    def _convert(self, entry: Entry, start: int, out: Tensor, name: str) -> None:
        if out.dtype != entry.dtype and DTYPE_NAMES.get(entry.dtype) == "F4":
            raise InkstoneError(
                f"{self.path}: tensor {name} holds packed 4-bit numbers and cannot become "
                f"{out.dtype} by itself. Use a file of this model in bf16."
            )
        step = max(1, PIECE // entry.dtype.itemsize)
        piece = torch.empty(min(step, entry.numel), dtype=entry.dtype)
        with torch.no_grad():
            flat = out.view(-1)
            for at in range(0, flat.numel(), step):
                part = piece[: min(step, flat.numel() - at)]
                self._fill(_bytes_of(part), start + at * entry.dtype.itemsize, name)
                flat[at : at + part.numel()].copy_(part)

    def _fill(self, view: memoryview, offset: int, name: str) -> None:
        """Fills `view` with the file's bytes from `offset`; a short file is an error."""
        done, size = 0, len(view)
        while done < size:
            part = view[done : min(size, done + LARGEST_READ)]
            try:
                got = self._read_once(part, offset + done)
            except (OSError, ValueError) as error:
                raise InkstoneError(f"{self.path}: cannot read {name}: {error}. Check the disk and "
                                    "whether the file is still there.") from None  # fmt: skip
            if not got:
                raise InkstoneError(
                    f"{self.path}: the file was cut while it was read: {name} needs {size} bytes, "
                    f"got {done}. Wait until the download is complete, or {AGAIN.lower()}"
                )
            done += got

    def _read_once(self, part: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [part], offset)
        with self._lock:  # Windows and old macOS
            self._file.seek(offset)
            return self._file.readinto(part) or 0

    def _load_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = bytearray(min(size, 64))
        self._fill(memoryview(head), 0, "the header")
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
        self._fill(memoryview(text), 8, "the header")
        try:
            self.entries, self.metadata = _check_header(_parse_json(text, _HeaderRules()))
            _check_cover(self.entries, size - 8 - length)
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
        shard = self.weight_map.get(name)
        file = self._files[shard] if shard else next(iter(self._files.values()))
        return file.read(name, out, dtype)

    def _load_map(self) -> dict[str, str]:
        with _open(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_HEADER:
                raise InkstoneError(f"{self.path}: {size} bytes, an index has at most 64 MiB. Name "
                                    "the .safetensors.index.json file.")  # fmt: skip
            text = file.read()
        try:
            rules = _HeaderRules()
            rules.other = str  # total_size may be a float in some published files
            index = _parse_json(text, rules)
        except InkstoneError as error:
            raise InkstoneError(f"{self.path}: not a sound index: {error}. {AGAIN}") from None
        found = index.get("weight_map")
        if not isinstance(found, dict) or not found or len(found) > MAX_TENSORS:
            raise InkstoneError(f"{self.path}: no usable weight_map in it, expected an object of "
                                f"tensor name to shard name. {AGAIN}")  # fmt: skip
        if any(not isinstance(shard, str) for shard in found.values()):
            raise InkstoneError(f"{self.path}: weight_map should hold file names. {AGAIN}")
        if len(set(found.values())) > MAX_SHARDS:
            raise InkstoneError(f"{self.path}: more than {MAX_SHARDS} shards. {AGAIN}")
        return found

    def _shard_path(self, shard: str) -> Path:
        if not shard or shard in (".", "..") or any(mark in shard for mark in "/\\:\0"):
            raise InkstoneError(f"{self.path}: the shard name {_show(shard)} leaves the folder, "
                                f"expected a plain file name. {AGAIN}")  # fmt: skip
        path = self.path.parent / shard
        if not path.is_file():
            raise InkstoneError(f"{self.path}: the shard {shard} is missing from {path.parent}. "
                                "Download it into the same folder.")  # fmt: skip
        return path

    def _check(self) -> None:
        held = {name: shard for shard, file in self._files.items() for name in file.entries}
        total = sum(len(file.entries) for file in self._files.values())
        wrong = [name for name in self.weight_map if held.get(name) != self.weight_map[name]]
        wrong += [name for name in held if name not in self.weight_map]
        if wrong or total != len(self.weight_map):
            first = ", ".join(_show(name) for name in wrong[:5]) or "a tensor that two shards hold"
            raise InkstoneError(
                f"{self.path}: index and shards disagree on {max(1, len(wrong))} tensors ({first}): "
                "the files are of different versions. Download index and shards together."
            )


Weights = SafetensorsFile | ShardedFiles
_PREFERRED = ("diffusion_pytorch_model", "model")


def _one_in_folder(folder: Path) -> Path:
    for suffix in (".safetensors.index.json", ".safetensors"):
        found = sorted(p for p in folder.iterdir() if p.name.endswith(suffix) and p.is_file())
        known = [p for p in found if p.name in {stem + suffix for stem in _PREFERRED}]
        chosen = known or found
        if len(chosen) == 1:
            return chosen[0]
        if len(chosen) > 1:
            names = ", ".join(p.name for p in chosen[:5])
            hint = " (shards without their index JSON?)" if "-of-" in names else ""
            raise InkstoneError(f"{folder} holds {len(chosen)} candidates: {names}{hint}. Name one "
                                "file.")  # fmt: skip
    inner = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:8])
    raise InkstoneError(f"{folder} holds no .safetensors file and no index JSON. Name the file"
                        + (f" or one of its folders ({inner})." if inner else "."))  # fmt: skip


def open_weights(path: str | Path) -> Weights:
    """Opens a .safetensors file, an index JSON, or a folder that holds one of them."""
    path = Path(path)
    if path.is_dir():
        path = _one_in_folder(path)
    return ShardedFiles(path) if path.suffix == ".json" else SafetensorsFile(path)


def _plan(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    """The header, padded to 8 bytes, for the tensors in the order given."""
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    at = 0
    for name, tensor in tensors.items():
        kind, shape = DTYPE_NAMES.get(tensor.dtype), list(tensor.shape)
        if kind is None:
            raise InkstoneError(f"{name}: {tensor.dtype} has no safetensors type. Convert it.")
        if kind == "F4":
            shape[-1] *= 2
        end = at + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    _check_header(_parse_json(text, _HeaderRules()))  # never write what we would not read
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _atomic(path: Path) -> Iterator[object]:
    """A temporary file in the same folder that takes `path`'s place only when all went well."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InkstoneError(f"{path}: cannot be written: {error.strerror}. Check the folder and the "
                            "free space; nothing was changed.") from None  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)


def save_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors atomically: the file is complete or, after any fault, as it was before.

    Same tensors and metadata give the same bytes. Largest item sizes come first, for alignment.
    """
    path = Path(path)
    ordered = dict(sorted(tensors.items(), key=lambda kv: (-kv[1].dtype.itemsize, kv[0])))
    header = _plan(ordered, metadata)
    with _atomic(path) as file:
        file.write(header)
        for tensor in ordered.values():
            if tensor.numel():
                file.write(_bytes_of(tensor.to("cpu").contiguous()))
    log.debug("wrote %d tensors to %s", len(ordered), path)
