"""Blocks for training: each keeps what enters it and nothing else, and is computed again when the
gradient arrives.

A walk asks for a whole block (`run_block`) as it asks for a product, so the blocks of all walks
that stand there run together: one reading where weights are streamed, forward and backward, one
unpacking of each weight. Blocks in front of the first that is trained need no gradient at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .block_streaming import Asking, Streamed, side_by_side
from .frozen import again

_KEPT = 3  # [tokens, width] in float32 that a block keeps, beside what enters it
_FULL, _TYPED = 5, 6  # [tokens, width] alive in a block's backward pass: float32, and typed

Streams = tuple[Tensor, ...]
Part = Callable[..., Asking[Streams]]  # (streams of one walk) -> the same behind the block


class Recompute:
    """How the blocks of one network run in training. first: the first one that is trained; keep:
    from this one on, all that a block's gradient needs is kept, so that it is not computed again.
    The numbers are the same, bit for bit. Blocks that are kept must not be streamed.
    """

    def __init__(self, network: Streamed, first: int, keep: int = sys.maxsize) -> None:
        self.network, self.first, self.keep = network, first, keep

    def run_block(self, index: int, part: Part, *streams: Tensor) -> Asking[Streams]:
        """part(*streams), as a part of a walk."""
        call = BlockCall(self, index, part, streams)
        del streams
        yield call
        return call.take()


class BlockCall:
    """A block that a walk asks for."""

    def __init__(self, run: Recompute, index: int, part: Part, streams: Streams) -> None:
        self.run, self.index, self.part = run, index, part
        self._streams = [streams]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for calls that are computed together."""
        return id(self.run.network), self.index

    def take(self) -> Streams:
        """The streams behind the block, which are not held here any longer."""
        return self._streams.pop()

    @staticmethod
    def compute(calls: Sequence[BlockCall]) -> None:
        """Answers calls of one block."""
        run, index = calls[0].run, calls[0].index
        work = _Work(run, index, [call.part for call in calls], len(calls[0]._streams[0]))
        streams = [stream for call in calls for stream in call.take()]
        if index < run.first:
            with torch.no_grad():
                results = work(streams)  # in place: nobody else has them
        else:  # the first block's inputs have no gradient, which must not stop its weights' own
            entering = [s if s.requires_grad else s.detach().requires_grad_() for s in streams]
            kept = index >= run.keep
            results = work(entering) if kept else list(_Recomputed.apply(work, *entering))
        for number, call in enumerate(calls):
            call._streams.append(tuple(results[number * work.each : (number + 1) * work.each]))


class _Work:
    """A block for several walks, `each` streams of every one."""

    def __init__(self, run: Recompute, index: int, parts: Sequence[Part], each: int) -> None:
        self.run, self.index, self.parts, self.each = run, index, parts, each

    def __call__(self, streams: Sequence[Tensor]) -> list[Tensor]:
        own = [streams[i : i + self.each] for i in range(0, len(streams), self.each)]
        results = side_by_side([part(*mine) for part, mine in zip(self.parts, own)])
        return [stream for result in results for stream in result]

    def again(self) -> None:
        """The block's weights are in place, in the order of a backward pass."""
        stream = self.run.network.stream
        if stream is not None:
            stream.enter(self.index, back=True)


class _Recomputed(torch.autograd.Function):
    """Streams -> streams. In the backward pass the block runs again, with gradients."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *streams: Tensor) -> tuple[Tensor, ...]:
        ctx.work = work
        ctx.save_for_backward(*streams)
        ctx.set_materialize_grads(False)
        with torch.enable_grad():  # not the kernels of inference, which round elsewhere
            left = work([stream.detach().requires_grad_() for stream in streams])
        return tuple(stream.detach() for stream in left)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        work: _Work = ctx.work
        work.again()
        entered = [stream.detach().requires_grad_() for stream in ctx.saved_tensors]
        with torch.enable_grad(), again():
            left = work(entered)
        pairs = [(y, grad) for y, grad in zip(left, grads) if grad is not None and y.requires_grad]
        del left, grads
        ys, dys = zip(*pairs)
        del pairs
        torch.autograd.backward(ys, dys)
        return None, *(stream.grad for stream in entered)


@dataclass(frozen=True)
class BlockMemory:
    """Bytes of one block, beside its weights and what enters it.

    hidden: numbers [.., ff] of a token of the target and of the prefix that are alive in its
    backward pass; kept: of each token that is kept for it. The rest is measured: streams in float32
    and others in `dtype`, per token.
    """

    width: int
    ff: int
    hidden: tuple[int, int]
    kept: int

    def training_bytes(
        self, target: int, prefix: int, dtype: torch.dtype, inputs: int, kept: int
    ) -> int:
        """Bytes of a step. target, prefix: tokens of all rows; inputs: blocks whose inputs are
        kept; kept: blocks that keep all that their gradients need, one of which is in its backward
        pass when they are most.
        """
        each, width, tokens = dtype.itemsize, self.width, target + prefix
        inner = self.ff * each * (self.hidden[0] * target + self.hidden[1] * prefix)
        block = inner + width * tokens * (_FULL * 4 + _TYPED * each) + self.ff * width * each
        typed = _TYPED + self.kept // 4
        whole = tokens * (self.ff * each * self.kept + width * (_KEPT * 4 + typed * each))
        return (inputs + 1) * tokens * width * 4 + block + max(0, kept - 1) * whole
