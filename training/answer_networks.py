"""The answering part of the embedded model as it is trained: layers on top of the text encoder's,
an output head, and a vision tower.

The layers that the diffusion model's condition is read from stay as they are, bit for bit. Several
questions about one picture share its tokens: a mask keeps them apart, so each equals the question
alone. Heads that only training has (`PictureHeads`) say what is in each cell of a picture and
where, which is learned much sooner than answers are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.configs import VisionConfig
from ..kernels.text_encoder import DecoderLayer, OutputHead, SelfAttention, TextEncoder, rotate_half
from ..kernels.vision import Groups, VisionAttention, VisionBlock, VisionTower, patch_geometry
from .networks import TEXT

ANSWERS = replace(TEXT, layers=6, condition_layers=TEXT.layers, sections=(0, 2, 14))
TOWER = VisionConfig(depth=4, width=64, heads=2, ff=144, out=TEXT.width, window=112, full=(1, 3))
MIDDLE = 4  # layers behind which the states know where they are
KINDS, COLOURS, BINS, SIDE, LONGEST = 42, 10, 40, 10, 6  # of the heads' classes


@dataclass(frozen=True)
class Tokens:
    """Token ids [B,L] of sequences and what each token sees: mask [B,1,L,L], positions [3,B,L]."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    pointers: Pointers | None = None


@dataclass(frozen=True)
class Pointers:
    """Tokens that should look at cells of a picture: sequence and place of each [n], and the tokens
    [n,L] that are those cells."""

    sequence: Tensor
    place: Tensor
    cells: Tensor


class PictureHeads(nn.Module):
    """What training asks the cells of a picture in addition to the answers."""

    def __init__(self) -> None:
        super().__init__()
        width = TEXT.width
        self.seen = nn.Linear(width, KINDS + 2 * COLOURS + 4)  # of the tower's rows
        self.placed = nn.Linear(width, 2 * SIDE + 4 * BINS)  # of the states in the middle
        self.letter = nn.Linear(width, LONGEST)  # of the same: the letter's number in its word


class AnswerModel(nn.Module):
    """Text encoder with answering layers, output head, tower, and the heads of training."""

    def __init__(self, text: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.text = TextEncoder(ANSWERS)
        self.head = OutputHead(ANSWERS)
        self.tower = VisionTower(TOWER)
        self.heads = PictureHeads()
        self.astray = torch.zeros(())  # of the last forward, see `_astray`
        own = dict(self.text.named_parameters())
        with torch.no_grad():
            nn.init.normal_(self.tower.patch_embed.proj.weight, std=0.03)
            for name, p in own.items():
                if name in text:
                    p.copy_(text[name])
                    p.requires_grad_(False)
                elif name.endswith(("o_proj.weight", "down_proj.weight")):
                    nn.init.normal_(p, std=0.02)

    def rows(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """patches [B,N,pixels] of pictures of one size, with gradients -> [B,cells,W]."""
        c = self.tower.config
        order, groups, angles = patch_geometry(c, grid[0] // c.merge, grid[1] // c.merge)
        x = patches.unflatten(1, (-1, c.merge**2))[:, order].flatten(1, 2)
        x = self.tower.patch_embed(x)  # [B,N,W]
        whole: Groups = ((1, x.shape[1]),)
        for i, block in enumerate(self.tower.blocks):
            assert isinstance(block, VisionBlock)
            x = x + _seen(block.attn, block.norm1(x), angles, whole if i in c.full else groups)
            x = x + block.mlp(block.norm2(x))
        merger = self.tower.merger
        joined = merger.ln_q(x).reshape(len(x), -1, merger.joined)
        rows: Tensor = merger.mlp(joined)
        return rows[:, order.argsort()]

    def states(
        self, tokens: Tokens, rows: Tensor | None = None, answers: bool = True
    ) -> tuple[Tensor, Tensor]:
        """States [B,L,W] in the middle, and behind the last norm; without answers only the former
        count. rows [B,cells,W] stand from the third token on.
        """
        x = self.text.embed(tokens.ids)
        if rows is not None:
            x = torch.cat([x[:, :2], rows, x[:, 2 + rows.shape[1] :]], 1)
        rope = self.text.rope(tokens.positions, x)
        middle = x
        self.astray = x.new_zeros(())
        for i, layer in enumerate(self.text.layers[: None if answers else MIDDLE + 1]):
            assert isinstance(layer, DecoderLayer)
            middle = x if i == MIDDLE else middle
            y = layer.input_layernorm(x)
            if i == MIDDLE and tokens.pointers is not None:
                self.astray = _astray(layer.self_attn, y, rope, tokens)
            x = x + _read(layer.self_attn, y, rope, tokens.mask)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return middle, self.text.norm(x)


def _seen(attn: VisionAttention, x: Tensor, angles: Tensor, groups: Groups) -> Tensor:
    """Attention of the tower [B,N,W] inside the windows of each picture."""
    cos, sin = (torch.cat([f, f], 1)[:, None] for f in (angles.cos(), angles.sin()))
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.heads, -1)).unbind(2)  # [B,N,H,d]
    q, k = rotate_half(q, cos, sin), rotate_half(k, cos, sin)
    parts, at = [], 0
    for windows, size in groups:
        part = slice(at, at + windows * size)
        batch = (
            t[:, part].unflatten(1, (windows, size)).flatten(0, 1).transpose(1, 2)
            for t in (q, k, v)
        )
        o = F.scaled_dot_product_attention(*batch).transpose(1, 2).flatten(2)
        parts.append(o.reshape(len(x), windows * size, -1))
        at = part.stop
    return attn.proj(torch.cat(parts, 1))


def _astray(attn: SelfAttention, x: Tensor, rope: tuple[Tensor, Tensor], tokens: Tokens) -> Tensor:
    """How much of the first head's attention misses the cells that it should look at: -log of the
    share that does not."""
    assert tokens.pointers is not None
    at, d = tokens.pointers, attn.head_dim
    q, k = (
        rotate_half(f(x)[..., :d][:, None], *rope)[:, 0] for f in (attn.q_proj, attn.k_proj)
    )  # [B,L,d] of the first head
    scores = torch.einsum("nd,nld->nl", q[at.sequence, at.place], k[at.sequence]) / math.sqrt(d)
    seen = tokens.mask[at.sequence, 0, at.place]
    scores = scores.masked_fill(~seen, -math.inf)
    aimed = scores.masked_fill(~at.cells, -math.inf)
    return (scores.logsumexp(-1) - aimed.logsumexp(-1)).mean()


def _read(attn: SelfAttention, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attention of the language model [B,L,W] under a mask."""
    q, k, v = (
        f(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
        for f in (attn.q_proj, attn.k_proj, attn.v_proj)
    )  # [B,H,L,d]
    q, k = rotate_half(q, *rope), rotate_half(k, *rope)
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.o_proj(o.transpose(1, 2).flatten(2))
