"""Integer weights as ComfyUI writes them: int8, and 4 or 6 bits with scales by row or by group.

Formats with ConvRot were rotated before they were rounded (every `group` inputs times a Hadamard
matrix), so that no input stands out; rows are rotated back here, as integers and so without error
(comfy-kitchen, the reference, rotates floats; without ConvRot the results are its bits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from .chunked_storage import (
    INT4,
    ChunkedStorage,
    Rows,
    known_pairs,
    look_up_pairs,
    pair_table,
    rotate_back,
    scale_groups,
)
from .fp8 import E4M3, IGNORED
from .int8_rows import Int8Rows
from .native.unpack import MAX_ROTATION, available, unpack_int8, usable
from .packed_layer import BYTES, FLOATS, PackedParts
from .storage import PackedWeight

_UNSIGNED = tuple(q - 8.0 for q in range(16))
_COUNTED = tuple(float(q) for q in range(16))


class RowScaledStorage(ChunkedStorage):
    """int8 [N, K], or two int4 a byte [N, K/2] low first; scale float32 () or [N, 1]; `rotated`
    is the group of ConvRot, 0 without it."""

    codes: Tensor
    scale: Tensor

    def __init__(
        self, format_name: str, codes: Tensor, scale: Tensor, bits: int, rotated: int
    ) -> None:
        super().__init__((len(codes), codes.shape[1] * 8 // bits))
        self.format, self.bits, self.rotated = format_name, bits, rotated
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.reshape(-1, 1) if scale.numel() > 1 else scale.view(()))

    def compiled(self, dtype: torch.dtype) -> bool:
        fits = self.bits == 8 and self.rotated <= MAX_ROTATION
        return fits and available(dtype, self.codes.numel())

    def rows_into(self, start: int, out: Tensor) -> Tensor:
        if not (self.compiled(out.dtype) and usable(self.codes, out)):
            return super().rows_into(start, out)
        rows = slice(start, start + len(out))
        return unpack_int8(self.codes[rows], self._scale_of(rows), self.rotated, out)

    def int8_rows(self) -> Int8Rows | None:
        if self.bits != 8:
            return None
        scales = self.scale.float().reshape(-1).expand(len(self.codes)).contiguous()
        return Int8Rows(self.codes, scales, self.rotated)

    def fill(self, rows: Rows, out: Tensor) -> None:
        codes = self.codes[rows]
        if self.bits == 8:
            out.copy_(codes)
        else:
            look_up_pairs(known_pairs(INT4, False, out.device), codes.view(torch.uint8), out)
        if self.rotated:
            rotate_back(out, self.rotated)
        out.mul_(self._scale_of(rows))

    def _scale_of(self, rows: Rows) -> Tensor:
        """The scales of these rows, that of a rotation with them."""
        scale = self.scale[rows] if self.scale.dim() else self.scale
        return scale / math.sqrt(self.rotated) if self.rotated else scale

    def rows(self, start: int, stop: int) -> RowScaledStorage:
        scale = self.scale[start:stop] if self.scale.dim() else self.scale
        return RowScaledStorage(self.format, self.codes[start:stop], scale, self.bits, self.rotated)


class W4A8Storage(ChunkedStorage):
    """Codes of 4 bits (6: high pairs behind the row's nibbles) of int8 numbers:
    clamp(round(level * small)) with small [N, K/group], then scale [N, 1], plus `offset`
    [K/group, N] if there is one, then rotated back."""

    codes: Tensor
    small: Tensor
    scale: Tensor
    codebook: Tensor | None
    offset: Tensor | None

    def __init__(
        self, codes: Tensor, parts: Mapping[str, Tensor], group: int, rotated: int
    ) -> None:
        small = parts["small"]
        super().__init__((len(codes), small.shape[1] * group))
        self.group, self.rotated = group, rotated
        self.bits = codes.shape[1] * 8 // self.shape[1]
        self.format = f"asym_w{self.bits}a8_int8"
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("small", small.view(torch.uint8) if small.dtype == E4M3 else small)
        for name in ("scale", "codebook", "offset"):
            self.register_buffer(name, parts.get(name))
        self._pairs: Tensor | None = None

    def fill(self, rows: Rows, out: Tensor) -> None:
        if self.bits == 4:
            look_up_pairs(self._table(), self.codes[rows], out)
        else:
            out.copy_(self._six_bits(self.codes[rows])).sub_(32)
        small = self.small[rows]
        scale_groups(out, (small.view(E4M3) if small.dtype == torch.uint8 else small).float())
        root = math.sqrt(self.rotated)
        rotate_back(out.round_().clamp_(-127, 127), self.rotated).mul_(self.scale[rows] / root)
        if self.offset is not None:
            # not integers: in float64 the order of additions does not reach float32's last bit
            offset = self.offset[:, rows].t().double().repeat_interleave(self.group, 1)
            out.add_(rotate_back(offset, self.rotated).div_(root).float())

    def rows(self, start: int, stop: int) -> W4A8Storage:
        parts = {"small": self.small[start:stop], "scale": self.scale[start:stop]}
        if self.small.dtype == torch.uint8:
            parts["small"] = parts["small"].view(E4M3)
        if self.codebook is not None:
            parts["codebook"] = self.codebook
        if self.offset is not None:
            parts["offset"] = self.offset[:, start:stop]
        return W4A8Storage(self.codes[start:stop], parts, self.group, self.rotated)

    def _table(self) -> Tensor:
        if self._pairs is None or self._pairs.device != self.codes.device:
            plain = torch.tensor(_UNSIGNED, device=self.codes.device)
            self._pairs = pair_table(plain if self.codebook is None else self.codebook)
        return self._pairs

    def _six_bits(self, packed: Tensor) -> Tensor:
        """Bytes [n, 3K/4] -> codes [n, K] of 0..63."""
        columns = self.shape[1]
        low, high = packed[:, : columns // 2], packed[:, columns // 2 :]
        codes = torch.stack([low & 15, low >> 4], -1).view(len(packed), columns)
        shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=packed.device)
        return codes | (((high.unsqueeze(-1) >> shifts) & 3) << 4).view(len(packed), columns)


class GroupScaledStorage(ChunkedStorage):
    """Two codes a byte [N, K/2], low first: (q - middle) * scale + zero, these [N, K/group] each in
    their float type; middle is 8, or 0."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(
        self, format_name: str, codes: Tensor, scale: Tensor, zero: Tensor, middle: int = 8
    ) -> None:
        super().__init__((len(codes), codes.shape[1] * 2))
        self.format, self.levels = format_name, _UNSIGNED if middle else _COUNTED
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zero", zero.contiguous())

    def fill(self, rows: Rows, out: Tensor) -> None:
        look_up_pairs(known_pairs(self.levels, False, out.device), self.codes[rows], out)
        scale_groups(out, self.scale[rows].float())
        out.view(*self.scale[rows].shape, -1).add_(self.zero[rows].float().unsqueeze(-1))

    def rows(self, start: int, stop: int) -> GroupScaledStorage:
        part, middle = slice(start, stop), 0 if self.levels is _COUNTED else 8
        return GroupScaledStorage(
            self.format, self.codes[part], self.scale[part], self.zero[part], middle
        )


def _rotation(parts: PackedParts, layer: str, conf: Mapping[str, object], columns: int) -> int:
    """The group of ConvRot: a power of 4 that divides the columns."""
    group = parts.whole_number(layer, conf, "convrot_groupsize", 256)
    if columns % group or group < 4 or group & (group - 1) or group.bit_length() % 2 == 0:
        raise parts.fault(
            layer,
            f"its convrot_groupsize is {group}, expected a power of 4 that divides the "
            f"{columns} columns",
        )
    return group


def row_scaled_weight(
    parts: PackedParts,
    layer: str,
    format_name: str,
    conf: Mapping[str, object],
    extra: tuple[str, ...],
) -> PackedWeight:
    """int8_tensorwise and convrot_w4a4."""
    bits = 8 if format_name == "int8_tensorwise" else 4
    weight = parts.matrix(layer, BYTES if bits == 4 else {torch.int8})
    rows, width = parts.matrix_shape(weight)
    columns = width * 8 // bits
    scale = parts.need(layer, ".weight_scale")
    one = len(parts.shape(scale)) == 0 or parts.shape(scale) == (1,)
    parts.need(layer, ".weight_scale", () if one and bits == 8 else (rows,))
    convrot = bits == 4 or bool(conf.get("convrot"))
    rotated = _rotation(parts, layer, conf, columns) if convrot else 0
    full_name = format_name + " convrot" * (convrot and bits == 8)

    def load() -> RowScaledStorage:
        codes, scales = parts.read(weight), parts.floats(layer, scale)
        return RowScaledStorage(full_name, codes, scales, bits, rotated)

    return PackedWeight(
        name=weight,
        shape=(rows, columns),
        format=full_name,
        nbytes=rows * width + 4 * (1 if one else rows),
        parts=(weight, scale, *parts.present(layer, IGNORED), *extra),
        load=load,
    )


_W4A8 = (
    ("scale", ".weight_s_channel"),
    ("codebook", ".weight_codebook"),
    ("offset", ".weight_correction"),
)


def _load_w4a8(parts: PackedParts, layer: str, group: int, rotated: int) -> W4A8Storage:
    tensors = {
        key: parts.floats(layer, layer + suffix) for key, suffix in _W4A8 if layer + suffix in parts
    }
    tensors["scale"] = tensors["scale"].reshape(-1, 1)
    small = layer + ".weight_s_rel"
    parts.floats(layer, small)  # checked; kept in the type of the file
    tensors["small"] = parts.read(small)
    return W4A8Storage(parts.read(layer + ".weight"), tensors, group, rotated)


def w4a8_weight(
    parts: PackedParts,
    layer: str,
    format_name: str,
    conf: Mapping[str, object],
    extra: tuple[str, ...],
) -> PackedWeight:
    """asym_w4a8_int8 with 4 or 6 bits."""
    weight = parts.matrix(layer, BYTES)
    small = parts.matrix(layer, FLOATS | {E4M3}, ".weight_s_rel")
    rows, width = parts.matrix_shape(weight)
    group = parts.whole_number(layer, conf, "group_size", 16)
    columns = parts.shape(small)[1] * group
    bits = width * 8 // columns
    if parts.shape(small)[0] != rows or bits not in (4, 6) or bits * columns != width * 8:
        raise parts.fault(
            layer,
            f"its weight {[rows, width]} and scales {list(parts.shape(small))} do not fit "
            f"codes of 4 or 6 bits in groups of {group}",
        )
    part_names = [weight, small, parts.need(layer, ".weight_s_channel", (rows,))]
    size = parts.nbytes(weight, small) + 4 * rows
    optional = ((".weight_codebook", (16,)), (".weight_correction", (columns // group, rows)))
    for suffix, shape in optional:
        if layer + suffix in parts:
            part_names.append(parts.need(layer, suffix, shape))
            size += 4 * math.prod(shape)
    rotated = _rotation(parts, layer, conf, columns)
    return PackedWeight(
        name=weight,
        shape=(rows, columns),
        format=f"asym_w{bits}a8_int8",
        nbytes=size,
        parts=(*part_names, *parts.present(layer, IGNORED), *extra),
        load=partial(_load_w4a8, parts, layer, group, rotated),
    )


def awq_weight(
    parts: PackedParts,
    layer: str,
    format_name: str,
    conf: Mapping[str, object],
    extra: tuple[str, ...],
) -> PackedWeight:
    """awq_w4a16."""
    weight = parts.matrix(layer, BYTES)
    rows, width = parts.matrix_shape(weight)
    group = parts.whole_number(layer, conf, "group_size", 64)
    if 2 * width % group:
        raise parts.fault(layer, f"groups of {group} do not divide its {2 * width} columns")
    grid = (2 * width // group, rows)
    both = [parts.need(layer, suffix, grid) for suffix in (".weight_scale", ".weight_zeros")]

    def load() -> GroupScaledStorage:
        for name in both:
            parts.floats(layer, name)
        scale, zero = (parts.read(name).reshape(grid).t() for name in both)
        return GroupScaledStorage(format_name, parts.read(weight), scale, zero)

    return PackedWeight(
        name=weight,
        shape=(rows, 2 * width),
        format=format_name,
        nbytes=parts.nbytes(weight, *both),
        parts=(weight, *both, *parts.present(layer, IGNORED), *extra),
        load=load,
    )
