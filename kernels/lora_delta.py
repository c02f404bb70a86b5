"""dW of one LoRA for one linear layer, applied without building the matrix.

One class per method: LoRA, LoKr, LoHa, and dW itself. All agree with the dense form, which tests
and DoRA use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .linear import product

_CHUNK = 1 << 22  # elements of dW at a time where it has to be built


class Delta(Protocol):
    """dW [N,K] at strength 1, alpha / rank included."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Delta:
        """This delta with factors that can be multiplied with x of this type."""

    def apply(self, x: Tensor) -> Tensor:
        """x [...,K] -> dW x [...,N]."""

    def dense(self) -> Tensor:
        """dW [N,K], float32."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """dW = scale * up down: LoRA."""

    down: Tensor  # [r,K]
    up: Tensor  # [N,r]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def to(self, device: torch.device, dtype: torch.dtype) -> LowRank:
        return LowRank(self.down.to(device, dtype), self.up.to(device, dtype), self.scale)

    def apply(self, x: Tensor) -> Tensor:
        return product(product(x, self.down) * self.scale, self.up)

    def dense(self) -> Tensor:
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, eq=False)
class Kron:
    """dW = scale * left (x) right, a Kronecker product: LoKr. Each side is one matrix or two."""

    left: tuple[Tensor, ...]  # product [n1,k1]
    right: tuple[Tensor, ...]  # product [n2,k2]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        (n1, k1), (n2, k2) = (
            (side[0].shape[0], side[-1].shape[1]) for side in (self.left, self.right)
        )
        return n1 * n2, k1 * k2

    def to(self, device: torch.device, dtype: torch.dtype) -> Kron:
        left, right = (tuple(m.to(device, dtype) for m in side) for side in (self.left, self.right))
        return Kron(left, right, self.scale)

    def apply(self, x: Tensor) -> Tensor:
        z = x.unflatten(-1, (self.left[-1].shape[1], -1))  # [...,k1,k2]
        for matrix in reversed(self.right):
            z = product(z, matrix)  # [...,k1,n2]
        z = (z * self.scale).transpose(-1, -2)  # [...,n2,k1]
        for matrix in reversed(self.left):
            z = product(z, matrix)  # [...,n2,n1]
        return z.transpose(-1, -2).flatten(-2)

    def dense(self) -> Tensor:
        left, right = (_chain(side) for side in (self.left, self.right))
        return self.scale * torch.kron(left, right)


def _chain(matrices: Sequence[Tensor]) -> Tensor:
    """The product of one or two matrices in float32."""
    first, *rest = (m.float() for m in matrices)
    return first @ rest[0] if rest else first


@dataclass(frozen=True, eq=False)
class Hadamard:
    """dW = scale * (a1 b1) * (a2 b2), element by element: LoHa.

    It has rank r1 r2 exactly, with rows and columns that are products of rows and columns of the
    factors. While that is cheaper these are computed for every product (a few percent of it), so
    nothing large is kept; for higher ranks dW is computed in chunks of rows.
    """

    a1: Tensor  # [N,r1]
    b1: Tensor  # [r1,K]
    a2: Tensor  # [N,r2]
    b2: Tensor  # [r2,K]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.a1.shape[0], self.b1.shape[1]

    def to(self, device: torch.device, dtype: torch.dtype) -> Hadamard:
        a1, b1, a2, b2 = (  # float32: rounded once, after they are multiplied
            factor.to(device, torch.float32) for factor in (self.a1, self.b1, self.a2, self.b2)
        )
        return Hadamard(a1, b1, a2, b2, self.scale)

    def apply(self, x: Tensor) -> Tensor:
        n, k = self.shape
        rank = self.a1.shape[1] * self.a2.shape[1]
        if rank * (n + k) <= n * k:
            down = (self.b1[:, None] * self.b2[None]).flatten(0, 1)  # [r1 r2,K]
            up = (self.a1[:, :, None] * self.a2[:, None]).flatten(1)  # [N,r1 r2]
            return product(product(x, down.to(x.dtype)) * self.scale, up.to(x.dtype))
        step = max(1, _CHUNK // k)
        return torch.cat(
            [product(x, self._rows(i, i + step).to(x.dtype)) for i in range(0, n, step)], dim=-1
        )

    def dense(self) -> Tensor:
        return self._rows(0, self.shape[0])

    def _rows(self, start: int, stop: int) -> Tensor:
        one, two = (
            a[start:stop].float() @ b.float() for a, b in ((self.a1, self.b1), (self.a2, self.b2))
        )
        return self.scale * one * two


@dataclass(frozen=True, eq=False)
class Dense:
    """dW itself: `.diff`."""

    weight: Tensor  # [N,K]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.weight.shape
        return rows, columns

    def to(self, device: torch.device, dtype: torch.dtype) -> Dense:
        return Dense(self.weight.to(device, dtype))

    def apply(self, x: Tensor) -> Tensor:
        return product(x, self.weight)

    def dense(self) -> Tensor:
        return self.weight.float()


def tensors_of(delta: Delta | None) -> list[Tensor]:
    """The factors of a delta."""
    values = vars(delta).values() if delta is not None else ()
    sides = [v if isinstance(v, tuple) else (v,) for v in values]
    return [t for side in sides for t in side if isinstance(t, Tensor)]
