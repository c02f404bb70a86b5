"""Parts `kernels` and `products`: the Triton kernels against torch, in numbers and in time.

`products` times one linear layer four ways: `fused` (weight unpacked inside the product), `unpack`
(one pass to 16 bits, then the library's product), `eager` (torch expressions over the whole matrix,
several passes, then the product: ComfyUI-GGUF's manner), `plain` (the library's product with a
weight that is 16 bits already). `chosen` is what kernels/triton/tiles.py takes; where another way
is faster on a card, its numbers are wrong for that card.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import common
from bench.gpu.report import Part
from bench.gpu.run import Run
from inkstone.kernels.triton import backend, tiles
from inkstone.quant.gguf_dequantizer import UNPACK
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import BY_NAME

# all types with a kernel, those that people use first
TYPES = (
    *("Q4_K", "Q6_K", "Q5_K", "Q8_0", "Q5_0", "Q5_1"),
    *("Q4_0", "Q4_1", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL"),
)
# relative error of a product; weights are rounded alike on both sides
MOST = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
TOKENS = (1, 300)  # the smallest and the largest tile
EVERY_TILE = (1, 16, 32, 77, 300)
# [out, in] of the network's layers
SHAPES = ((3072, 3072), (12288, 3072), (3072, 12288))
COUNTS = (1, 16, 100, 512, 4096)


def kernels(run: Run, part: Part) -> None:
    """Every type: the bits of its unpacking, the error of its products."""
    assert set(TYPES) == set(backend.TYPES)
    quiet = ("Q4_K", "Q4_0", "Q6_K") if run.quick or run.tiny else TYPES
    for name in run.each(quiet):
        with run.guarded(name):
            _one(run, part, name)
    if len(quiet) < len(TYPES):
        part.notes.append(f"{len(quiet)} of {len(TYPES)} types; all of them without --quick")


def _one(run: Run, part: Part, name: str) -> None:
    gemm, device = backend.kernels(), run.card.device
    rows, blocks = (69, 1) if run.tiny else (1030, 12)
    width = blocks * max(BY_NAME[name].block, 256)
    here = backend.random_weight(name, rows, width, seed=rows)
    storage = here.to(device)
    half = torch.float16 if run.tiny else torch.bfloat16  # the interpreter has no bfloat16
    whole = torch.float32 if run.tiny else half
    worst = max(_off(gemm.unpack_weight(storage, t), storage.dequantize(t)) for t in {half, whole})
    torch_off = _off(storage.dequantize().cpu(), here.dequantize())
    tiles_of = EVERY_TILE if name == TYPES[0] and not run.tiny else TOKENS[: 1 if run.tiny else 2]
    error, most = 0.0, MOST[whole]
    for tokens in tiles_of:
        x = _inputs(tokens, width).to(device, whole)
        want = x.double() @ storage.dequantize(whole).double().T
        error = max(error, run.card.relative(gemm.fused_product(x, storage), want))
    part.row(
        type=name,
        unpacked_off_by=part.check(f"{name}, weights off by", worst, 0.0),
        torch_on_card_off_by=part.check(f"{name}, torch's weights on the card", torch_off, 0.0),
        product_error=part.check(f"{name}, fused product", error, most),
        tokens=", ".join(map(str, tiles_of)),
        computed_in=str(whole).removeprefix("torch."),
    )


def _off(got: Tensor, want: Tensor) -> float:
    return (got.double() - want.double()).abs().max().item()


def _inputs(tokens: int, width: int) -> Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens))


# --- time


def eager(storage: GGUFStorage, dtype: torch.dtype) -> Tensor:
    """The plain weight by expressions over the whole matrix."""
    blocks = UNPACK[storage.format](storage.raw.view(-1, storage.kind.bytes))
    groups = blocks.codes.float().view(len(blocks.codes), blocks.scale.shape[1], -1)
    weight = groups * blocks.scale.unsqueeze(2)
    if blocks.minimum is not None:
        weight = weight + blocks.minimum.unsqueeze(2)
    return weight.to(dtype).view(storage.shape)


def sides(x: Tensor, storage: GGUFStorage) -> dict[str, Callable[[], Tensor]]:
    """The work of each side on x [M,K]."""
    gemm, plain = backend.kernels(), eager(storage, x.dtype)
    return {
        "fused": lambda: gemm.fused_product(x, storage),
        "unpack": lambda: F.linear(x, gemm.unpack_weight(storage, x.dtype)),
        "eager": lambda: F.linear(x, eager(storage, x.dtype)),
        "plain": lambda: F.linear(x, plain),
    }


def products(run: Run, part: Part) -> None:
    """Milliseconds of a layer, by type, shape and tokens."""
    names, shapes, counts = ("Q4_K", "Q6_K", "Q8_0"), SHAPES, COUNTS
    if run.quick:
        names, shapes = names[:1], shapes[:1]
    if run.tiny:
        names, shapes, counts = ("Q4_K",), ((64, 256),), (3,)
    for name in names:
        for shape in shapes:
            what = f"{name} {shape[0]}x{shape[1]}"
            for tokens in counts:
                if run.time_for(f"{what} at {tokens}"):
                    with run.guarded(what):
                        _timed(run, part, name, shape, tokens)
    part.notes.append("milliseconds, medians; each call begins with a cold second-level cache")


def _timed(run: Run, part: Part, name: str, shape: tuple[int, int], tokens: int) -> None:
    dtype = torch.float16 if run.tiny else torch.bfloat16
    storage = backend.random_weight(name, *shape).to(run.card.device)
    x = _inputs(tokens, shape[1]).to(run.card.device, dtype)
    work = sides(x, storage)
    want = work["plain"]()
    for side, call in work.items():
        error = run.card.relative(call(), want)
        part.check(f"{name} at {tokens} tokens, side {side}", error, backend.TOLERANCE[dtype])
    ms = {side: run.card.milliseconds(call, 10) for side, call in work.items()}
    chosen = tiles.choose(name, dtype, tokens, x.device)[0]
    part.row(
        layer=f"{name} {shape[0]}x{shape[1]}",
        tokens=tokens,
        **{side: f"{value:.3f}" for side, value in ms.items()},
        chosen=chosen,
        faster=min(tiles.HOWS, key=lambda side: ms[side]),
        ours_to_eager=common.ratio(ms[chosen], ms["eager"]),
        ours_to_plain=common.ratio(ms[chosen], ms["plain"]),
    )
