"""A second form of a packed weight for products of few tokens on a CPU, as each token of an answer
is one: torch's product with 4-bit codes reads half a byte per weight, where unpacking costs a pass
over all of them (measured: 0.03 against 1.5 ms per million weights on a Zen 5 core).

GGUF types with a scale for 32 weights become one plane of nibbles, or two where their codes have
more than 16 values: w = low s + m, and high 16 s in addition. Types with a scale for 16 weights
become one plane of twice the width: the low nibbles of 16 weights and their high ones stand side by
side under one scale, and are multiplied by x and 16 x. Codes are exact; scales are rounded to
bfloat16, as weights are that are unpacked to it. All other formats become a bfloat16 matrix, which
a product of few tokens reads at the speed of the memory. The form is in addition to the packed
weight, which prompts go on using: see kernels/few_tokens.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .gguf_dequantizer import UNPACK
from .gguf_storage import GGUFStorage
from .storage import PackedWeight, PlainStorage, Storage

GROUP = 32  # weights with one scale in torch's product
_ROWS = 64  # that torch's layout interleaves: chunks are multiples of it
_CHUNK = 2**20  # weights that are packed at a time
# GGUF types with a scale for 32 weights: (least code, planes of 4 bits)
TYPES = {
    "Q4_0": (-8, 1),
    "Q4_1": (0, 1),
    "Q4_K": (0, 1),
    "Q5_0": (-16, 2),
    "Q5_1": (0, 2),
    "Q5_K": (0, 2),
    "Q8_0": (-128, 2),
    "IQ4_NL": (-128, 2),
    "IQ4_XS": (-128, 2),
}
SMALL = ("Q3_K", "Q6_K")  # types with a scale for 16 weights, codes -40 .. 39 and no minimum


class NibbleStorage(Storage):
    """One or two planes of 4-bit codes in torch's layout, each with [K/32,N,2] scales and zeros in
    bfloat16. It only multiplies: its rows are those of the weight that it was made of."""

    def __init__(self, shape: tuple[int, int], planes: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(shape)
        self.format, self.count = f"{4 * len(planes)} bits", len(planes)
        for number, (codes, scales) in enumerate(planes):
            self.register_buffer(f"codes{number}", codes)
            self.register_buffer(f"scales{number}", scales)

    def product(self, x: Tensor) -> Tensor:
        """x [n,K] bfloat16 -> x W^T [n,N]."""
        parts = [
            torch._weight_int4pack_mm_for_cpu(
                x, self.get_buffer(f"codes{n}"), GROUP, self.get_buffer(f"scales{n}")
            )
            for n in range(self.count)
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class TwiceStorage(NibbleStorage):
    """One plane [N,2K]: of every 16 weights the low nibbles and then the high ones."""

    def product(self, x: Tensor) -> Tensor:
        """x [n,K] bfloat16 -> x W^T [n,N]."""
        small = x.reshape(len(x), -1, 1, GROUP // 2)
        return super().product(torch.cat([small, 16 * small], 2).reshape(len(x), -1))  # [n,2K]


class HalfStorage(PlainStorage):
    """A bfloat16 matrix."""

    def product(self, x: Tensor) -> Tensor:
        """x [n,K] bfloat16 -> x W^T [n,N]."""
        return F.linear(x, self.weight)


FewTokenStorage = NibbleStorage | HalfStorage


def form_bytes(weight: PackedWeight) -> int:
    """Bytes of the form of a weight."""
    rows, columns = weight.shape
    if not _has_planes(weight.format, weight.shape):
        return 2 * rows * columns
    if weight.format in SMALL:
        return rows * columns + rows * columns // (GROUP // 2) * 4
    return TYPES[weight.format][1] * (rows * columns // 2 + rows * columns // GROUP * 4)


def few_token_form(load: Callable[[], Storage]) -> FewTokenStorage:
    """The form of the weight that `load` reads."""
    storage = load()
    if isinstance(storage, GGUFStorage) and _has_planes(storage.format, storage.shape):
        return _planes(storage)
    return HalfStorage(storage.dequantize(torch.bfloat16))


def _has_planes(form: str, shape: tuple[int, int]) -> bool:
    if form not in TYPES and form not in SMALL:
        return False
    return shape[0] % 16 == 0 and shape[1] % GROUP == 0


def _planes(storage: GGUFStorage) -> NibbleStorage:
    rows, columns = storage.shape
    small = storage.format in SMALL
    width, count = (2 * columns, 1) if small else (columns, TYPES[storage.format][1])
    planes = [
        (
            torch.empty(rows, width // 2, dtype=torch.uint8),
            torch.empty(width // GROUP, rows, 2, dtype=torch.bfloat16),
        )
        for _ in range(count)
    ]
    step = max(1, _CHUNK // (_ROWS * columns)) * _ROWS
    for at in range(0, rows, step):
        part = slice(at, min(at + step, rows))
        for (codes, scales), plane in zip(planes, _rows(storage, part), strict=True):
            codes[part], scales[:, part] = plane
    return (TwiceStorage if small else NibbleStorage)(storage.shape, planes)


def _rows(storage: GGUFStorage, part: slice) -> list[tuple[Tensor, Tensor]]:
    """Some rows of every plane."""
    raw = storage.raw[part]
    blocks = UNPACK[storage.format](raw.reshape(-1, storage.kind.bytes))
    codes = blocks.codes.reshape(len(raw), -1)  # [n,K]
    s = (blocks.scale * storage.factor).reshape(len(raw), -1).bfloat16().float()  # [n,groups]
    if storage.format in SMALL:
        return [_twice(codes, s)]
    zero = torch.zeros_like(s) if blocks.minimum is None else blocks.minimum.reshape(s.shape)
    return _split(codes, s, zero, TYPES[storage.format])


def _twice(codes: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """codes [n,K], s [n,K/16] -> one plane of 2 K columns; both nibbles are signed, so that the
    zero of a group, which is one for both, is none."""
    codes = codes.view(len(codes), -1, 1, GROUP // 2)
    low = (codes + 8 & 15) - 8
    both = torch.cat([low, codes - low >> 4], 2).reshape(len(codes), -1)
    return _packed(both.add_(8), s, torch.zeros_like(s))


def _split(
    codes: Tensor, s: Tensor, zero: Tensor, kind: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """codes [n,K] -> (packed codes, scales and zeros [K/32,n,2]) of each plane.

    The product rounds what a plane stands for to bfloat16, so each stays near zero. The offset of
    the codes, a multiple of 16, goes into the high nibbles, where it costs nothing.
    """
    least, count = kind
    codes = codes.to(torch.int32).sub_(least)
    if count == 1:
        return [_packed(codes, s, zero + (8 + least) * s)]
    high = _packed((codes >> 4) + 8 + least // 16, 16 * s, torch.zeros_like(s))
    return [_packed(codes & 15, s, zero + 8 * s), high]


def _packed(codes: Tensor, s: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    scales = torch.stack([s.T, zero.T], -1).bfloat16()
    return torch._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32).contiguous(), 1), scales
