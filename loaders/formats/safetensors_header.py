"""The header of a .safetensors file: every byte of it is checked before any data is used.

Stricter than the safetensors package: duplicate names, ranks above 8, names above 1 KiB, more than
65,536 tensors and headers above 64 MiB are refused too. Errors name the tensor; the reader adds the
file. Source: the safetensors format description.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InkstoneError

MAX_HEADER = 64 * 2**20  # bytes; the 1933 tensors of Qwen-Image need about 0.25 MiB
MAX_TENSORS = 65_536
MAX_RANK = 8
MAX_NAME = 1024  # bytes of UTF-8
MAX_INTEGER = 2**53

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
for _name, _attribute in (("F8_E8M0", "float8_e8m0fnu"), ("F4", "float4_e2m1fn_x2")):
    if hasattr(torch, _attribute):  # newer torch only
        DTYPES[_name] = getattr(torch, _attribute)
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# First bytes of files that people mistake for .safetensors, and the advice for each.
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
class TensorEntry:
    """One tensor of a file: torch dtype, shape in torch order, byte range in the data section."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def read_dtype(self) -> torch.dtype:
        """The dtype that the tensor is read as where none is requested."""
        return self.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin

    @property
    def type_name(self) -> str:
        """The type as the container names it."""
        return DTYPE_NAMES[self.dtype]


def sniff(head: bytes) -> str | None:
    """The format that a file with these first bytes seems to have, with advice; else None."""
    text = next((text for magic, text in MAGICS if head.startswith(magic)), None)
    return text.format_map(ADVICE) if text else None


def _refuse_number(text: str) -> object:
    raise InkstoneError(f"the header contains the number {text[:24]}, expected only integers")


class HeaderRules:
    """Hooks of the JSON parser that refuse duplicate names and too many or unusual numbers.

    `convert_number` is called with the text of a float, NaN or Infinity; a header has none.
    """

    def __init__(self, convert_number: Callable[[str], object] = _refuse_number) -> None:
        self.objects = self.integers = 0
        self.convert_number = convert_number

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        """An object, or InkstoneError for a name that occurs twice."""
        self.objects += 1
        if self.objects > MAX_TENSORS + 2:
            raise InkstoneError(f"more than {MAX_TENSORS} tensors")
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise InkstoneError(f"the name {show(twice)} occurs twice in the header")
        return result

    def integer(self, text: str) -> int:
        """An integer of at most 20 digits."""
        self.integers += 1
        if self.integers > MAX_TENSORS * (MAX_RANK + 2) or len(text) > 20:
            raise InkstoneError(f"too many or too large numbers in the header ({text[:24]})")
        return int(text)


def show(name: str) -> str:
    """A name as a message quotes it: ASCII, at most 120 characters."""
    return ascii(name if len(name) <= 120 else name[:120] + "...")


def parse_json(text: bytes, rules: HeaderRules) -> dict[str, object]:
    """A JSON object under the rules; InkstoneError for anything else."""
    try:
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=rules.pairs,
            parse_int=rules.integer,
            parse_float=rules.convert_number,
            parse_constant=rules.convert_number,
        )
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


def _check_name(name: str, what: str) -> None:
    try:
        if len(name.encode("utf-8")) > MAX_NAME:
            raise InkstoneError(f"{what} has a name of more than {MAX_NAME} bytes")
    except UnicodeEncodeError:
        raise InkstoneError(f"{what} has a name that is not valid Unicode") from None


def _entry(name: str, value: object) -> TensorEntry:
    """Checks one header entry; errors name the tensor, not the file."""
    what = f"tensor {show(name)}"
    _check_name(name, what)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise InkstoneError(f"{what} should have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise InkstoneError(f"{what} has the unknown type {show(str(value['dtype']))}")
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
    return TensorEntry(dtype, shape, *offsets)


def _check_cover(entries: Mapping[str, TensorEntry], data: int) -> None:
    """The tensors must tile the data section of `data` bytes exactly, without holes or overlaps."""
    at, last = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            kind = "a hole between" if entry.begin > at else "an overlap of"
            raise InkstoneError(f"there is {kind} {last} and tensor {show(name)} at byte {at}")
        at, last = entry.end, f"tensor {show(name)}"
    if at > data:
        raise InkstoneError(f"the file is truncated: {at - data} of {at} bytes of data are missing")
    if at < data:
        raise InkstoneError(f"{data - at} bytes follow the last tensor, expected none")


def _check_header(header: dict[str, object]) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    metadata = header.pop("__metadata__", {})
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise InkstoneError("__metadata__ should map strings to strings")
    if len(header) > MAX_TENSORS:
        raise InkstoneError(f"{len(header)} tensors, expected at most {MAX_TENSORS}")
    return {name: _entry(name, value) for name, value in header.items()}, metadata


def read_header(text: bytes, data: int) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """(tensors, metadata) of a header in front of `data` bytes, or InkstoneError."""
    entries, metadata = _check_header(parse_json(text, HeaderRules()))
    _check_cover(entries, data)
    return entries, metadata


def write_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
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
    read_header(text, at)  # never write what we would not read
    return len(text).to_bytes(8, "little") + text
