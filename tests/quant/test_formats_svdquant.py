"""nunchaku files: packed here index by index from the description of the layout, read back as plain
weights and biases; damage is refused.
"""

from __future__ import annotations

import pytest
import torch

from inkstone.quant.svdquant import MODULATION

from ..support.oracle import measured, relative
from ..support.packed import packed_weights, refused
from ..support.svdquant_encoder import (
    E2M1,
    nibbles,
    pack_codes,
    pack_low,
    pack_scale,
    pack_scale_fp4,
    pack_vector,
    place,
    put,
)

B = "transformer_blocks.7."
SINGLE = B + "attn.to_out.0"
N, K, R = 256, 384, 32


def layer(
    name: str, rows: int = N, four: bool = False, seed: int = 0, whole: str = ""
) -> tuple[dict, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors of one layer, its plain weight (float64), its stored bias, its 4-bit part."""
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (rows, K), generator=g)
    groups = K // (16 if four else 64)
    scale = torch.rand(rows, groups, generator=g) * 0.1 + 0.01
    scale = scale.to(torch.float8_e4m3fn if four else torch.bfloat16)
    smooth = (torch.rand(K, generator=g) + 0.5).bfloat16()
    up = torch.randn(rows, R, generator=g).bfloat16() * 0.1
    down = torch.randn(R, K, generator=g).bfloat16() * 0.1
    bias = torch.randn(rows, generator=g).bfloat16()
    t = {
        ".qweight": pack_codes(codes),
        ".wscales": (pack_scale_fp4 if four else pack_scale)(scale),
        ".smooth_factor": pack_vector(smooth),
        ".smooth_factor_orig": pack_vector(smooth),
        ".proj_up": pack_low(up, False),
        ".proj_down": pack_low(down, True),
        ".bias": pack_vector(bias),
    }
    levels = E2M1[codes] if four else torch.where(codes > 7, codes - 16, codes).float()
    w4 = levels.double() * scale.double().repeat_interleave(K // groups, 1)
    if whole == ".wtscale":
        t[whole] = torch.tensor(0.7)
        w4 *= t[whole].double()
    if whole == ".wcscales":
        rows_scale = (torch.rand(rows, generator=g) + 0.5).bfloat16()
        t[whole] = pack_vector(rows_scale)
        w4 *= rows_scale.double().view(-1, 1)
    w4 = w4 / smooth.double()
    plain = w4 + up.double() @ down.double()
    tensors = {name + k: v for k, v in t.items()}
    return tensors, plain, bias.float(), w4


CASES = {
    "int4": (False, ""),
    "fp4": (True, ".wtscale"),
    "fp4 by rows": (True, ".wcscales"),
    "fp4 alone": (True, ""),
}


def matches(storage, plain: torch.Tensor) -> None:
    """Float32 to its last bits (the branch is a product), halves to theirs."""
    error = measured(storage.dequantize(), plain)
    assert error < 3e-7, f"{storage.format}: off by {error:.1e}"
    assert relative(storage.dequantize(torch.bfloat16), plain) < 2.5e-3
    part = storage.rows_into(100, torch.empty(9, K))
    assert relative(part, plain[100:109]) < 3e-7
    index = torch.tensor([5, 127, 0])
    assert relative(storage.gather(index), plain[index]) < 3e-7


@pytest.mark.parametrize("case", CASES)
def test_single_layers(case, tmp_path):
    four, whole = CASES[case]
    tensors, plain, bias, _ = layer(SINGLE, four=four, whole=whole)
    one = packed_weights(tmp_path, tensors)[SINGLE + ".weight"]
    storage = one.load()
    assert one.format == storage.format == f"SVDQuant {'fp4' if four else 'int4'}"
    assert set(one.parts) == set(tensors) and one.nbytes == storage.nbytes
    matches(storage, plain)
    assert torch.equal(one.bias(), bias)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_the_whole(case, tmp_path):
    """Of a matrix that a file has for two layers (gate_up of Qwen-Image-2.1)."""
    four, whole = CASES[case]
    tensors, plain, *_ = layer(SINGLE, four=four, whole=whole)
    storage = packed_weights(tmp_path, tensors)[SINGLE + ".weight"].load()
    for start in (0, N // 2):
        half = storage.rows(start, start + N // 2)
        assert half.shape == (N // 2, K) and half.format == storage.format
        matches(half, plain[start : start + N // 2])
    inner = storage.rows(N // 4, N).rows(1, 9)
    error = relative(inner.dequantize(), plain[N // 4 + 1 : N // 4 + 9])
    assert error < 3e-7, f"rows of rows are off by {error:.1e}"


@pytest.mark.parametrize("case", CASES)
def test_fused_layers_are_three(case, tmp_path):
    four, whole = CASES[case]
    expected = {}
    tensors = {}
    for fused, names in (
        ("attn.to_qkv", ("to_q", "to_k", "to_v")),
        ("attn.add_qkv_proj", ("add_q_proj", "add_k_proj", "add_v_proj")),
    ):
        new, plain, bias, _ = layer(B + fused, 3 * N, four, len(fused), whole)
        tensors |= new
        for at, name in enumerate(names):
            rows = slice(at * N, at * N + N)
            expected[f"{B}attn.{name}.weight"] = plain[rows], bias[rows]
    packed = packed_weights(tmp_path, tensors, prefix="model.")
    assert set(packed) == set(expected)
    for name, (plain, bias) in expected.items():
        storage = packed[name].load()
        assert packed[name].shape == (N, K) and packed[name].nbytes == storage.nbytes
        matches(storage, plain)
        assert torch.equal(packed[name].bias(), bias)


@pytest.mark.parametrize("four", [False, True])
def test_the_shift_behind_the_gelu_is_in_the_bias(four, tmp_path):
    name = B + "txt_mlp.net.2"
    tensors, plain, bias, w4 = layer(name, four=four)
    one = packed_weights(tmp_path, tensors)[name + ".weight"]
    matches(one.load(), plain)
    want = bias.double() + (0 if four else 0.171875 * w4.sum(1))
    assert relative(one.bias(), want) < 1e-6


def modulation(name: str, dim: int = 64) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """Interleaved rows of 4 bits; the plain weight and bias with their parts one after another."""
    g = torch.Generator().manual_seed(dim)
    rows, columns = 6 * dim, 128
    codes = torch.randint(0, 16, (rows, columns), generator=g)
    scale, zero = (torch.randn(rows, columns // 64, generator=g).bfloat16() for _ in range(2))
    bias = torch.randn(rows, generator=g).bfloat16()
    n, k = torch.arange(rows).view(-1, 1), torch.arange(columns).view(1, -1)
    at = place(
        codes.shape,
        [
            (n // 4, rows // 4),
            (k // 64, columns // 64),
            (n % 4, 4),
            (k % 64 // 32, 2),
            (k % 8, 8),
            (k % 32 // 8, 4),
        ],
    )
    words = nibbles(put(codes, at)).view(torch.int32).view(rows // 4, columns // 2)
    tensors = {
        name + ".qweight": words,
        name + ".wscales": scale.t(),
        name + ".wzeros": zero.t(),
        name + ".bias": bias,
    }
    wide = (t.float().repeat_interleave(64, 1) for t in (scale, zero))
    plain = codes.float() * next(wide) + next(wide)
    order = torch.arange(rows).view(dim, 6).t().flatten()  # part by part
    plain_bias = bias.float()[order]
    plain_bias[dim : 2 * dim] -= 1
    plain_bias[4 * dim : 5 * dim] -= 1
    return tensors, plain[order], plain_bias


@pytest.mark.parametrize("name", MODULATION)
def test_modulation(name, tmp_path):
    name = B + name
    tensors, plain, bias = modulation(name)
    one = packed_weights(tmp_path, tensors)[name + ".weight"]
    storage = one.load()
    assert set(one.parts) == set(tensors) and one.nbytes == storage.nbytes
    assert torch.equal(storage.dequantize(), plain)
    assert torch.equal(storage.rows_into(100, torch.empty(77, 128)), plain[100:177])
    assert torch.equal(one.bias(), bias)


# --- damage


def _put(suffix, change):
    def run(t):
        t[SINGLE + suffix] = change(t[SINGLE + suffix])

    return run


def _drop(suffix):
    return lambda t: t.pop(SINGLE + suffix)


def _first(value):
    def change(t):
        t = t.clone()
        t.view(-1)[0] = value
        return t

    return change


DAMAGE = {
    "no scales": (_drop(".wscales"), ("wscales is missing",)),
    "no smooth": (_drop(".smooth_factor"), ("smooth_factor is missing",)),
    "no up": (_drop(".proj_up"), ("proj_up is missing",)),
    "no down": (_drop(".proj_down"), ("proj_down is missing",)),
    "scales cut": (_put(".wscales", lambda t: t[1:]), ("[5, 256], expected [6, 256]",)),
    "up of another rank": (_put(".proj_up", lambda t: t[:, 1:]), ("[256, 31], expected",)),
    "bias cut": (_put(".bias", lambda t: t[1:]), ("[255], expected [256]",)),
    "smooth cut": (_put(".smooth_factor", lambda t: t[1:]), ("[383], expected [384]",)),
    "rows": (_put(".qweight", lambda t: t[1:]), ("255 rows",)),
    "codes in floats": (_put(".qweight", lambda t: t.float()), ("holds float32",)),
    "NaN scale": (_put(".wscales", _first(torch.nan)), ("wscales has nan at element 0",)),
    "NaN up": (_put(".proj_up", _first(torch.nan)), ("proj_up has nan",)),
    "NaN down": (_put(".proj_down", _first(torch.inf)), ("proj_down has inf",)),
    "zero smooth": (_put(".smooth_factor", _first(0)), ("smooth_factor has a zero",)),
    "NaN bias": (_put(".bias", _first(torch.nan)), (".bias has NaN",)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name, tmp_path):
    change, words = DAMAGE[name]
    tensors = layer(SINGLE)[0]
    change(tensors)

    def run():
        one = packed_weights(tmp_path, tensors)[SINGLE + ".weight"]
        one.load()
        one.bias()

    refused((*words, SINGLE), run)


MOD = {
    "no minimums": (".wzeros", None, ("proj_down is missing",)),
    "minimums cut": (".wzeros", torch.zeros(1, 384).bfloat16(), ("[1, 384], expected [2, 384]",)),
    "NaN": (".wscales", torch.full((2, 384), torch.nan).bfloat16(), ("wscales has nan",)),
    "rows": (".qweight", torch.zeros(95, 64, dtype=torch.int32), ("380 rows",)),
}


@pytest.mark.parametrize("case", MOD)
def test_damaged_modulation_is_refused(case, tmp_path):
    suffix, value, words = MOD[case]
    name = B + "img_mod.1"
    tensors = modulation(name)[0]
    tensors.pop(name + suffix)
    if value is not None:
        tensors[name + suffix] = value
    if case == "no minimums":
        tensors[name + ".qweight"] = tensors[name + ".qweight"].view(torch.int8)
    refused((*words, name), lambda: packed_weights(tmp_path, tensors)[name + ".weight"].load())
