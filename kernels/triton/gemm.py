"""Two kernels over the unpackers: y = x W^T + b with W packed, and packed -> a plain matrix.

There is one kernel for all types; the type's function is a constant of its compilation. In the
product W goes from its bytes through registers to the matrix units and is never written; sums are
float32. Weights are rounded to x's type first, so the result differs from unpacking and the
library's product only by the order of sums. Where few tokens make too few programs for the card, K
is split and the parts are summed by torch in a fixed order: no atomics, the same bits every time.

The kernels have more parameters than anything else here: a launch takes pointers and numbers only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...errors import InkstoneError
from ...quant.gguf_storage import GGUFStorage
from .tiles import splits, tile
from .unpackers import CUTS, EXACT, columns

UNPACK_ROWS = 64  # rows of one program of the plain unpacker


@triton.jit
def product_kernel(
    x: tl.tensor,
    raw: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    x_stride: tl.tensor,
    row_bytes: tl.tensor,
    part_steps: tl.tensor,
    UNPACK: tl.constexpr,
    PLANES: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """y [parts, M, N] = x [M, K] W^T + bias; a program has BLOCK_M x BLOCK_N of one part of K."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    lane = tl.arange(0, 32)
    # beyond the edge the last row is read again and not written: no masks in the loop
    x_row = x + tl.minimum(m, M - 1).to(tl.int64)[:, None] * x_stride
    row = raw + tl.minimum(n, N - 1).to(tl.int64)[None, :] * row_bytes
    end = tl.minimum((part + 1) * part_steps, (K + 32 * PLANES - 1) // (32 * PLANES))
    last = K // BLOCK - 1
    total = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    for step in range(part * part_steps, end):
        for plane in tl.static_range(PLANES):
            weight = UNPACK(row, step, lane[:, None], plane, last)
            k = columns(step, plane, lane, PLANES, RUN)[None, :]
            if WHOLE:
                a = tl.load(x_row + k)
            else:
                a = tl.load(x_row + k, mask=k < K, other=0.0)
            total = tl.dot(a, weight.to(a.dtype), total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + tl.minimum(n, N - 1)).to(tl.float32)[None, :]
    at = y + (part * M + m).to(tl.int64)[:, None] * N + n[None, :]
    tl.store(at, total.to(y.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def unpack_kernel(
    raw: tl.tensor,
    out: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    row_bytes: tl.tensor,
    UNPACK: tl.constexpr,
    PLANES: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """out [N, K] = W; a program has one step of BLOCK_N rows."""
    step = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, 32)
    row = raw + tl.minimum(n, N - 1).to(tl.int64)[None, :] * row_bytes
    out_row = out + n.to(tl.int64)[None, :] * K
    for plane in tl.static_range(PLANES):
        weight = UNPACK(row, step, lane[:, None], plane, K // BLOCK - 1)
        k = columns(step, plane, lane, PLANES, RUN)[:, None]
        tl.store(out_row + k, weight.to(out.dtype.element_ty), mask=(n < N)[None, :] & (k < K))


INTERPRETED = not isinstance(product_kernel, triton.JITFunction)  # TRITON_INTERPRET=1


def constants(kind_name: str, block: int) -> dict[str, object]:
    """The constants of a type that a kernel is compiled with."""
    cut = CUTS[kind_name]
    return {"UNPACK": cut.unpack, "PLANES": cut.planes, "RUN": cut.run, "BLOCK": block}


def _check(storage: GGUFStorage, x_device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what the kernels would read wrong."""
    if storage.format not in CUTS or storage.factor != 1:
        raise InkstoneError(
            f"No Triton kernel unpacks {storage.format}: expected one of {', '.join(CUTS)}. "
            "Use another backend for packed weights."
        )
    if storage.device != x_device:
        raise InkstoneError(
            f"The packed weight is on {storage.device} and its input on {x_device}: expected both "
            "on one device. Move one of them."
        )
    if INTERPRETED and dtype == torch.bfloat16:
        raise InkstoneError(
            "Triton's interpreter multiplies bfloat16 as integers: expected float16 or float32. "
            "Unset TRITON_INTERPRET."
        )


def _bytes(storage: GGUFStorage) -> Tensor:
    """The packed rows, copied unless the f16 numbers in them are aligned."""
    raw = storage.raw
    return raw if raw.stride() == (raw.shape[1], 1) and raw.data_ptr() % 2 == 0 else raw.clone()


def _processors(device: torch.device) -> int:
    """Multiprocessors of the card; the interpreter works as if it had four."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def fused_product(x: Tensor, storage: GGUFStorage, bias: Tensor | None = None) -> Tensor:
    """x [...,K], a packed weight [N,K], bias [N] -> x W^T + b [...,N] in x's type; no gradients."""
    _check(storage, x.device, x.dtype)
    (N, K), flat = storage.shape, x.reshape(-1, x.shape[-1])
    if K != x.shape[-1]:
        raise InkstoneError(
            f"The inputs of a weight [{N}, {K}] are {x.shape[-1]} wide, expected {K}. "
            "This is a fault in the caller."
        )
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    M, size = flat.shape[0], tile(flat.shape[0])
    if M == 0:
        return x.new_empty(*x.shape[:-1], N)
    tiles = triton.cdiv(M, size.tokens), triton.cdiv(N, size.rows)
    step = CUTS[storage.format].step
    steps = triton.cdiv(K, step)
    parts = splits(tiles[0] * tiles[1], steps, _processors(x.device))
    grid = (*tiles, parts)
    y = x.new_empty(parts, M, N, dtype=torch.float32 if parts > 1 else x.dtype)
    raw, add = _bytes(storage), bias is not None and parts == 1
    with torch.cuda.device_of(x):
        product_kernel[grid](
            flat,
            raw,
            bias if add else y,
            y,
            M,
            N,
            K,
            flat.stride(0),
            raw.stride(0),
            triton.cdiv(steps, parts),
            **constants(storage.format, storage.kind.block),
            WHOLE=K % step == 0,
            BIAS=add,
            BLOCK_M=size.tokens,
            BLOCK_N=size.rows,
            num_warps=size.warps,
            num_stages=size.stages,
            **EXACT,
        )
    if parts == 1:
        return y[0].view(*x.shape[:-1], N)
    total = y.sum(0) if bias is None else y.sum(0).add_(bias)
    return total.to(x.dtype).view(*x.shape[:-1], N)


def unpack_weight(storage: GGUFStorage, dtype: torch.dtype) -> Tensor:
    """The plain weight [N, K] in one pass, the bits of `storage.dequantize(dtype)`."""
    _check(storage, storage.device, dtype)
    N, K = storage.shape
    raw, cut = _bytes(storage), CUTS[storage.format]
    out = torch.empty(N, K, dtype=dtype, device=raw.device)
    grid = triton.cdiv(K, cut.step), triton.cdiv(N, UNPACK_ROWS)
    with torch.cuda.device_of(raw):
        unpack_kernel[grid](
            raw,
            out,
            N,
            K,
            raw.stride(0),
            **constants(storage.format, storage.kind.block),
            BLOCK_N=UNPACK_ROWS,
            num_warps=4,
            **EXACT,
        )
    return out
