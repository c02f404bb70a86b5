"""The Qwen-Image MMDiT: double-stream blocks with joint attention.

What is unusual: modulation is no part of the network (see `modulation.py`), and work that nobody
reads is not done: in the last block the text stream gives only keys and values, and its other
weights are not even loaded. Differences from the reference (diffusers
`QwenImageTransformer2DModel`): no padding mask unless one is passed, rows of a batch share one
grid, the timestep stays float32, and so do both streams between the blocks, whatever the type of
the weights: in bfloat16 that takes 2-3 % more time and leaves 0.4 of the error at 24 layers.

Module names are the published key names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaln import BlockRows, Row, gated_add, modulated_norm
from .block_streaming import Asking, BlockStream, Walk, ask, in_step
from .configs import QWEN_IMAGE, MMDiTConfig
from .forward import NO_HOOKS, ForwardHooks, ForwardSize, Inputs, PassContext, pass_context
from .int8 import int8_bytes
from .joint_attention import JointAttention
from .linear import UNPACKED, Linear
from .modulation import Modulation, table_bytes
from .norm import RMSWeight
from .recompute import BlockMemory

_SLABS = 8  # [tokens, D] alive at once in a block: stream, normed, q, k, v, one on its way, output
_WAITING = 4  # those of a walk in its attention while another one is at work: normed, q, k, v


def activation_bytes(config: MMDiTConfig, size: ForwardSize, dtype: torch.dtype) -> int:
    """Bytes that one forward needs in addition to weights."""
    each, tokens = dtype.itemsize, size.target + size.prefix
    streams = size.tokens * config.width * (_SLABS * each + 4)
    hidden = size.batch * min(tokens, MLP.ROWS) * (config.ff + config.width) * each
    return streams + hidden + UNPACKED * each


def waiting_bytes(config: MMDiTConfig, size: ForwardSize, dtype: torch.dtype) -> int:
    """Bytes that every further forward needs where several go through each layer together."""
    slab = size.tokens * config.width
    chunk = size.batch * min(size.target + size.prefix, MLP.ROWS)
    mlp = 2 * slab + chunk * (config.ff + config.width)  # normed and output of all, hidden of some
    return 4 * slab + max(_WAITING * slab, mlp) * dtype.itemsize


class _Up(nn.Module):
    """The first layer of an MLP; a GELU follows."""

    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        self.proj = Linear(d, ff)


class MLP(nn.Module):
    """net.2(GELU_tanh(net.0.proj(x))). Indices as in the published keys (1 is a dropout)."""

    ROWS = 1024  # tokens at a time without gradients: bounds the hidden activations

    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        down = Linear(ff, d)
        down.last = True
        self.net = nn.ModuleList([_Up(d, ff), nn.Identity(), down])

    def forward(self, x: Tensor) -> Walk:
        """A part of a walk: x [B,N,D] -> [B,N,D]."""
        up, _, down = self.net
        assert isinstance(up, _Up)
        whole = torch.is_grad_enabled() or x.shape[1] <= self.ROWS
        chunks = [x] if whole else list(x.split(self.ROWS, dim=1))
        del x
        parts = []
        while chunks:  # what is hidden has no name, so that it is freed at once
            more = ask(down, (yield from ask(up.proj, chunks.pop(0), gelu=True)))
            parts.append((yield from more))
        return parts[0] if whole else torch.cat(parts, dim=1)


class Block(nn.Module):
    """One double-stream block, a part of a walk. Without gradients the streams are changed in
    place."""

    def __init__(self, config: MMDiTConfig, last: bool) -> None:
        super().__init__()
        self.attn = JointAttention(config, last)
        self.img_mlp = MLP(config.width, config.ff)
        if not last:
            self.txt_mlp = MLP(config.width, config.ff)
        self.last = last

    def forward(
        self, img: Tensor, txt: Tensor, rows: BlockRows, queries: int, ctx: PassContext
    ) -> Asking[tuple[Tensor, Tensor]]:
        """img [B,S,D], txt [B,L,D] -> both streams (img cut to its first `queries` tokens)."""
        img_mod, txt_mod, dtype = rows.img, rows.txt, ctx.dtype

        # joint attention; normed streams have no name here, so that they are freed at once
        attended = yield from self.attn(
            modulated_norm(img, img_mod.shift1, img_mod.scale1, dtype),
            modulated_norm(txt, txt_mod.shift1, txt_mod.scale1, dtype),
            queries,
            ctx,
        )  # text first
        text = 0 if self.last else txt.shape[1]

        # project
        more = yield from ask(self.attn.to_out[0], attended[:, text:])
        img = gated_add(img[:, :queries], more, img_mod.gate1)
        if not self.last:
            more = yield from ask(self.attn.to_add_out, attended[:, :text])
            txt = gated_add(txt, more, txt_mod.gate1)
        del attended, more

        # feed-forward
        if not self.last:
            more = yield from self.txt_mlp(
                modulated_norm(txt, txt_mod.shift2, txt_mod.scale2, dtype)
            )
            txt = ctx.look("text", gated_add(txt, more, txt_mod.gate2))
        more = yield from self.img_mlp(modulated_norm(img, img_mod.shift2, img_mod.scale2, dtype))
        img = ctx.look("image", gated_add(img, more, img_mod.gate2))
        return img, txt


class TextEntry(Protocol):
    """The text embedding of the base model and of its control branches."""

    txt_norm: RMSWeight
    txt_in: Linear


def embed_text(network: TextEntry, txt: Tensor) -> Tensor:
    """Text states [B,L,J] -> the text stream [B,L,D] float32."""
    return network.txt_in(normed_text(network, txt)).float()


def normed_text(network: TextEntry, txt: Tensor) -> Tensor:
    """Text states [B,L,J], normed over J."""
    weight = network.txt_norm.scale().float()
    return F.rms_norm(txt.float(), txt.shape[-1:], weight, 1e-6).to(txt.dtype)


class MMDiT(nn.Module):
    """The network without its modulation; see `modulation()` for the rows that a forward needs.

    A forward is a generator (`walk`) that stops before each block and asks for its products, so
    that both halves of CFG can go through the blocks in step: each block is streamed and unpacked
    once for both, and since the halves share no batch, their numbers are bit-equal to those of
    single forwards.
    """

    def __init__(self, config: MMDiTConfig = QWEN_IMAGE) -> None:
        super().__init__()
        self.config = config
        self.img_in = Linear(config.channels, config.width)
        self.txt_norm, self.txt_in = RMSWeight(config.joint), Linear(config.joint, config.width)
        last = config.layers - 1
        self.transformer_blocks = nn.ModuleList(
            Block(config, i == last) for i in range(config.layers)
        )
        self.proj_out = Linear(config.width, config.channels)
        self.stream: BlockStream | None = None  # loads weights that are not resident
        self.int8 = False  # its blocks compute in int8, see compute_type.py

    keeps_prefix = False  # text and references change with every step

    def prefix_bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """0: see `keeps_prefix`."""
        return 0

    def activation_bytes(self, size: ForwardSize, dtype: torch.dtype) -> int:
        """Bytes that one forward needs in addition to weights, see `activation_bytes`."""
        c, tokens = self.config, size.target + size.prefix
        most = size.batch * max(tokens * c.width, min(tokens, MLP.ROWS) * c.ff)
        own = int8_bytes(most, c.ff) if self.int8 else 0
        return activation_bytes(c, size, dtype) + own

    def waiting_bytes(self, size: ForwardSize, dtype: torch.dtype) -> int:
        """Bytes that every further forward needs, see `waiting_bytes`."""
        return waiting_bytes(self.config, size, dtype)

    def training_bytes(
        self, size: ForwardSize, dtype: torch.dtype, first: int, kept: int = 0
    ) -> int:
        """Bytes that a step of training needs beside weights. first, kept: see `Recompute`."""
        memory = BlockMemory(self.config.width, self.config.ff, (4, 2), 2)
        inputs = max(0, self.config.layers - first)
        return memory.training_bytes(size.targets, size.prefixes, dtype, inputs, kept)

    def table_bytes(self, sigmas: int, dtype: torch.dtype) -> int:
        """Bytes of the modulation table for this many sigmas."""
        return table_bytes(self.config.layers, self.config.width, sigmas, dtype)

    def forward(self, inputs: Inputs, hooks: ForwardHooks = NO_HOOKS) -> Tensor:
        """Velocity (noise - data) [B,S,64] of the target tokens."""
        return in_step(self, [self.walk(inputs, hooks)])[0]

    def walk(self, inputs: Inputs, hooks: ForwardHooks = NO_HOOKS) -> Walk:
        """`forward` with a stop before each block that is computed."""
        references, mod = inputs.references.references, inputs.modulation
        assert isinstance(mod, Modulation), "this network has modulation in each block"
        images = inputs.img, inputs.txt, inputs.grids, inputs.mask, inputs.references.layers
        ctx = pass_context(self.config, *images, inputs.regions)
        img, txt = self.img_in(inputs.img).float(), embed_text(self, inputs.txt)
        if references is not None:
            img = torch.cat([img, references.embed(self.img_in).expand(len(img), -1, -1)], dim=1)
        first = mod.block(0, ctx.tokens).img
        img, final = hooks.before_blocks(
            img, lambda: modulated_norm(img, first.shift1, first.scale1, ctx.dtype)
        )
        for i, block in enumerate(self.transformer_blocks):
            if final:
                break
            hooks.on_block(i)
            yield None
            kept = not torch.is_grad_enabled()  # gradients would end at what is kept
            fixed = references is not None and references.fixed and i == 0 and kept
            block_ctx = replace(ctx, probe=hooks.probe_of(i), cached=references if fixed else None)
            queries = ctx.tokens if block.last else img.shape[1]
            part = partial(block, rows=mod.block(i, ctx.tokens), queries=queries, ctx=block_ctx)
            img, txt = yield from hooks.run_block(i, part, img, txt)
            img, final = hooks.after_block(i, self.config.layers, img)
        scale, shift = mod.out.unbind(1)
        out = modulated_norm(img[:, : ctx.tokens], Row(shift), Row(scale), ctx.dtype)
        return self.proj_out(out)
