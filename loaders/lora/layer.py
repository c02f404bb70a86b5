"""One layer of a LoRA file: its tensors, checked, as a change of a linear layer.

Supports LoRA, LoKr, LoHa, dense differences (`.diff`, `.diff_b`), and DoRA on any of them. A tensor
that does not fit the others of its layer is refused by name, never skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.lora import Change
from ...kernels.lora_delta import Delta, Dense, Hadamard, Kron, LowRank
from ..arch.key_maps_lora import is_norm
from ..formats.weight_reader import WeightReader
from .alpha import AlphaMetadata


@dataclass(frozen=True)
class LoraLayer:
    """The change of one layer, and the numbers that are reported."""

    change: Change
    kind: str  # LoRA, LoKr, LoHa, diff, norm diff, with "DoRA " in front where it is one
    shape: tuple[int, ...] | None  # of the weight; None where only a bias changes
    rank: int | None = None
    alpha: float | None = None


class LayerReader:
    """Builds the change of one layer from its tensors."""

    def __init__(
        self, source: WeightReader, parts: dict[str, str], scales: AlphaMetadata, module: str
    ) -> None:
        self.source, self.parts, self.scales, self.module = source, parts, scales, module
        self.used: set[str] = set()

    def layers(self, count: int) -> list[LoraLayer]:
        """The layer, or the `count` parts of a fused one."""
        if is_norm(self.module):
            return [self._norm()]
        kind, delta, rank, alpha = self._delta()
        change = Change(delta, self._magnitude(delta), self._bias(delta))
        self._refuse_unread()
        kind = f"DoRA {kind}" if change.magnitude is not None else kind
        shape = delta.shape if delta is not None else None
        layer = LoraLayer(change, kind, shape, rank, alpha)
        return self._split(layer, count) if count > 1 else [layer]

    def _norm(self) -> LoraLayer:
        """The difference of a norm's weight; files have no other part of a norm (file.py)."""
        tensor = self._tensor("diff").squeeze()
        if tensor.dim() != 1:
            raise self._error(
                f"{self._name('diff')} has shape {list(tensor.shape)}, expected one number per "
                "channel of a norm"
            )
        return LoraLayer(Change(bias=tensor), "norm diff", tuple(tensor.shape))

    def _refuse_unread(self) -> None:
        unread = set(self.parts) - self.used - {"alpha"}
        if unread:
            raise self._error(
                f"{self._name(min(unread))} does not fit the other tensors of its layer "
                f"({', '.join(sorted(set(self.parts) - unread))})"
            )

    def _delta(self) -> tuple[str, Delta | None, int | None, float | None]:
        """(kind, delta, rank, alpha)."""
        parts = set(self.parts)
        if any(part.startswith("lokr_") for part in parts):
            return "LoKr", *self._lokr()
        if any(part.startswith("hada_") for part in parts):
            return "LoHa", *self._loha()
        if parts & {"down", "up"}:
            down, up = self._matrix("down"), self._matrix("up")
            self._meets("up", up, "down", down)
            scale, alpha = self._scale(down.shape[0])
            return "LoRA", LowRank(down, up, scale), down.shape[0], alpha
        if "diff" in parts:
            return "diff", Dense(self._matrix("diff")), None, None
        if parts <= {"diff_b"}:
            return "diff", None, None, None
        raise self._error(f"{self._name(min(parts))} is there without its matrices")

    def _lokr(self) -> tuple[Delta, int | None, float | None]:
        (left, left_rank), (right, right_rank) = map(self._kron_side, ("lokr_w1", "lokr_w2"))
        rank = right_rank or left_rank  # the second side's, where both are factored
        scale, alpha = self._scale(rank) if rank else (1.0, None)
        return Kron(left, right, scale), rank, alpha

    def _kron_side(self, side: str) -> tuple[tuple[Tensor, ...], int | None]:
        """(the matrix, or its two factors; their rank)."""
        if side in self.parts:
            return (self._matrix(side),), None
        a, b = self._matrix(side + "_a"), self._matrix(side + "_b")
        self._meets(side + "_a", a, side + "_b", b)
        return (a, b), b.shape[0]

    def _loha(self) -> tuple[Delta, int, float | None]:
        a1, b1, a2, b2 = (self._matrix(f"hada_{p}") for p in ("w1_a", "w1_b", "w2_a", "w2_b"))
        self._meets("hada_w1_a", a1, "hada_w1_b", b1)
        self._meets("hada_w2_a", a2, "hada_w2_b", b2)
        if (a1.shape[0], b1.shape[1]) != (a2.shape[0], b2.shape[1]):
            raise self._error(
                f"the two products of {self._name('hada_w1_a')} have shapes "
                f"{[a1.shape[0], b1.shape[1]]} and {[a2.shape[0], b2.shape[1]]}, expected the same"
            )
        scale, alpha = self._scale(b1.shape[0])
        return Hadamard(a1, b1, a2, b2, scale), b1.shape[0], alpha

    def _magnitude(self, delta: Delta | None) -> Tensor | None:
        if "magnitude" not in self.parts or delta is None:
            return None
        tensor = self._squeezed("magnitude")
        n, k = delta.shape
        if tuple(tensor.shape) not in ((n,), (n, 1), (1, k)):
            raise self._error(
                f"{self._name('magnitude')} has shape {list(tensor.shape)}, expected [{n}], "
                f"[{n}, 1] or [1, {k}]"
            )
        return tensor

    def _bias(self, delta: Delta | None) -> Tensor | None:
        """The sum of `.diff_b` and PEFT's bias of the second matrix times the LoRA's factor."""
        biases = []
        for part, factor in (("diff_b", 1.0), ("up_bias", getattr(delta, "scale", 1.0))):
            if part in self.parts:
                tensor = self._tensor(part).flatten() * factor
                if delta is not None and tensor.numel() != delta.shape[0]:
                    raise self._error(
                        f"{self._name(part)} has {tensor.numel()} elements, expected "
                        f"{delta.shape[0]}"
                    )
                biases.append(tensor)
        return sum(biases[1:], biases[0]) if biases else None

    def _split(self, layer: LoraLayer, count: int) -> list[LoraLayer]:
        """Splits a layer that `count` layers were fused into: rows of its second matrix."""
        delta, bias, magnitude = layer.change.delta, layer.change.bias, layer.change.magnitude
        by_column = magnitude is not None and magnitude.dim() == 2 and magnitude.shape[0] == 1
        if by_column or isinstance(delta, Kron) and delta.left[0].shape[0] % count:
            raise self._error(
                f"{self.module} and its neighbours are fused into one layer, whose rows this "
                f"{layer.kind} does not have one by one"
            )
        rows = delta.shape[0] if delta is not None else 0 if bias is None else bias.numel()
        if rows % count:
            raise self._error(f"{rows} rows of a fused layer cannot be split into {count}")
        biases = bias.chunk(count) if bias is not None else (None,) * count
        sizes = magnitude.chunk(count) if magnitude is not None else (None,) * count
        changes = [
            Change(_rows(delta, i, count), sizes[i], biases[i])  # down matrices are shared
            for i in range(count)
        ]
        return [
            replace(layer, change=c, shape=None if c.delta is None else c.delta.shape)
            for c in changes
        ]

    def _scale(self, rank: int) -> tuple[float, float | None]:
        alpha = None
        if "alpha" in self.parts:
            tensor = self._tensor("alpha")
            if tensor.numel() != 1:
                raise self._error(
                    f"{self._name('alpha')} has shape {list(tensor.shape)}, expected one number"
                )
            alpha = tensor.item()
        return self.scales.scale(self.module, rank, alpha)

    def _matrix(self, part: str) -> Tensor:
        """A factor [rows, columns]."""
        tensor = self._squeezed(part)
        if tensor.dim() != 2 or not tensor.numel():
            raise self._error(
                f"{self._name(part)} has shape {list(tensor.shape)}, expected a matrix"
            )
        return tensor

    def _squeezed(self, part: str) -> Tensor:
        """A tensor without the trailing 1s of a 1x1 convolution."""
        tensor = self._tensor(part)
        while tensor.dim() > 2 and tensor.shape[-1] == 1:
            tensor = tensor.squeeze(-1)
        return tensor

    def _tensor(self, part: str) -> Tensor:
        """A finite float tensor."""
        if part not in self.parts:
            raise self._error(
                f"{self._name(min(self.parts))} is there, its other half ({part}) is missing"
            )
        self.used.add(part)
        name = self.parts[part]
        stored = self.source.entries[name].dtype
        if not stored.is_floating_point:
            if part == "alpha":
                return self.source.read(name).float()
            raise self._error(f"{name} has dtype {stored}, expected floats")
        tensor = self.source.read(name, dtype=torch.bfloat16 if stored.itemsize == 1 else None)
        if tensor.numel() and not torch.isfinite(torch.stack(tensor.aminmax())).all():
            raise self._error(f"{name} contains NaN or infinity")
        return tensor

    def _meets(self, outer: str, a: Tensor, inner: str, b: Tensor) -> None:
        if a.shape[1] != b.shape[0]:
            raise self._error(
                f"ranks differ: {self._name(outer)} has shape {list(a.shape)}, "
                f"{self._name(inner)} {list(b.shape)}; expected {b.shape[0]} columns in the first"
            )

    def _name(self, part: str) -> str:
        return self.parts.get(part, f"{self.module} ({part})")

    def _error(self, what: str) -> InkstoneError:
        return InkstoneError(
            f"{self.source.path}: {what}. The file is damaged or of an unknown writer: download it "
            "again, or save it again with its trainer."
        )


def _rows(delta: Delta | None, index: int, count: int) -> Delta | None:
    """The index-th of `count` equal parts of the output rows."""
    if isinstance(delta, LowRank):
        return replace(delta, up=delta.up.chunk(count)[index])
    if isinstance(delta, Hadamard):
        a1, a2 = (a.chunk(count)[index] for a in (delta.a1, delta.a2))
        return replace(delta, a1=a1, a2=a2)
    if isinstance(delta, Kron):
        first, *rest = delta.left
        return replace(delta, left=(first.chunk(count)[index], *rest))
    return Dense(delta.weight.chunk(count)[index]) if isinstance(delta, Dense) else None
