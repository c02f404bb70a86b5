"""Packed rows on a CPU through the compiled library: what it can do, checked before it is used."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from .build import library

# as in the array BLOCKS of unpack.c
KINDS = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 NVFP4 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS TQ2_0".split()
OUTPUTS = (torch.float32, torch.bfloat16)
MAX_ROTATION = 256  # neighbours that unpack.c rotates at most
WORTH = 1 << 20  # weights from which compiling is worth its second
_wanted = False  # whether anybody has had weights enough

_Pointer = ctypes.c_void_p


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


def unpack_blocks(raw: Tensor, kind: str, out: Tensor, factor: float = 1.0) -> Tensor:
    """Bytes of whole blocks of one of KINDS -> weights times `factor`, in `out`."""
    number = KINDS.index(kind)
    function = _function("inkstone_blocks", _INT, _Pointer, _LONG, ctypes.c_float, _Pointer, _INT)
    count = out.numel() // (64 if kind == "NVFP4" else 256 if kind.endswith(_WIDE) else 32)
    function(number, raw.data_ptr(), count, factor, out.data_ptr(), _bf16(out))
    return out


def unpack_fp8(codes: Tensor, scale: Tensor | None, mantissa: int, out: Tensor) -> Tensor:
    """Bytes [n, K] of finite 8-bit floats times scale (none, one, or [n, 1]), into out [n, K]."""
    scales, step = _scales(scale)
    function = _function(
        "inkstone_fp8", _Pointer, _LONG, _LONG, _Pointer, _INT, _INT, _Pointer, _INT
    )
    at, to = codes.data_ptr(), out.data_ptr()
    function(at, *codes.shape, scales.data_ptr(), step, mantissa, to, _bf16(out))
    return out


def unpack_int8(codes: Tensor, scale: Tensor, group: int, out: Tensor) -> Tensor:
    """int8 [n, K] times scale (one, or [n, 1]), rotated back in groups where `group` > 0, into
    out [n, K]."""
    scales, step = _scales(scale)
    function = _function(
        "inkstone_int8", _Pointer, _LONG, _LONG, _Pointer, _INT, _INT, _Pointer, _INT
    )
    at, to = codes.data_ptr(), out.data_ptr()
    function(at, *codes.shape, scales.data_ptr(), step, group, to, _bf16(out))
    return out


_INT, _LONG = ctypes.c_int, ctypes.c_int64
_WIDE = ("_K", "XS", "TQ2_0")
_ONE = torch.ones(1)


def _scales(scale: Tensor | None) -> tuple[Tensor, int]:
    """Scales in float32 and how many of them one row is from the next."""
    if scale is None:
        return _ONE, 0
    scale = scale.float().contiguous()
    return scale, int(scale.numel() > 1)


def _bf16(out: Tensor) -> int:
    return int(out.dtype == torch.bfloat16)


def _function(name: str, *types: type) -> Callable[..., None]:
    loaded = library()[0]
    assert loaded is not None, "asked for without `usable`"
    function: Callable[..., None] = getattr(loaded, name)
    function.argtypes, function.restype = types, None  # type: ignore[attr-defined]
    return function
