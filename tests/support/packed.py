"""Weight files with packed layers for tests of formats: written in safetensors' own layout, read
by our finders, compared with a direct restatement of the format.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from inkstone.errors import InkstoneError
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.formats.weight_reader import WeightReader
from inkstone.quant.registry import find_packed
from inkstone.quant.storage import PackedWeight, Storage

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def opened(folder: Path, tensors: dict[str, Tensor], metadata: dict | None = None) -> WeightReader:
    """A file of these tensors, open."""
    path = folder / "model.safetensors"
    save_safetensors(path, {k: v.contiguous() for k, v in tensors.items()}, metadata)
    return open_weights(path)


def packed_weights(
    folder: Path,
    tensors: dict[str, Tensor],
    metadata: dict | None = None,
    config: dict | None = None,
    prefix: str = "",
) -> dict[str, PackedWeight]:
    """The finders' weights of such a file; our names are the file's without the prefix."""
    source = opened(folder, {prefix + k: v for k, v in tensors.items()}, metadata)
    table = {name.removeprefix(prefix): name for name in source.entries}
    return find_packed(source, table, config)


def check(storage: Storage, want: Tensor, most: float = 0.0) -> None:
    """Every way to unpack gives `want` [N, K] float32, rounded to the requested type.

    most: largest error of float32 relative to its largest number, for references that add floats.
    """
    if most:
        whole = storage.dequantize()
        worst = ((whole - want).abs().amax() / want.abs().amax()).item()
        assert worst <= most, f"{storage.format}: off by {worst:g} of the largest"
        want = whole
    rows, row = storage.shape[0], storage.shape[0] // 2
    assert storage.shape == tuple(want.shape)
    for dtype in TYPES:
        whole = storage.dequantize(dtype)
        worst = (whole.double() - want.to(dtype).double()).abs().max().item()
        assert torch.equal(whole, want.to(dtype)), f"{storage.format} in {dtype}: off by {worst:g}"
    out = torch.full((rows - row, storage.shape[1]), torch.nan)
    assert torch.equal(storage.rows_into(row, out), want[row:]), "rows from the middle"
    index = torch.tensor([rows - 1, 0, row])
    assert torch.equal(storage.gather(index), want[index]), "gathered rows"


def refused(words: tuple[str, ...], call) -> str:
    """The sentence of the InkstoneError that `call` must raise, with these words in it."""
    with pytest.raises(InkstoneError) as caught:
        call()
    sentence = str(caught.value)
    assert all(word in sentence for word in words), f"{words} expected in: {sentence}"
    assert "model.safetensors" in sentence and sentence.endswith("."), sentence
    return sentence
