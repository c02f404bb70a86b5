"""bitsandbytes files, restated: nf4, fp4, nested maxima, int8; damage is refused."""

from __future__ import annotations

import json

import pytest
import torch

from ..support.packed import check, packed_weights, refused

X = "transformer_blocks.0.attn.to_k"
NF4 = torch.tensor(
    sorted(
        [
            -1.0,
            -0.6962,
            -0.5251,
            -0.3949,
            -0.2844,
            -0.1848,
            -0.0911,
            0.0,
            0.0796,
            0.1609,
            0.2461,
            0.3379,
            0.4407,
            0.5626,
            0.7230,
            1.0,
        ]
    )
)


def four_bit(rows: int, columns: int, kind: str = "nf4", nested: bool = False, **changes):
    """Tensors of a 4-bit layer and the plain weight, element by element."""
    g = torch.Generator().manual_seed(rows + columns)
    count = rows * columns
    codes = torch.randint(0, 16, (count,), generator=g)
    blocks = -(-count // 64)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
    t = {
        X + ".weight": (codes[0::2] << 4 | codes[1::2]).to(torch.uint8).view(-1, 1),
        X + ".weight.quant_map": NF4,
    }
    if nested:
        inner = torch.randint(0, 256, (blocks,), generator=g, dtype=torch.uint8)
        levels = torch.rand(256, generator=g) - 0.5
        outer = torch.rand(-(-blocks // 256), generator=g)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.03125}
        largest = levels[inner.long()] * outer.repeat_interleave(256)[:blocks] + 0.03125
        t |= {
            X + ".weight.absmax": inner,
            X + ".weight.nested_absmax": outer,
            X + ".weight.nested_quant_map": levels,
        }
    else:
        largest = torch.rand(blocks, generator=g)
        largest[0] = 0
        t[X + ".weight.absmax"] = largest
    text = json.dumps(state | changes).encode()
    t[f"{X}.weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
    plain = NF4[codes] * largest.repeat_interleave(64)[:count]
    return t, plain.view(rows, columns)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(96, 192), (300, 64), (7, 100), (5, 26), (400, 90)])
def test_four_bits(kind, nested, shape, tmp_path):
    tensors, plain = four_bit(*shape, kind, nested)
    one = packed_weights(tmp_path, tensors, prefix="transformer.")[X + ".weight"]
    storage = one.load()
    assert one.format == f"bitsandbytes {kind}" and set(one.parts) == set(tensors)
    assert one.nbytes == storage.nbytes and one.shape == shape
    check(storage, plain)


def int8() -> tuple[dict, torch.Tensor]:
    codes = torch.arange(-127, 128).repeat(4)[:1000].to(torch.int8).view(10, 100)
    largest = torch.linspace(0, 3, 10)
    tensors = {
        X + ".weight": codes,
        X + ".SCB": largest,
        X + ".weight_format": torch.zeros((), dtype=torch.uint8),
    }
    return tensors, codes.float() * largest[:, None] / 127


def test_int8(tmp_path):
    tensors, plain = int8()
    one = packed_weights(tmp_path, tensors)[X + ".weight"]
    storage = one.load()
    assert set(one.parts) == set(tensors) and one.nbytes == storage.nbytes
    check(storage, plain)


# --- damage


def _put(suffix, value):
    return lambda t: t.update({X + suffix: value})


def _drop(suffix):
    return lambda t: t.pop(X + suffix)


STATE = ".weight.quant_state.bitsandbytes__nf4"
FOUR = {
    "no state": (_drop(STATE), {}, ("is missing", "nf4")),
    "no maxima": (_drop(".weight.absmax"), {}, (".weight.absmax is missing",)),
    "no levels": (_drop(".weight.quant_map"), {}, (".weight.quant_map is missing",)),
    "no nested levels": (_drop(".weight.nested_quant_map"), {}, ("nested_quant_map is missing",)),
    "15 levels": (_put(".weight.quant_map", NF4[:15]), {}, ("[15], expected [16]",)),
    "NaN level": (_put(".weight.quant_map", NF4 * torch.nan), {}, ("quant_map has nan",)),
    "too few maxima": (
        _put(".weight.absmax", torch.zeros(3, dtype=torch.uint8)),
        {},
        ("[3], expected",),
    ),
    "infinite maximum": (
        _put(".weight.nested_absmax", torch.full((2,), torch.inf)),
        {},
        ("has inf",),
    ),
    "weight cut": (_put(".weight", torch.zeros(9, 1, dtype=torch.uint8)), {}, ("[9, 1]",)),
    "weight in floats": (_put(".weight", torch.zeros(9216, 1)), {}, ("float32", "uint8")),
    "shape of three": (lambda t: None, {"shape": [2, 2, 2]}, ("its shape is",)),
    "shape in words": (lambda t: None, {"shape": "big"}, ("its shape is big",)),
    "another shape": (lambda t: None, {"shape": [96, 190]}, ("[9216, 1], expected",)),
    "shape of 2^60": (lambda t: None, {"shape": [2**60, 2]}, ("its shape is",)),
    "another type": (lambda t: None, {"quant_type": "fp4"}, ("quant_type is 'fp4'",)),
    "block of 0": (lambda t: None, {"blocksize": 0}, ("blocksize is 0",)),
    "block in words": (lambda t: None, {"blocksize": "64"}, ("blocksize is '64'",)),
    "nested block": (lambda t: None, {"nested_blocksize": 128}, ("nested_blocksize is 128",)),
    "nested offset": (lambda t: None, {"nested_offset": "x"}, ("nested_offset is 'x'",)),
    "nested offset NaN": (lambda t: None, {"nested_offset": float("nan")}, ("nested_offset",)),
    "bad JSON": (_put(STATE, torch.tensor([1, 2], dtype=torch.uint8)), {}, ("JSON",)),
}


@pytest.mark.parametrize("name", FOUR)
def test_damage_is_refused(name, tmp_path):
    change, changes, words = FOUR[name]
    tensors, _ = (
        four_bit(300, 64, nested=True)
        if "infinite" in name
        else four_bit(96, 192, nested=True, **changes)
    )
    change(tensors)
    refused((*words, X), lambda: packed_weights(tmp_path, tensors)[X + ".weight"].load())


EIGHT = {
    "no weight": (_drop(".weight"), (".weight is missing",)),
    "no maxima": (_drop(".SCB"), ("holds int8 without a known format",)),
    "NaN": (_put(".SCB", torch.full((10,), torch.nan)), ("SCB has nan",)),
    "too many": (_put(".SCB", torch.ones(11)), ("[11], expected [10]",)),
    "tiles": (_put(".weight_format", torch.ones((), dtype=torch.uint8)), ("weight_format",)),
}


@pytest.mark.parametrize("name", EIGHT)
def test_damaged_int8_is_refused(name, tmp_path):
    change, words = EIGHT[name]
    tensors, _ = int8()
    change(tensors)
    refused((*words, X), lambda: packed_weights(tmp_path, tensors)[X + ".weight"].load())
