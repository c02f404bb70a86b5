"""The Qwen-Image MMDiT: double-stream blocks with joint attention.

What is unusual: modulation is no part of the network (see `modulation.py`), and work that nobody
reads is not done: in the last block the text stream gives only keys and values, and its other
weights are not even held. Differences from the reference (diffusers
`QwenImageTransformer2DModel`): no padding mask unless one is passed, rows of a batch share one
grid, the timestep stays float32, and so do both streams between the blocks, whatever the type of
the weights: in bfloat16 that takes 2-3 % more time and leaves 0.4 of the error at 24 layers.

Module names are the published key names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaln import ImgRows, gated_add, modulated_norm, pieces
from .attention import attention
from .block_streaming import BlockStream, Walk, in_step
from .configs import QWEN_IMAGE, MMDiTConfig
from .linear import UNPACKED, Linear
from .modulation import Modulation
from .references import ReferenceContext, References
from .rope import Grid, joint_rope, rotate

Probe = Callable[[str, Tensor], None]  # ("block 3 attention", tensor)
# (block, blocks, image stream [B,S,D]) -> the stream with what a control adds to it there
After = Callable[[int, int, Tensor], Tensor]


_SLABS = 8  # [tokens, D] alive at once in a block: stream, normed, q, k, v, one on its way, output


def activation_bytes(config: MMDiTConfig, tokens: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes that one forward needs beside weights; tokens: image (references too) and text."""
    size = dtype.itemsize
    streams = tokens * config.width * (_SLABS * size + 4)
    hidden = min(tokens, MLP.ROWS) * (config.ff + config.width) * size
    return batch * (streams + hidden) + UNPACKED * size


@dataclass(frozen=True)
class Pass:
    """What all blocks of one forward share."""

    img_turns: Tensor  # [S,d/2] complex
    txt_turns: Tensor  # [L,d/2] complex
    mask: Tensor | None  # [B,1,1,L+S] boolean, True = may be seen
    probe: Probe | None
    dtype: torch.dtype  # of weights and products; both streams are float32
    tokens: int  # image tokens that are drawn; those behind them are references
    kept: References | None = None  # in the first block: its references' keys and values

    def look(self, name: str, x: Tensor) -> Tensor:
        """Shows a tensor to the probe, if there is one."""
        if self.probe is not None:
            self.probe(name, x)
        return x


class RMSWeight(nn.Module):
    """The weight of an RMS norm; applied by whoever holds it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


def _norm_rotate(x: Tensor, weight: Tensor, turns: Tensor) -> Tensor:
    y = F.rms_norm(x.float(), (x.shape[-1],), weight.float(), 1e-6)
    return rotate(y, turns).to(x.dtype)


def norm_rotate(x: Tensor, weight: Tensor, turns: Tensor, out: Tensor | None = None) -> Tensor:
    """RMS norm per head, then rotation, in float32. x [B,N,H,d] -> the same (into `out` if given).

    Without gradients in pieces of tokens that stay in the cache.
    """
    if out is None:
        return _norm_rotate(x, weight, turns)
    for part in pieces(x):
        out[:, part] = _norm_rotate(x[:, part], weight, turns[part])
    return out


class JointAttention(nn.Module):
    """The weights of joint attention. The last block holds no text query and no text output."""

    def __init__(self, config: MMDiTConfig, last: bool) -> None:
        super().__init__()
        d, self.head_dim = config.width, config.head_dim
        self.to_q, self.to_k, self.to_v = Linear(d, d), Linear(d, d), Linear(d, d)
        self.add_k_proj, self.add_v_proj = Linear(d, d), Linear(d, d)
        self.to_out = nn.ModuleList([Linear(d, d)])
        self.norm_q, self.norm_k = RMSWeight(config.head_dim), RMSWeight(config.head_dim)
        self.norm_added_k = RMSWeight(config.head_dim)
        if not last:
            self.add_q_proj, self.to_add_out = Linear(d, d), Linear(d, d)
            self.norm_added_q = RMSWeight(config.head_dim)
        self.last = last

    def heads(self, x: Tensor) -> Tensor:
        """[B,N,D] -> [B,N,H,d]."""
        return x.unflatten(-1, (-1, self.head_dim))

    def forward(self, img: Tensor, txt: Tensor, keep: int, at: Pass) -> Tensor:
        """Normed streams -> attention output [B, Lq + keep, D], text first (last block: Lq = 0).

        Only the first `keep` image tokens ask; all answer.
        """
        target = img[:, :keep]
        ask = (self.to_q(target), self.norm_q.weight, at.img_turns[:keep])
        if self.last:
            q = self._join(ask)
        else:
            q = self._join((self.add_q_proj(txt), self.norm_added_q.weight, at.txt_turns), ask)
        k, v = self._keys_values(img, txt, at)
        at.look("query", q), at.look("key", k), at.look("value", v)
        o = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), at.mask)
        del q, k, v
        return at.look("attention", o.transpose(1, 2).flatten(2))

    def _keys_values(self, img: Tensor, txt: Tensor, at: Pass) -> tuple[Tensor, Tensor]:
        """Of text and image [B,L+S,H,d]; those of references once per run where `at.kept` is."""
        if at.kept is not None:
            ref, img = img[:, at.tokens :], img[:, : at.tokens]
        k = self._join(
            (self.add_k_proj(txt), self.norm_added_k.weight, at.txt_turns),
            (self.to_k(img), self.norm_k.weight, at.img_turns[: img.shape[1]]),
        )
        v = self.heads(torch.cat([self.add_v_proj(txt), self.to_v(img)], dim=1))
        if at.kept is None:
            return k, v
        if at.kept.kv is None:
            turns = at.img_turns[at.tokens :]
            keys = self._join((self.to_k(ref), self.norm_k.weight, turns))
            at.kept.kv = keys, self.heads(self.to_v(ref))
        return torch.cat([k, at.kept.kv[0]], dim=1), torch.cat([v, at.kept.kv[1]], dim=1)

    def _join(self, *parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Each (projected [B,N,D], norm weight, turns): normed, rotated, one behind the other."""
        views = [(self.heads(x), weight, turns) for x, weight, turns in parts]
        if torch.is_grad_enabled():
            return torch.cat([norm_rotate(*view) for view in views], dim=1)
        b, _, h, d = views[0][0].shape
        out = views[0][0].new_empty(b, sum(x.shape[1] for x, _, _ in views), h, d)
        start = 0
        for x, weight, turns in views:
            norm_rotate(x, weight, turns, out[:, start : start + x.shape[1]])
            start += x.shape[1]
        return out


class _Proj(nn.Module):
    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        self.proj = Linear(d, ff)


class MLP(nn.Module):
    """net.2(GELU_tanh(net.0.proj(x))). Indices as in the published keys (1 is a dropout)."""

    ROWS = 1024  # tokens at a time without gradients: bounds the hidden activations

    def __init__(self, d: int, ff: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Proj(d, ff), nn.Identity(), Linear(ff, d)])

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.shape[1] <= self.ROWS:
            return self.net[2](self.net[0].proj.gelu(x))
        pieces = x.split(self.ROWS, dim=1)
        return torch.cat([self.net[2](self.net[0].proj.gelu(piece)) for piece in pieces], dim=1)


class Block(nn.Module):
    """One double-stream block. Without gradients the streams are changed in place."""

    def __init__(self, config: MMDiTConfig, last: bool) -> None:
        super().__init__()
        self.attn = JointAttention(config, last)
        self.img_mlp = MLP(config.width, config.ff)
        if not last:
            self.txt_mlp = MLP(config.width, config.ff)
        self.last = last

    def forward(
        self, img: Tensor, txt: Tensor, mods: tuple[ImgRows, Tensor], keep: int, at: Pass
    ) -> tuple[Tensor, Tensor]:
        """img [B,S,D], txt [B,L,D], mods (rows, [n,6,D]) -> both streams (img cut to `keep`)."""
        i, t = mods[0], mods[1].unbind(1)
        normed = i.norm(img, 0, at.dtype), modulated_norm(txt, t[0], t[1], at.dtype)
        o = self.attn(*normed, keep, at)
        del normed
        split = 0 if self.last else txt.shape[1]
        img = i.add(img[:, :keep], self.attn.to_out[0](o[:, split:]), 2)
        if not self.last:
            txt = gated_add(txt, self.attn.to_add_out(o[:, :split]), t[2])
            txt = gated_add(txt, self.txt_mlp(modulated_norm(txt, t[3], t[4], at.dtype)), t[5])
            at.look("text", txt)
        img = i.add(img, self.img_mlp(i.norm(img, 3, at.dtype)), 5)
        at.look("image", img)
        return img, txt


class TextEntry(Protocol):
    """What the base model and its control branches have for text."""

    txt_norm: RMSWeight
    txt_in: Linear


def embed_text(network: TextEntry, txt: Tensor) -> Tensor:
    """Text states [B,L,J] -> the text stream [B,L,D] float32."""
    return network.txt_in(normed_text(network, txt)).float()


def normed_text(network: TextEntry, txt: Tensor) -> Tensor:
    """Text states [B,L,J], normed over J."""
    weight = network.txt_norm.weight.float()
    return F.rms_norm(txt.float(), txt.shape[-1:], weight, 1e-6).to(txt.dtype)


def shared_pass(
    config: MMDiTConfig,
    img: Tensor,
    txt: Tensor,
    grids: Sequence[Grid],
    mask: Tensor | None = None,
    layers: int = 0,
) -> Pass:
    """What all blocks share, of img [B,S,64] and txt [B,L,J]; mask [B,L] True = real text token."""
    turns = joint_rope(grids, txt.shape[1], config.axes, config.theta, img.device, layers)
    if mask is not None:
        mask = F.pad(mask, (0, len(turns[0])), value=True)[:, None, None, :]
    return Pass(*turns, mask, None, img.dtype, img.shape[1])


class MMDiT(nn.Module):
    """The network without its modulation. See `modulation()` for the rows that forward needs."""

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
        self.stream: BlockStream | None = None  # brings in weights that are not resident

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        mod: Modulation,
        grids: Sequence[Grid],
        mask: Tensor | None = None,
        watch: ForwardHooks | None = None,
        beside: ReferenceContext | None = None,
    ) -> Tensor:
        """Velocity (noise - data) of the target tokens.

        img [B,S,64] packed latents of what is drawn; txt [B,L,J] text states; mod rows with n = 1
        or B; grids one (f,h,w) in tokens per picture: of those drawn, then of the references;
        mask [B,L] True = real text token; beside: reference pictures. Returns [B,S,64].
        """
        return self.together([self.walk(img, txt, mod, grids, mask, watch, beside)])[0]

    def together(self, walks: Sequence[Walk]) -> list[Tensor]:
        """Several passes (see `walk`) at once: streamed weights are read once for all of them."""
        return in_step(walks, len(self.transformer_blocks), self.stream)

    def walk(
        self,
        img: Tensor,
        txt: Tensor,
        mod: Modulation,
        grids: Sequence[Grid],
        mask: Tensor | None = None,
        watch: ForwardHooks | None = None,
        beside: ReferenceContext | None = None,
    ) -> Walk:
        """What `forward` computes, with a stop before each block."""
        watch, beside = watch or ForwardHooks(), beside or ReferenceContext()
        at = shared_pass(self.config, img, txt, grids, mask, beside.layers)
        x, y = self.img_in(img).float(), embed_text(self, txt)
        refs = beside.references
        if refs is not None:
            x = torch.cat([x, refs.embed(self.img_in).expand(len(x), -1, -1)], dim=1)
        for i, block in enumerate(self.transformer_blocks):
            watch.on_block(i)
            yield
            kept = refs if refs is not None and refs.fixed and i == 0 else None
            at_block = replace(at, probe=watch.probe_of(i), kept=kept)
            keep = at.tokens if block.last else x.shape[1]
            rows = ImgRows(mod.img[i], mod.ref[i] if mod.ref else None, at.tokens)
            x, y = block(x, y, (rows, mod.txt[i]), keep, at_block)
            x = watch.after_block(i, self.config.layers, x)
        scale, shift = mod.out.unbind(1)
        return self.proj_out(modulated_norm(x[:, : at.tokens], shift, scale, img.dtype))


class ForwardHooks:
    """Hooks of one forward: subclass or fill in what is wanted.

    on_block(i) may raise to stop between blocks; probe(i, name, tensor) sees intermediate results;
    after: what controls add to the image stream after each block.
    """

    def __init__(
        self,
        on_block: Callable[[int], None] | None = None,
        probe: Callable[[int, str, Tensor], None] | None = None,
        after: Sequence[After] = (),
    ) -> None:
        self._on_block, self._probe, self._after = on_block, probe, after

    def on_block(self, index: int) -> None:
        """Called before block `index`."""
        if self._on_block is not None:
            self._on_block(index)

    def probe_of(self, index: int) -> Probe | None:
        """The probe bound to one block."""
        probe = self._probe
        return None if probe is None else (lambda name, x: probe(index, name, x))

    def after_block(self, index: int, layers: int, x: Tensor) -> Tensor:
        """The image stream x [B,S,D] as the next block gets it."""
        for add in self._after:
            x = add(index, layers, x)
        return x
