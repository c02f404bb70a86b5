"""Packed rows on a CPU through the compiled library: what it can do, checked before it is used."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..gguf_types import BlockType
from .build import library

# as in the array BLOCKS of unpack.c
KINDS = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 NVFP4 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS TQ2_0".split()
OUTPUTS = (torch.float32, torch.bfloat16)
MAX_ROTATION = 256  # neighbours that unpack.c rotates at most
WORTH = 1 << 20  # weights from which compiling is worth its second
_wanted = False  # whether anybody has had weights enough

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_ROWS = (_POINTER, _LONG, _LONG, _POINTER, _INT, _INT, _POINTER, _INT)
_ARGUMENTS = {
    "inkstone_blocks": (_INT, _POINTER, _LONG, ctypes.c_float, _POINTER, _INT),
    "inkstone_fp8": _ROWS,
    "inkstone_int8": _ROWS,
    "inkstone_quantize": (_POINTER, _INT, _LONG, _LONG, _LONG, _INT, _POINTER, _POINTER, _POINTER),
    "inkstone_dequantize": (_POINTER, _LONG, _LONG, *[_POINTER] * 3, _INT, _POINTER, _LONG, _INT),
}
_ONE = torch.ones(1)


def available(dtype: torch.dtype, weights: int) -> bool:
    """True if the library unpacks to `dtype`. The first matrix of many weights compiles it; small
    ones alone never start a compiler."""
    global _wanted
    if dtype not in OUTPUTS:
        return False
    _wanted = _wanted or weights >= WORTH
    return _wanted and library()[0] is not None


def usable(packed: Tensor, out: Tensor) -> bool:
    """True if the library can read and write these tensors."""
    return (
        packed.device.type == "cpu" == out.device.type
        and packed.is_contiguous()
        and out.is_contiguous()
        and available(out.dtype, out.numel())
    )


def unpack_blocks(raw: Tensor, kind: BlockType, out: Tensor, factor: float = 1.0) -> Tensor:
    """Bytes of whole blocks of one of KINDS -> weights times `factor`, in `out`."""
    number, count = KINDS.index(kind.name), raw.numel() // kind.bytes
    at, to = raw.data_ptr(), out.data_ptr()
    _function("inkstone_blocks")(number, at, count, factor, to, _bf16(out))
    return out


def unpack_fp8(codes: Tensor, scale: Tensor | None, mantissa: int, out: Tensor) -> Tensor:
    """Bytes [n, K] of finite 8-bit floats times scale (none, one, or [n, 1]), into out [n, K]."""
    return _unpack_rows("inkstone_fp8", codes, _ONE if scale is None else scale, mantissa, out)


def unpack_int8(codes: Tensor, scale: Tensor, group: int, out: Tensor) -> Tensor:
    """int8 [n, K] times scale (one, or [n, 1]), rotated back in groups where `group` > 0, into
    out [n, K]."""
    return _unpack_rows("inkstone_int8", codes, scale, group, out)


def _unpack_rows(name: str, codes: Tensor, scale: Tensor, setting: int, out: Tensor) -> Tensor:
    scales = scale.float().contiguous()
    step = int(scales.numel() > 1)  # from the scale of one row to that of the next
    at, to = codes.data_ptr(), out.data_ptr()
    _function(name)(at, *codes.shape, scales.data_ptr(), step, setting, to, _bf16(out))
    return out


def quantizes(x: Tensor, group: int) -> bool:
    """True if the library can make int8 codes of these rows [n,K]."""
    rows = x.stride(-1) == 1 and x.device.type == "cpu" and group <= MAX_ROTATION
    return rows and available(x.dtype, WORTH)


def quantize_into(x: Tensor, group: int, codes: Tensor, scales: Tensor) -> None:
    """Rows x [n,K] -> codes int8 [n,K] and scales float32 [n], see `inkstone_quantize`."""
    (rows, columns), work = x.shape, torch.empty(x.shape[1])
    at, stride, room = x.data_ptr(), x.stride(0), work.data_ptr()
    to = codes.data_ptr(), scales.data_ptr()
    _function("inkstone_quantize")(at, _bf16(x), rows, columns, stride, group, room, *to)


def dequantizes(sums: Tensor, out: Tensor) -> bool:
    """True if the library can make floats of these sums int32 [n,N]."""
    rows = out.stride(-1) == 1 and sums.is_contiguous() and sums.device.type == "cpu"
    return rows and available(out.dtype, WORTH)


def dequantize_into(
    sums: Tensor, scales: tuple[Tensor, Tensor], bias: Tensor | None, gelu: bool, out: Tensor
) -> None:
    """Sums int32 [n,N] times float32 scales [n] and [N], plus bias float32 [N], then GELU (tanh
    form) if `gelu`, into out [n,N]."""
    of_rows, of_columns = (scale.data_ptr() for scale in scales)
    given, to = 0 if bias is None else bias.data_ptr(), out.data_ptr()
    at, stride = sums.data_ptr(), out.stride(0)
    _function("inkstone_dequantize")(
        at, *sums.shape, of_rows, of_columns, given, gelu, to, stride, _bf16(out)
    )


def _bf16(out: Tensor) -> int:
    return int(out.dtype == torch.bfloat16)


@functools.cache
def _function(name: str) -> Callable[..., None]:
    loaded = library()[0]
    assert loaded is not None, "asked for without `usable`"
    function: Callable[..., None] = getattr(loaded, name)
    function.argtypes, function.restype = _ARGUMENTS[name], None  # type: ignore[attr-defined]
    return function
