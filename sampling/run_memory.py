"""Bytes that a run needs in addition to the weights: a plan counts them, a run asks for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from torch import Tensor

from ..kernels.forward import ForwardSize
from ..kernels.prefix_store import Place
from ..kernels.rope import Grid
from .control import acting, control_bytes
from .geometry import token_grid
from .region_run import region_bytes
from .request import Model, Request
from .step_cache import cache_bytes

_apart: ContextVar[bool] = ContextVar("inkstone_passes_apart", default=False)


def passes_of(model: Model, r: Request, texts: Mapping[str, Tensor]) -> int:
    """Forwards of a step: halves of CFG, times rows where each has a step cache of its own."""
    return len(texts) * (1 if model.step_cache is None else r.batch)


def passes_words(passes: int, together: bool) -> str:
    """Where weights are packed: how the forwards of a step use them."""
    if together:
        return f"the {passes} passes of a step go together: each weight is unpacked once for all"
    return f"the {passes} passes of a step go one by one for want of memory: each unpacks weights"


@contextmanager
def passes_apart() -> Iterator[None]:
    """Within the block the forwards of a step go one by one (tests, benchmarks)."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def together_bytes(model: Model, r: Request, texts: Mapping[str, Tensor]) -> int:
    """`working_bytes` where all forwards of a step go through each layer together; 0 where that
    gains nothing.
    """
    if _apart.get() or not model.packed or passes_of(model, r, texts) < 2:
        return 0
    return working_bytes(model, r, texts, together=True)


def working_bytes(
    model: Model, r: Request, texts: Mapping[str, Tensor], together: bool = False
) -> int:
    """Bytes that a run needs in addition to the weights: activations of one forward, or of all of a
    step together, the table, and what is kept of references between the steps.
    """
    network = model.network
    tokens = [math.prod(grid) for grid in grids_of(model, r)]
    references = sum(tokens[drawn(r) :])
    size = _forward_size(model, r, texts, references)
    if together and model.step_cache is not None:  # each row computes its text and references
        size = replace(size, rows=r.batch, stored=False)
    copies = max(map(len, r.appended), default=1)
    pair = 2 * model.dtype.itemsize * r.batch if model.apart else 0
    per_token = network.config.width * (4 * copies + pair)
    rows = len(r.sigmas) - 1 + model.apart
    samples, branches = control_bytes(r, size, references, len(texts))
    activations = network.activation_bytes(size, model.dtype)
    # CFG's other half: at work, or its streams where weights are streamed
    waiting = size.tokens * network.config.width * 4
    if together:
        waiting = network.waiting_bytes(size, model.dtype)
    waiting *= len(texts) - 1
    most = max(activations + waiting, branches)  # branches work first
    if model.step_cache is not None:
        most = activations + waiting + branches  # when block 0 is done
    return (
        most
        + _cache_bytes(model, r, tokens, len(texts))
        + samples
        + network.table_bytes(rows, model.dtype)
        + references * per_token
        + kept_on_device(model, r, texts)
        + region_bytes(model, r, size.tokens)
    )


def _forward_size(
    model: Model, r: Request, texts: Mapping[str, Tensor], references: int
) -> ForwardSize:
    """The size of one forward. references: tokens of the images that are appended."""
    words = 0 if r.regional is None else r.regional.tokens
    noisy = model.variety.noisy(0, len(r.sigmas) - 1)  # rows of their own, which no store serves
    shared = model.network.keeps_prefix and not noisy
    return ForwardSize(
        target=drawn(r) * math.prod(token_grid(r.width, r.height)),
        prefix=max(t.shape[1] for t in texts.values()) + references + words,
        batch=r.batch,
        rows=max(_prefix_rows(r, t) for t in texts.values()) if shared else r.batch,
        stored=not noisy and kept_on_device(model, r, texts) > 0,
    )


def _cache_bytes(model: Model, r: Request, tokens: Sequence[int], halves: int) -> int:
    """Bytes of the step caches. tokens: of each image."""
    if model.step_cache is None:
        return 0
    target, caches = sum(tokens[: drawn(r)]), halves * r.batch
    width, size = model.network.config.width, model.dtype.itemsize
    return cache_bytes(model.step_cache, target, width, size, caches)


def prefix_place(model: Model, r: Request, texts: Mapping[str, Tensor]) -> Place:
    """Where keys and values of text and references are kept over the steps. Controls change them
    with every step."""
    if not model.network.keeps_prefix or acting(r):
        return "off"
    return model.prefix_place(prefix_bytes(model, r, texts))


def prefix_bytes(model: Model, r: Request, texts: Mapping[str, Tensor]) -> int:
    """Bytes of the keys and values of text and references, of all halves of CFG."""
    pictures = sum(math.prod(model.latents.grid(z)) for z in r.appended)
    tokens = sum(_prefix_rows(r, text) * (pictures + text.shape[1]) for text in texts.values())
    return model.network.prefix_bytes(tokens, model.dtype)


def _prefix_rows(r: Request, text: Tensor) -> int:
    """Rows of text and references. Rows of a batch that are one expanded row are computed once."""
    most = max(map(len, r.appended), default=1)  # maps may be one for each image
    return max(most, len(text) if text.stride(0) else 1)


def kept_on_device(model: Model, r: Request, texts: Mapping[str, Tensor]) -> int:
    """Bytes of the keys and values that stay on the device when a run has ended."""
    place = prefix_place(model, r, texts)
    kept = place == "device" or (place == "host" and model.device.type == "cpu")
    return prefix_bytes(model, r, texts) if kept else 0


def drawn(r: Request) -> int:
    """Images that are drawn together: one, or the layers and, before them, their sum."""
    return 1 + r.layers


def grids_of(model: Model, r: Request) -> list[Grid]:
    """Tokens of the images that are drawn, then of the references."""
    target = [token_grid(r.width, r.height)] * drawn(r)
    return target + [model.latents.grid(z) for z in r.appended]
