"""The tensor types of GGUF files: id, name, weights per block, bytes per block.

Source: the type table of ggml. Numbers of the layouts themselves are in gguf_block_quants.py
(blocks of 32 and 64 weights) and gguf_k_quants.py (256 weights).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BlockType:
    """One type: every `block` weights of a row take `bytes` bytes."""

    id: int
    name: str
    block: int
    bytes: int
    scales: tuple[int, ...] = ()  # where in a block its f16 scales and minimums are
    byte_scales: tuple[int, ...] = ()  # the same for scales of one byte
    nan: int = 255  # such a byte is no number where all these bits are set
    dtype: torch.dtype | None = None  # of plain numbers, which have no blocks
    codebook: bool = False  # values come from large tables of the format

    @property
    def packed(self) -> bool:
        """True if it has blocks of codes, False for plain numbers."""
        return self.dtype is None

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return 8 * self.bytes / self.block

    def row_bytes(self, row: int) -> int:
        """Bytes of a row of `row` weights, which must be whole blocks."""
        return row // self.block * self.bytes


def _plain(id: int, name: str, dtype: torch.dtype) -> BlockType:
    return BlockType(id, name, 1, dtype.itemsize, dtype=dtype)


def _blocks(id: int, name: str, block: int, size: int, *scales: int) -> BlockType:
    return BlockType(id, name, block, size, scales=scales)


def _codebook(id: int, name: str, size: int, *scales: int) -> BlockType:
    return BlockType(id, name, 256, size, scales=scales, codebook=True)


_ALL = (
    _plain(0, "F32", torch.float32),
    _plain(1, "F16", torch.float16),
    _plain(30, "BF16", torch.bfloat16),
    _plain(24, "I8", torch.int8),
    _plain(25, "I16", torch.int16),
    _plain(26, "I32", torch.int32),
    _plain(27, "I64", torch.int64),
    _plain(28, "F64", torch.float64),
    _blocks(2, "Q4_0", 32, 18, 0),
    _blocks(3, "Q4_1", 32, 20, 0, 2),
    _blocks(6, "Q5_0", 32, 22, 0),
    _blocks(7, "Q5_1", 32, 24, 0, 2),
    _blocks(8, "Q8_0", 32, 34, 0),
    _blocks(10, "Q2_K", 256, 84, 80, 82),
    _blocks(11, "Q3_K", 256, 110, 108),
    _blocks(12, "Q4_K", 256, 144, 0, 2),
    _blocks(13, "Q5_K", 256, 176, 0, 2),
    _blocks(14, "Q6_K", 256, 210, 208),
    _blocks(20, "IQ4_NL", 32, 18, 0),
    _blocks(23, "IQ4_XS", 256, 136, 0),
    _blocks(34, "TQ1_0", 256, 54, 52),
    _blocks(35, "TQ2_0", 256, 66, 64),
    BlockType(39, "MXFP4", 32, 17, byte_scales=(0,)),
    BlockType(40, "NVFP4", 64, 36, byte_scales=(0, 1, 2, 3), nan=127),
    _codebook(16, "IQ2_XXS", 66, 0),
    _codebook(17, "IQ2_XS", 74, 0),
    _codebook(18, "IQ3_XXS", 98, 0),
    _codebook(19, "IQ1_S", 50, 0),
    _codebook(21, "IQ3_S", 110, 0),
    _codebook(22, "IQ2_S", 82, 0),
    _codebook(29, "IQ1_M", 56),
)
TYPES: dict[int, BlockType] = {kind.id: kind for kind in _ALL}
BY_NAME: dict[str, BlockType] = {kind.name: kind for kind in _ALL}

# Ids that are refused, each with the reason.
_REMOVED = "was removed from the format"
_ACTIVATION = "is a type of activations, never of weights"
REFUSED: dict[int, str] = {
    4: f"Q4_2 {_REMOVED}",
    5: f"Q4_3 {_REMOVED}",
    9: f"Q8_1 {_ACTIVATION}",
    15: f"Q8_K {_ACTIVATION}",
    31: f"Q4_0_4_4 {_REMOVED}",
    32: f"Q4_0_4_8 {_REMOVED}",
    33: f"Q4_0_8_8 {_REMOVED}",
    36: f"IQ4_NL_4_4 {_REMOVED}",
    37: f"IQ4_NL_4_8 {_REMOVED}",
    38: f"IQ4_NL_8_8 {_REMOVED}",
    41: "Q1_0 is not supported",
}
