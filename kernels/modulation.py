"""The modulation table: shift, scale and gate of every block, evaluated once per sigma.

`img_mod` / `txt_mod` hold a third of the model's parameters and depend on the timestep only. Here
they are no part of the network: their weights are read one at a time through a callable, applied to
all sigmas of a schedule at once, and freed. The table takes 4.4 MB per step (bf16, 60 blocks).
Training uses the same function with parameters as weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quant.storage import Storage
from .adaln import BlockRows, Rows
from .interrupt import beat
from .linear import packed_product
from .spread import spread, threads

Weights = Callable[[str], Tensor | Storage]  # key name -> tensor of any float type, or packed
Branches = Mapping[str, Callable[[Tensor, Tensor], Tensor]]  # layer -> LoRA branch in float32

_EMBED = "time_text_embed.timestep_embedder.linear_{}"
NONE: Branches = {}
_ROWS = 2048  # rows of a modulation weight cast at a time: bounds the temporary copy


@dataclass(frozen=True)
class Modulation:
    """Rows for n sigmas.

    img[i] [n,6,D] and txt[i] [n,6,D] (last block: [n,2,D]) hold shift1, scale1, gate1, shift2,
    scale2, gate2; out [n,2,D] holds scale, shift of the final norm (control branches have none:
    [n,0,D]); ref[i] [1,6,D] those of references where they have their own (zero_cond_t).
    """

    img: list[Tensor]
    txt: list[Tensor]
    out: Tensor
    ref: list[Tensor] | None = None

    def block(self, index: int, tokens: int) -> BlockRows:
        """The rows of one block, by name; tokens: those of the target image."""
        references = self.ref[index] if self.ref else None
        return BlockRows(Rows.of(self.img[index], references, tokens), Rows.of(self.txt[index]))

    def step(self, index: int) -> Modulation:
        """The rows of one sigma (n = 1)."""
        pick = slice(index, index + 1)
        img, txt = [m[pick] for m in self.img], [m[pick] for m in self.txt]
        return Modulation(img, txt, self.out[pick], self.ref)

    def rows(self, index: Tensor) -> Modulation:
        """The rows of several sigmas, one for each row of a batch."""
        img, txt = ([rows[index] for rows in part] for part in (self.img, self.txt))
        return Modulation(img, txt, self.out[index], self.ref)

    def with_references(self) -> Modulation:
        """The table whose last sigma is 0 with that row as the references'."""
        img, txt = [m[:-1] for m in self.img], [m[:-1] for m in self.txt]
        return Modulation(img, txt, self.out[:-1], [m[-1:] for m in self.img])


def plain(weights: Weights, name: str) -> Tensor:
    """A tensor in float32, packed or not."""
    value = weights(name)
    return value.dequantize() if isinstance(value, Storage) else value.float()


def timestep_embedding(sigma: Tensor, dim: int = 256, thousand_first: bool = False) -> Tensor:
    """sigma [n] in 0..1 -> [n,dim] float32: cos first, angle (sigma * f) * 1000 in that order, or
    `thousand_first` (1000 * sigma) * f: they differ by a rounding, which large angles show.

    The frequencies come from the CPU, so that every device gets the same angles.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device="cpu")
    f = torch.exp(-math.log(10000) * steps / half).to(sigma.device)
    sigma = sigma.float()[:, None]
    angle = (1000 * sigma) * f[None] if thousand_first else (sigma * f[None]) * 1000
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def embedded(weights: Weights, x: Tensor, branches: Branches = NONE, biased: bool = True) -> Tensor:
    """The sinusoids x [n,256] of timesteps -> [n,D] float32, by two layers with a SiLU between."""
    for i in (1, 2):
        name = _EMBED.format(i)
        x = x if i == 1 else F.silu(x)
        bias = plain(weights, f"{name}.bias") if biased else None
        y = F.linear(x, plain(weights, f"{name}.weight"), bias)
        x = branches[name](x, y) if name in branches else y
    return x


def time_embedding(
    weights: Weights, sigma: Tensor, addition: int | None = None, branches: Branches = NONE
) -> Tensor:
    """sigma [n] -> temb [n,D] float32. `addition`: a row of the layered variant's embedding."""
    x = embedded(weights, timestep_embedding(sigma), branches)
    if addition is not None:
        x = x + plain(weights, "time_text_embed.addition_t_embedding.weight")[addition]
    return x


def project(
    weights: Weights, key: str, x: Tensor, parts: int, branches: Branches, biased: bool = True
) -> Tensor:
    """x [n,D] float32 -> [n,parts,D] float32, by the first parts*D rows of a linear layer."""
    w = weights(f"{key}.weight")
    b = plain(weights, f"{key}.bias") if biased else None
    rows = used = parts * x.shape[-1]
    if key in branches:
        rows = w.shape[0]  # a branch has all rows of its layer
    if isinstance(w, Storage):
        y = packed_product(x, w, b)[..., :rows]
    elif w.requires_grad:
        y = F.linear(x, w[:rows].float(), None if b is None else b[:rows])
    else:
        y = _in_spans(x, w[:rows], b)
    if key in branches:
        y = branches[key](x, y)[..., :used]
    return y.unflatten(-1, (parts, -1))


def _in_spans(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x [n,D] float32, w [R,D] of any float type -> x w^T + b [n,R], some rows cast at a time."""
    y = x.new_empty(len(x), len(w))

    def span(index: int) -> None:
        part = slice(index * _ROWS, min((index + 1) * _ROWS, len(w)))
        y[:, part] = F.linear(x, w[part].float(), None if b is None else b[part])

    spread(span, math.ceil(len(w) / _ROWS), threads() if x.device.type == "cpu" else 1)
    return y


def modulation(
    weights: Weights,
    sigma: Tensor,
    layers: int,
    dtype: torch.dtype = torch.float32,
    addition: int | None = None,
    branches: Branches = NONE,
    final: bool = True,
) -> Modulation:
    """All modulation rows for sigma [n] (float32, on the device of the result).

    branches: LoRAs, by the names of their layers; final: the network ends in a modulated norm.
    """
    time = time_embedding(weights, sigma, addition, branches)
    return rows_of(weights, time, layers, dtype, branches, final)


def rows_of(
    weights: Weights,
    time: Tensor,
    layers: int,
    dtype: torch.dtype = torch.float32,
    branches: Branches = NONE,
    final: bool = True,
) -> Modulation:
    """All modulation rows for embedded timesteps [n,D] float32; options as in `modulation`."""
    act = F.silu(time)

    def rows(key: str, parts: int) -> Tensor:
        return project(weights, key, act, parts, branches).to(dtype)

    img, txt = [], []
    for i in range(layers):
        beat("modulation table, block", i, layers)
        block = f"transformer_blocks.{i}."
        img.append(rows(block + "img_mod.1", 6))
        # of the last block's text branch only keys and values are read: shift1 and scale1
        txt.append(rows(block + "txt_mod.1", 6 if i < layers - 1 else 2))
    out = rows("norm_out.linear", 2) if final else act.new_empty(len(act), 0, act.shape[1])
    return Modulation(img, txt, out)


def table_bytes(layers: int, width: int, sigmas: int, dtype: torch.dtype) -> int:
    """Bytes of the table for this many sigmas."""
    return sigmas * layers * 12 * width * dtype.itemsize


def modulation_keys(layers: int, addition: bool = False, final: bool = True) -> list[str]:
    """Key names that the table reads (and the resident network does not hold)."""
    heads = [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
    heads += ["norm_out.linear"] if final else []
    heads += [f"transformer_blocks.{i}.{s}_mod.1" for i in range(layers) for s in ("img", "txt")]
    keys = [f"{h}.{part}" for h in heads for part in ("weight", "bias")]
    return keys + (["time_text_embed.addition_t_embedding.weight"] if addition else [])
