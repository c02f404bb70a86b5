"""The single-stream network of Qwen-Image-2.1: text, references and target in reading order.

Attention is causal by segments: a text token sees what stands before it, an image all of itself and
what stands before it, and the target, which comes last, sees everything. So text and references
(the prefix) never depend on the target or, with the modulation of t = 0, on the step: they are a
stream of their own here, whose keys and values may be kept (prefix_store.py). Both streams go
through the same weights in separate products, with a store or without, which is why their numbers
are bit-equal. No mask is built: a segment attends to a slice of the keys.

Other differences from the reference (diffusers `QwenImage21Transformer2DModel`): modulation is a
table (shared_modulation.py), the streams stay in float32 between the blocks, one text serves all
rows of a batch where it is the same for all, and in the last block nobody computes the prefix's
output. Module names are the published key names, the SwiGLU in its split spelling.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaln import Row, modulated_norm
from .block_streaming import BlockStream, Walk, in_step
from .configs import QWEN_IMAGE_21, SingleStreamConfig
from .forward import NO_HOOKS, ForwardHooks, ForwardSize, Inputs
from .int8 import int8_bytes
from .linear import Linear
from .norm import RMSWeight
from .recompute import BlockMemory
from .shared_modulation import SharedModulation, SharedRows, shared_table_bytes
from .single_block import SingleBlock, SwiGLU, own_bytes, stream_bytes
from .stream_context import StreamContext, stream_context


class TextProjection(nn.Module):
    """out_layer(GELU_tanh(in_layer(RMS(Y) * (1 + text_norm)))): the norm is stored minus one."""

    def __init__(self, joint: int, d: int) -> None:
        super().__init__()
        self.text_norm = RMSWeight(joint)
        self.in_layer, self.out_layer = Linear(joint, d, bias=False), Linear(d, d, bias=False)

    def forward(self, txt: Tensor) -> Tensor:
        """Text states [n,T,J] -> [n,T,D]."""
        weight = self.text_norm.scale().float() + 1
        normed = F.rms_norm(txt.float(), txt.shape[-1:], weight, 1e-6).to(txt.dtype)
        return self.out_layer(self.in_layer.gelu(normed))


class SingleStream(nn.Module):
    """The network without its modulation; see shared_modulation.py for the rows that it needs.

    As in the first family a forward is a generator (`walk`) that stops before each block and asks
    for its products.
    """

    def __init__(self, config: SingleStreamConfig = QWEN_IMAGE_21) -> None:
        super().__init__()
        self.config = config
        self.img_in = Linear(config.channels, config.width, bias=False)
        self.txt_in = TextProjection(config.joint, config.width)
        self.transformer_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.layers))
        self.proj_out = Linear(config.width, config.channels, bias=False)
        self.stream: BlockStream | None = None  # loads weights that are not resident
        self.int8 = False  # its blocks compute in int8, see compute_type.py

    def forward(self, inputs: Inputs, hooks: ForwardHooks = NO_HOOKS) -> Tensor:
        """Velocity (noise - data) [B,S,64] of the target tokens."""
        return in_step(self, [self.walk(inputs, hooks)])[0]

    def walk(self, inputs: Inputs, hooks: ForwardHooks = NO_HOOKS) -> Walk:
        """`forward` with a stop before each block that is computed."""
        mod, store = inputs.modulation, inputs.prefix
        assert isinstance(mod, SharedModulation), "this network has one modulation for all blocks"
        assert inputs.mask is None, "prompts are not padded into each other"
        rows, still = SharedRows.of(mod.target), SharedRows.of(mod.prefix)
        ctx = stream_context(self.config, inputs)
        kept = store if store is not None and store.filled else None
        prefix = inputs.txt if kept else self.prefix(inputs, ctx)
        x = self.img_in(inputs.img).float()
        x, final = hooks.before_blocks(x, lambda: modulated_norm(x, None, rows.scale1, ctx.dtype))
        for i, block in enumerate(self.transformer_blocks):
            if final:
                break
            hooks.on_block(i)
            yield None
            assert isinstance(block, SingleBlock)
            block_ctx = replace(ctx, probe=hooks.probe_of(i))
            if kept is not None:
                x = yield from block(x, kept.read(i, x.device), rows, block_ctx)
            else:
                assert prefix is not None
                last = i == self.config.layers - 1
                keep = None if store is None else partial(store.keep, i)
                part = partial(block.both, rows=(still, rows), ctx=block_ctx, last=last, keep=keep)
                prefix, x = yield from hooks.run_block(i, part, prefix, x)
                prefix = hooks.after_prefix(i, self.config.layers, prefix)
            x, final = hooks.after_block(i, self.config.layers, x)
        return self.proj_out(modulated_norm(x, None, Row(mod.out[:, 0]), ctx.dtype))

    def prefix(self, inputs: Inputs, ctx: StreamContext) -> Tensor:
        """Text and references in reading order [n,P,D] float32; n = 1 where all rows of the batch
        have the same."""
        txt = self.txt_in(_single(inputs.txt)).float()
        references = inputs.references.references
        if references is None:
            return txt
        images = references.embed(self.img_in)
        n = max(len(txt), len(images))
        rest = [txt.expand(n, -1, -1), images.expand(n, -1, -1)]  # text first, as `causal` is True
        parts = []
        for a, b, causal in ctx.segments:
            source = rest[not causal]
            parts.append(source[:, : b - a])
            rest[not causal] = source[:, b - a :]
        return torch.cat(parts, dim=1)

    def activation_bytes(self, size: ForwardSize, dtype: torch.dtype) -> int:
        """Bytes that one forward needs in addition to weights, see `stream_bytes`."""
        c, target, prefix = self.config, size.batch * size.target, size.rows * size.prefix
        chunk = max(size.batch * min(size.target, SwiGLU.ROWS), size.rows * SwiGLU.ROWS)
        own = int8_bytes(max(max(target, prefix) * c.width, chunk * c.ff), c.ff) if self.int8 else 0
        return stream_bytes(c, size, dtype) + own

    def waiting_bytes(self, size: ForwardSize, dtype: torch.dtype) -> int:
        """Bytes that every further forward needs where several go through each layer together."""
        return own_bytes(self.config, size, dtype, attending=False)

    keeps_prefix = True  # keys and values of text and references serve all steps

    def prefix_bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """Bytes that a store keeps of `tokens` tokens of text and references, for one prompt."""
        return 2 * self.config.layers * tokens * self.config.width * dtype.itemsize

    def training_bytes(
        self, size: ForwardSize, dtype: torch.dtype, first: int, kept: int = 0
    ) -> int:
        """Bytes that a step of training needs beside weights. first, kept: see `Recompute`."""
        memory = BlockMemory(self.config.width, self.config.ff, (6, 4), 4)
        inputs = max(0, self.config.layers - first)
        return memory.training_bytes(size.targets, size.prefixes, dtype, inputs, kept)

    def table_bytes(self, sigmas: int, dtype: torch.dtype) -> int:
        """Bytes of the modulation table for this many sigmas."""
        return shared_table_bytes(self.config.width, sigmas, dtype)


def _single(x: Tensor) -> Tensor:
    """One row of a batch whose rows are one expanded row."""
    return x[:1] if x.stride(0) == 0 else x
