"""Dequantizing GGUF blocks of every type on any device, the same bits as ggml's own routines.

On a CPU the compiled library (native/) does it where there is one, on one thread; else torch, with
the same bits and two sizes of chunks. Codes are unpacked for many blocks at once, since an
operation of torch costs microseconds whatever its size; the float32 work, four times as wide, goes
in smaller chunks. Inputs are checked by the reader, not here.
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from . import gguf_block_quants, gguf_k_quants
from .gguf_codes import Codes
from .gguf_types import BY_NAME, BlockType
from .native.unpack import KINDS, available, unpack_blocks, usable

log = logging.getLogger(__name__)

# Measured with Q4_K on two Zen 3 cores, ms per million weights: 2^19 and 2^16 took 2.9, 2^20 and
# 2^17 1.7, these 1.5 (what torch spends per operation weighs more than the cache).
UNPACKED = 2**22  # weights whose codes are unpacked at once
FLOATS = 2**18  # weights that are scaled at once on a CPU: 1 MiB of float32

UNPACK: dict[str, Callable[[Tensor], Codes]] = {
    "Q4_0": gguf_block_quants.q4_0,
    "Q4_1": gguf_block_quants.q4_1,
    "Q5_0": gguf_block_quants.q5_0,
    "Q5_1": gguf_block_quants.q5_1,
    "Q8_0": gguf_block_quants.q8_0,
    "IQ4_NL": gguf_block_quants.iq4_nl,
    "MXFP4": gguf_block_quants.mxfp4,
    "NVFP4": gguf_block_quants.nvfp4,
    "Q2_K": gguf_k_quants.q2_k,
    "Q3_K": gguf_k_quants.q3_k,
    "Q4_K": gguf_k_quants.q4_k,
    "Q5_K": gguf_k_quants.q5_k,
    "Q6_K": gguf_k_quants.q6_k,
    "IQ4_XS": gguf_k_quants.iq4_xs,
    "TQ1_0": gguf_k_quants.tq1_0,
    "TQ2_0": gguf_k_quants.tq2_0,
}


def _scale(blocks: Codes, out: Tensor) -> None:
    """out [n, block] = codes * scale + minimum, computed in float32."""
    groups = blocks.scale.shape[1]
    step = max(1, (FLOATS if out.device.type == "cpu" else UNPACKED) // out.shape[1])
    work = out
    if out.dtype != torch.float32:
        work = out.new_empty(step, out.shape[1], dtype=torch.float32)
    for at in range(0, out.shape[0], step):
        part = slice(at, min(at + step, out.shape[0]))
        chunk = work[part] if work is out else work[: part.stop - at]
        grouped = chunk.view(chunk.shape[0], groups, -1)
        chunk.copy_(blocks.codes[part])
        grouped.mul_(blocks.scale[part].unsqueeze(2))
        if blocks.minimum is not None:
            grouped.add_(blocks.minimum[part].unsqueeze(2))
        if chunk.dtype != out.dtype:
            out[part].copy_(chunk)


def dequantize(
    raw: Tensor,
    kind: BlockType,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    factor: float = 1.0,
) -> Tensor:
    """Bytes [..., n * kind.bytes] -> weights [..., n * kind.block] times factor, in `out` if given.

    Computed in float32 and rounded to the output's type last. Not for codebook types.
    """
    shape = (*raw.shape[:-1], raw.shape[-1] // kind.bytes * kind.block)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=raw.device)
    with torch.no_grad():
        if not out.is_contiguous():
            return out.copy_(dequantize(raw, kind, dtype=out.dtype, factor=factor))
        if usable(raw, out) and compiled(kind, out.dtype, out.numel()):
            return unpack_blocks(raw, kind, out, factor)
        return _by_torch(raw, kind, out, factor)


def _by_torch(raw: Tensor, kind: BlockType, out: Tensor, factor: float) -> Tensor:
    """`dequantize` into out, contiguous."""
    if factor != 1:
        floats = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        return out.copy_(_by_torch(raw, kind, floats, 1.0).mul_(factor))
    if kind.dtype is not None:
        return out.copy_(raw.contiguous().view(kind.dtype))
    blocks, flat = raw.reshape(-1, kind.bytes), out.view(-1, kind.block)
    step = UNPACKED // kind.block
    for at in range(0, blocks.shape[0], step):
        _scale(UNPACK[kind.name](blocks[at : at + step]), flat[at : at + step])
    return out


def compiled(kind: BlockType, dtype: torch.dtype, weights: int) -> bool:
    """True if the compiled library unpacks this type, which was checked."""
    return kind.name in KINDS and available(dtype, weights) and _same_bits(kind.name)


@functools.cache
def _same_bits(name: str) -> bool:
    """True if the library's bits of a type are torch's, on random blocks with usual scales."""
    kind = BY_NAME[name]
    source = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (64, kind.bytes), dtype=torch.uint8, generator=source)
    for place in kind.scales:
        scales = torch.randn(64, 1, generator=source).half().view(torch.uint8)
        raw[:, place : place + 2] = scales
    for place in kind.byte_scales:
        raw[:, place] = raw[:, place] % 100
    for dtype in (torch.float32, torch.bfloat16):
        ours, plain = (torch.empty(64, kind.block, dtype=dtype) for _ in range(2))
        unpack_blocks(raw, kind, ours)
        if not torch.equal(ours, _by_torch(raw, kind, plain, 1.0)):
            log.warning("the compiled library is wrong for %s here: torch unpacks it", name)
            return False
    return True


def bad_block(raw: Tensor, kind: BlockType) -> int | None:
    """The first block of `raw` with a scale or minimum that is not finite, or None.

    Only the bytes of the scales are read, 2 to 4 of a block.
    """
    places = kind.scales or kind.byte_scales  # adjacent in every type
    if not places or not raw.numel():
        return None
    part = raw.reshape(-1, kind.bytes)[:, places[0] : places[-1] + (2 if kind.scales else 1)]
    mask, least = (0x7FFF, 0x7C00) if kind.scales else (kind.nan, kind.nan)
    bits = (part.view(torch.int16) if kind.scales else part) & mask
    if int(bits.max()) < least:
        return None
    return int((bits >= least).any(1).nonzero()[0])
