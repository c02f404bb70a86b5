"""One door for linear layers.

Large products without gradients on an x86 CPU go to oneDNN: for float32 torch by itself calls MKL,
which does not use the full vectors of processors of other makers, and oneDNN applies the GELU while
a result is still in registers. Weights may stay packed as in their file: they are unpacked a chunk
at a time for every product, or for several inputs together, which share the unpacking and nothing
else. Every choice is returned with its reason.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InkstoneError
from ..quant.comfy_kitchen import matmul_of
from ..quant.storage import Storage
from .frozen import frozen_products, passes_gradients
from .int8 import int8_products, takes_int8
from .interrupt import beat
from .spread import Buffers, spread, threads

_LARGE = 1 << 20  # elements of a weight from which the choice of library matters
_LARGE_GELU = 1 << 16  # the same where a GELU follows (both measured on a Zen 4 core)


def onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """oneDNN's y = x W^T + b, then GELU (tanh form), where `cpu_backend` says that it works.

    Weights must be contiguous: with others it falls back to a kernel 1000 times slower.
    """
    name, algorithm = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


@functools.cache
def cpu_backend(dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """The library for large products of `dtype` on this CPU, "onednn" or "torch", and the reason.

    A rule and not a measurement, so that two runs on one machine give the same bits. It depends on
    the type: without AVX512 oneDNN has float32 products and refuses those in bfloat16.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "torch", f"{platform.machine()} is not x86"
    if not torch.backends.mkldnn.is_available():
        return "torch", "this torch has no oneDNN"
    x, w, b = (torch.ones(shape, dtype=dtype) for shape in ((2, 16), (4, 16), (4,)))
    try:
        with torch.no_grad():
            same = bool((onednn_linear(x, w, b) == 17).all())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return "torch", f"oneDNN's linear refuses {dtype} here ({type(error).__name__})"
    return ("onednn", "oneDNN, x86") if same else ("torch", "oneDNN's linear failed its check")


def _goes_to_onednn(x: Tensor, weight: Tensor, least: int) -> bool:
    return (
        weight.numel() >= least
        and x.device.type == "cpu" == weight.device.type
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and weight.is_contiguous()
        and not torch.is_grad_enabled()
        and cpu_backend(x.dtype)[0] == "onednn"
    )


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False, piece: bool = False
) -> Tensor:
    """x [...,K], weight [N,K], bias [N] -> x W^T + b [...,N], then GELU (tanh form) if `gelu`.

    piece: the weight is a piece of a large one, and goes to the library that the whole would."""
    least = 0 if piece else _LARGE_GELU if gelu else _LARGE
    if _goes_to_onednn(x, weight, least):
        return onednn_linear(x, weight, bias, gelu)
    # with a sliced x torch adds the bias in a second step: in half types a second rounding
    y = F.linear(x.contiguous(), weight, bias)
    return _gelu(y) if gelu else y


def _gelu(y: Tensor) -> Tensor:
    """GELU (tanh form), in place where no gradient needs y."""
    if torch.is_grad_enabled():
        return F.gelu(y, approximate="tanh")
    return torch.ops.aten.gelu_(y, approximate="tanh")


class Linear(nn.Linear):
    """y = x W^T + b, then the LoRA branches. Every linear layer of the networks is this class, so
    a storage format (`storage` in place of `weight`) and LoRAs (`branches`) have one place each.
    """

    branches: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()  # (x, y) -> y, in order
    few: Callable[[Tensor], Tensor] | None = None  # x W^T of few tokens, see few_tokens.py
    last = False  # of a block: its values reach nothing but the block's output
    int8 = False  # products of many tokens without gradients are computed in int8, see int8.py

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device)
        self.register_module("storage", None)

    def hold(self, storage: Storage | None) -> None:
        """Replaces the weight by `storage`; None frees both."""
        self._parameters["weight"] = None
        self.storage = storage

    def forward(self, x: Tensor) -> Tensor:
        return self.each((x,))[0]

    def gelu(self, x: Tensor) -> Tensor:
        """GELU_tanh(forward(x)), in one pass where there is no branch."""
        return self.each((x,), gelu=True)[0]

    def each(self, xs: Sequence[Tensor], gelu: bool = False) -> list[Tensor]:
        """forward(x), or with `gelu` gelu(x), of each x [...,K]. They have one device and one type,
        and any number of tokens; a packed weight is unpacked once for all of them. The bits are
        those of single calls: each x is multiplied by itself.
        """
        beat()
        frozen = passes_gradients(self, xs)
        fused = gelu and not self.branches and not frozen
        ys = frozen_products(self, self._plainly, xs) if frozen else self._products(xs, fused)
        for at, x in enumerate(xs if self.branches or frozen else ()):
            for branch in self.branches:
                ys[at] = branch(x, ys[at])
            if gelu:
                ys[at] = F.gelu(ys[at], approximate="tanh")
        return ys

    @property
    def ends_block(self) -> bool:
        """Nothing of its block reads its values, nor does a branch."""
        return self.last and not any(getattr(b, "reads_output", True) for b in self.branches)

    def _plainly(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """In floats, as the backward pass."""
        return self._in_floats(xs, gelu=False)

    def _products(self, xs: Sequence[Tensor], gelu: bool) -> list[Tensor]:
        if self.few is not None:
            return [self._few_or_many(x, self.few, gelu) for x in xs]
        if self.int8 and not torch.is_grad_enabled():
            return self._by_tokens(xs, gelu)
        return self._in_floats(xs, gelu)

    def _in_floats(self, xs: Sequence[Tensor], gelu: bool) -> list[Tensor]:
        if self.storage is None:
            return [product(x, self.weight, self.bias, gelu) for x in xs]
        return packed_products(xs, self.storage, self.bias, gelu)

    def _by_tokens(self, xs: Sequence[Tensor], gelu: bool) -> list[Tensor]:
        """Inputs of many tokens in int8, the others in floats."""
        many, few = [x for x in xs if takes_int8(x)], [x for x in xs if not takes_int8(x)]
        weight = self.weight if self.storage is None else self.storage
        ours = iter(int8_products(many, weight, self.bias, gelu) if many else ())
        theirs = iter(self._in_floats(few, gelu) if few else ())
        return [next(ours) if takes_int8(x) else next(theirs) for x in xs]

    def _few_or_many(self, x: Tensor, few: Callable[[Tensor], Tensor], gelu: bool) -> Tensor:
        if x.numel() > FEW * x.shape[-1]:
            if self.storage is None:
                return product(x, self.weight, self.bias, gelu)
            return packed_product(x, self.storage, self.bias, gelu)
        y = few(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        y = y if self.bias is None else y + self.bias
        return _gelu(y) if gelu else y

    def dequantize(self) -> Tensor:
        """The plain weight [out, in] in float32, whatever its storage."""
        return self.weight.float() if self.storage is None else self.storage.dequantize()


FEW = 8  # tokens up to which the second form is faster: measured equal to unpacked bf16 at 12
UNPACKED = 3 << 20  # weights unpacked at a time on a CPU: 12 MB in float32 stay in a cache
_MANY = 512  # tokens whose product outweighs unpacking by torch on one thread (measured at 1024)
_ROWS = 64  # rows of a weight that are worth a product of their own
_ROUNDS = 4  # pieces for each thread, so that one held up by another program takes fewer

_forced: ContextVar[str | None] = ContextVar("inkstone_packed_backend", default=None)
PACKED_BACKENDS = ("chunks", "whole", "triton", "kitchen")


@contextmanager
def force_packed(name: str | None) -> Iterator[None]:
    """Within the block packed weights are multiplied by this backend (tests, bug reports)."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def packed_backend(storage: Storage, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, reason) for products with a packed weight: one of PACKED_BACKENDS.

    Cheap, and called for every product; the loader logs the answer once per format.
    """
    forced = _forced.get()
    if forced is not None:
        return forced, "forced"
    if device.type == "cpu":
        return "chunks", f"unpacked to {dtype} in chunks that stay in the cache"
    return _on_device(storage, device, dtype)


def _on_device(storage: Storage, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    from .triton.backend import refusal  # imports no triton yet

    kitchen, reason = matmul_of(storage)
    if kitchen is not None:
        return "kitchen", reason
    why = refusal(storage, device, dtype)
    if why is None:
        return "triton", f"{storage.format} unpacked by Triton's kernels, read packed by few tokens"
    return "whole", f"unpacked to {dtype} layer by layer, then the library's product: {why}"


def packed_product(
    x: Tensor, storage: Storage, bias: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """x [...,K], a packed weight [N,K] -> x W^T + b [...,N], then GELU (tanh form) if `gelu`."""
    return packed_products((x,), storage, bias, gelu)[0]


def packed_products(
    xs: Sequence[Tensor], storage: Storage, bias: Tensor | None = None, gelu: bool = False
) -> list[Tensor]:
    """`packed_product` of each x, of one device and one type; the weight is unpacked once."""
    name, _ = packed_backend(storage, xs[0].device, xs[0].dtype)
    if name == "whole":
        return _by_whole(xs, storage, bias, gelu)
    if name == "chunks":
        return _in_chunks(xs, storage, bias, gelu)
    if name == "triton":
        return _by_triton(xs, storage, bias, gelu)
    kitchen, reason = matmul_of(storage) if name == "kitchen" else (None, "unknown name")
    if kitchen is not None:
        ys = [kitchen(x, bias) for x in xs]
        return [F.gelu(y, approximate="tanh") for y in ys] if gelu else ys
    raise InkstoneError(
        f"The backend {name!r} cannot multiply {storage.format} weights here ({reason}): expected "
        f"one of {', '.join(PACKED_BACKENDS)}, on a device that has it. Leave the choice open."
    )


def _by_whole(
    xs: Sequence[Tensor], storage: Storage, bias: Tensor | None, gelu: bool
) -> list[Tensor]:
    weight = storage.dequantize(xs[0].dtype)
    return [product(x, weight, bias, gelu) for x in xs]


def _by_triton(
    xs: Sequence[Tensor], storage: Storage, bias: Tensor | None, gelu: bool
) -> list[Tensor]:
    from .triton.backend import triton_products

    ys = triton_products(xs, storage, bias, must=_forced.get() is not None)
    if ys is None:  # a kernel failed, which triton_products has logged once
        return _by_whole(xs, storage, bias, gelu)
    return [_gelu(y) for y in ys] if gelu else ys


def _in_chunks(
    xs: Sequence[Tensor], storage: Storage, bias: Tensor | None, gelu: bool
) -> list[Tensor]:
    """Some rows of the weight at a time, unpacked, multiplied, written in place: pieces on all
    threads side by side, or one after the other where torch unpacks with all threads."""
    rows, width = storage.shape
    if rows * width < _LARGE:
        return _by_whole(xs, storage, bias, gelu)
    compiled = storage.compiled(xs[0].dtype)
    outs = [x.new_empty(*x.shape[:-1], rows) for x in xs]
    groups: dict[int, list[tuple[Tensor, Tensor]]] = {}  # of the same pieces, by their threads
    for x, out in zip(xs, outs):
        many = compiled or x.numel() // width >= _MANY
        groups.setdefault(threads() if many else 1, []).append((x, out))
    for workers, pairs in groups.items():
        _in_pieces(pairs, storage, bias, gelu, workers)
    return outs


def _in_pieces(
    pairs: Sequence[tuple[Tensor, Tensor]],
    storage: Storage,
    bias: Tensor | None,
    gelu: bool,
    workers: int,
) -> None:
    """Writes the products of pairs (x, out); each piece of the weight is unpacked once for all."""
    rows, width = storage.shape
    step = max(1, UNPACKED // width // workers)
    if workers > 1:
        step = max(_ROWS, min(step, math.ceil(rows / workers / _ROUNDS)))
    buffers = Buffers(lambda: pairs[0][0].new_empty(step, width))

    def multiply(index: int) -> None:
        part = slice(index * step, min((index + 1) * step, rows))
        with buffers.one() as buffer:
            weight = storage.rows_into(part.start, buffer[: part.stop - part.start])
            own = None if bias is None else bias[part]
            for x, out in pairs:
                out[..., part] = product(x, weight, own, gelu, piece=True)

    spread(multiply, math.ceil(rows / step), workers)
