"""The language model of Qwen2.5-VL and of Qwen3-VL, which differ by flags of their config.

Standard: pre-norm blocks, grouped queries, rotate-half RoPE, SwiGLU. Unusual: every row may bring
the keys and values of the tokens before it (kv_cache.py), because every prompt of a template starts
alike, and because an answer is read back token by token. Rows of a batch may have caches of
different lengths: nothing is padded. Images are rows of the vision tower in place of their tokens,
with positions of their own (`picture_positions`); rows of deeper levels of the tower are added
there after the first layers (`DeepRows`). States are those after the final norm (Qwen2.5-VL) or
before it (Qwen3-VL, as Qwen-Image-2.1 was trained with). `OutputHead` turns states into scores of
the next token; encoding needs none. Reference: transformers `Qwen2_5_VLTextModel`,
`Qwen3VLTextModel`. Names are the published ones without `model.`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InkstoneError
from ..quant.storage import Storage
from .attention import attention
from .block_streaming import BlockStream
from .configs import QWEN_VL_TEXT, TextConfig
from .interrupt import beat
from .kv_cache import KeyValues
from .linear import Linear, packed_product, product
from .norm import RMSWeight


class RMSNorm(RMSWeight):
    """Normalise in float32, cast back, multiply by the weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale().to(self.weight.dtype)
        return weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B,H,L,d] with pairs (i, i + d/2)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


class SelfAttention(nn.Module):
    """Grouped-query attention; the config says whether q, k, v have biases, and q, k norms."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, self.head_dim = config.width, config.head_dim
        self.q_proj = Linear(width, config.heads * config.head_dim, bias=config.bias)
        self.k_proj = Linear(width, config.kv_heads * config.head_dim, bias=config.bias)
        self.v_proj = Linear(width, config.kv_heads * config.head_dim, bias=config.bias)
        self.o_proj = Linear(config.heads * config.head_dim, width, bias=False)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.eps)
            self.k_norm = RMSNorm(config.head_dim, config.eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, caches: Sequence[KeyValues], layer: int
    ) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        )  # [B,H,L,d]
        q, k = (rotate_half(x, cos, sin) for x in (self.q_norm(q), self.k_norm(k)))
        if not caches:
            o = attention(q, k, v, causal=True)
        else:  # row by row: their tokens so far differ in number
            rows = zip(caches, q.split(1), k.split(1), v.split(1), strict=True)
            o = torch.cat(
                [attention(q1, *c.extend(layer, k1, v1), causal=True) for c, q1, k1, v1 in rows]
            )
        return self.o_proj(o.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """down(SiLU(gate(x)) * up(x))."""

    def __init__(self, width: int, ff: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(width, ff, bias=bias)
        self.up_proj = Linear(width, ff, bias=bias)
        self.down_proj = Linear(ff, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.mlp = GatedMLP(config.width, config.ff)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, caches: Sequence[KeyValues], layer: int
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, caches, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedding(nn.Embedding):
    """A table of rows; it may stay packed (`storage`): then only the rows of `ids` are unpacked.

    On the meta device nothing is initialized: torch would import its compiler for that (1.1 s).
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self.register_module("storage", None)

    def hold(self, storage: Storage | None) -> None:
        """Replaces the weight by `storage`; None frees both."""
        self._parameters["weight"] = None
        self.storage = storage

    def forward(self, ids: Tensor) -> Tensor:
        if self.storage is None:
            return super().forward(ids)
        return self.storage.gather(ids.flatten()).unflatten(0, ids.shape)

    def scores(self, states: Tensor) -> Tensor:
        """states [...,W] times every row: the output head of a model whose head is tied to it."""
        if self.storage is None:
            return product(states.to(self.weight.dtype), self.weight)
        return packed_product(states, self.storage)

    def reset_parameters(self) -> None:
        if self.weight.device.type != "meta":
            super().reset_parameters()


@dataclass(frozen=True)
class DeepRows:
    """Rows of deeper levels of the vision tower: `levels[i]` [n,W] is added after layer i at the n
    tokens that `where` [B,L] marks."""

    where: Tensor
    levels: tuple[Tensor, ...]

    def add(self, x: Tensor, layer: int) -> Tensor:
        """x [B,L,W] after a layer, in place."""
        if layer < len(self.levels):
            x[self.where] += self.levels[layer].to(x)
        return x


class TextEncoder(nn.Module):
    """Token ids -> hidden states."""

    def __init__(self, config: TextConfig = QWEN_VL_TEXT) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.stream: BlockStream | None = None  # loads weights that are not resident

    def forward(
        self,
        ids: Tensor,
        caches: Sequence[KeyValues] = (),
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        deep: DeepRows | None = None,
        answering: bool = False,
    ) -> Tensor:
        """ids [B,L] -> states [B,L,W], after the final norm or before it as the config says.

        answering: through all layers. A small model may have layers that only answers need, behind
        those that the diffusion model's prompts are encoded with.

        caches: none, or one for each row; these tokens stand behind those that it holds, and are
        added to it. positions: [B,L]; None = they count up. With images: `embeds` [B,L,W] replaces
        the embeddings of `ids`, and positions [3,B,L] are the time, row and column of each token
        (see `picture_positions`). Causal: right padding never reaches the tokens before it.
        """
        x = self.embed(ids) if embeds is None else embeds
        if positions is None:
            starts = torch.tensor([c.length for c in caches] or [0])
            positions = starts[:, None] + torch.arange(ids.shape[1])  # [B,L] or [1,L]
        cos, sin = self.rope(positions, x)
        layers = self.config.layers if answering else self.config.encoding_layers
        for i, layer in enumerate(self.layers[:layers]):
            beat("text encoder, layer", i, layers)
            if self.stream is not None:
                self.stream.enter(i, layers)
            x = layer(x, cos, sin, caches, i)
            x = x if deep is None else deep.add(x, i)
        return self.norm(x) if self.config.final_norm else x

    def for_scores(self, states: Tensor) -> Tensor:
        """States [...,W] of a forward as the output head reads them: after the final norm."""
        return states if self.config.final_norm else self.norm(states)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B,L] -> [B,L,W] in the compute type."""
        return self.embed_tokens(ids).to(self.norm.weight.dtype)

    def rope(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """positions [B,L], or [3,B,L] where each frequency uses one of the three -> cos, sin
        [B,1,L,d]."""
        c = self.config
        f = 1.0 / c.theta ** (torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
        place = positions.to("cpu", torch.float32)[..., None]
        if positions.dim() == 3:
            place = place[list(c.axis_of), ..., 0].permute(1, 2, 0)  # [B,L,d/2]
        angle = place * f
        angle = torch.cat([angle, angle], dim=-1)[:, None]
        return angle.cos().to(like.device, like.dtype), angle.sin().to(like.device, like.dtype)


class OutputHead(nn.Module):
    """States -> scores of every token. A network of its own: encoding prompts needs none of it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.lm_head = Linear(config.width, config.vocab, bias=False)
        self.stream: BlockStream | None = None

    def forward(self, states: Tensor) -> Tensor:
        """states [...,W] -> [...,vocab]."""
        return self.lm_head(states)


def picture_positions(ids: Sequence[int], pad: int, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Positions [3,L] (time, row, column) of ids in which each image is a run of `pad`.

    grids: rows and columns of tokens, image by image. Text counts up on all three axes. An image
    that starts at p stands at time p, rows and columns count up from p, and the text behind it goes
    on at p + its longer side.
    """
    parts, at, now = [], 0, 0
    tokens = sum(rows * columns for rows, columns in grids)
    if ids.count(pad) != tokens:
        raise InkstoneError(
            f"The prompt has {ids.count(pad)} <|image_pad|> tokens: expected {tokens}, for "
            f"{len(grids)} pictures. Remove <|image_pad|> from the text of the prompt."
        )
    for rows, columns in grids:
        start = ids.index(pad, at)
        parts.append(torch.arange(now, now + start - at).expand(3, -1))
        now, at = now + start - at, start + rows * columns
        cell = torch.arange(rows * columns)
        parts.append(now + torch.stack([cell * 0, cell // columns, cell % columns]))
        now += max(rows, columns)
    parts.append(torch.arange(now, now + len(ids) - at).expand(3, -1))
    return torch.cat(parts, dim=1)
