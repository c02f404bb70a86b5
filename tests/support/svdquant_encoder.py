"""An encoder of SVDQuant's layout for tests and benchmarks: index by index from its description,
the order in which tensor cores load each part.
"""

from __future__ import annotations

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def place(shape: tuple[int, ...], steps: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """Position in memory from (index of an axis, its size), outermost first."""
    at = torch.zeros((), dtype=torch.int64)
    for index, size in steps:
        at = at * size + index
    return at.expand(shape)


def put(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """values written to those positions, in one row."""
    memory = torch.empty(values.numel(), dtype=values.dtype)
    memory[at.reshape(-1)] = values.reshape(-1)
    return memory


def nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Codes of 0..15 in one row -> bytes, the first the low half."""
    return (codes[0::2] | codes[1::2] << 4).to(torch.uint8)


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    rows, columns = codes.shape
    n, k = torch.arange(rows).view(-1, 1), torch.arange(columns).view(1, -1)
    at = place(
        codes.shape,
        [
            (n // 128, rows // 128),
            (k // 64, columns // 64),
            (n % 128 // 16, 8),
            (n % 8, 8),
            (k % 32 // 8, 4),
            (n % 16 // 8, 2),
            (k % 64 // 32, 2),
            (k % 8, 8),
        ],
    )
    return nibbles(put(codes, at)).view(torch.int8).view(rows, columns // 2)


def pack_scale(scale: torch.Tensor) -> torch.Tensor:
    """[N, groups] in 16 bits -> [groups, N] in name, tiles in memory."""
    rows, groups = scale.shape
    n, g = torch.arange(rows).view(-1, 1), torch.arange(groups).view(1, -1)
    at = place(
        scale.shape,
        [
            (n // 128, rows // 128),
            (g, groups),
            (n % 128 // 16, 8),
            (n % 8 // 2, 4),
            (n % 16 // 8, 2),
            (n % 2, 2),
        ],
    )
    return put(scale, at).view(groups, rows)


def pack_scale_fp4(scale: torch.Tensor) -> torch.Tensor:
    rows, groups = scale.shape
    n, g = torch.arange(rows).view(-1, 1), torch.arange(groups).view(1, -1)
    at = place(
        scale.shape,
        [
            (n // 128, rows // 128),
            (g // 4, groups // 4),
            (n % 8, 8),
            (n % 32 // 8, 4),
            (n % 128 // 32, 4),
            (g % 4, 4),
        ],
    )
    return put(scale.view(torch.uint8), at).view(torch.float8_e4m3fn).view(groups, rows)


def pack_vector(vector: torch.Tensor) -> torch.Tensor:
    return pack_scale(vector.view(-1, 1)).view(-1)


def pack_low(matrix: torch.Tensor, down: bool) -> torch.Tensor:
    """U [N, R], or D [R, K] which is named [K, R]."""
    rows, columns = matrix.shape
    r, c = torch.arange(rows).view(-1, 1), torch.arange(columns).view(1, -1)
    p, q = (r // 16, c // 16) if down else (c // 16, r // 16)
    sizes = (rows // 16, columns // 16) if down else (columns // 16, rows // 16)
    at = place(
        matrix.shape,
        [
            (q, sizes[1]),
            (p, sizes[0]),
            (r % 8, 8),
            (c % 8 // 2, 4),
            (r % 16 // 8, 2),
            (c % 16 // 8, 2),
            (c % 2, 2),
        ],
    )
    return put(matrix, at).view((columns, rows) if down else (rows, columns))
