"""Encoders of blocks: ggml's bytes where rounding alone decides, its errors where it searches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inkstone.quant import gguf_quantizer as encoder
from inkstone.quant.fp8 import fp8_scale, quantize_fp8
from inkstone.quant.gguf_dequantizer import dequantize
from inkstone.quant.gguf_quantizer import ENCODE, quantize_rows
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.scale_search import largest

gguf = pytest.importorskip("gguf")

ROUNDED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# Relative errors of ggml's own encoders: (Gaussian, Student t with 4 degrees).
ERRORS = {
    "Q8_0": (0.0054, 0.0074),
    "Q6_K": (0.0177, 0.0229),
    "Q5_K": (0.0361, 0.0439),
    "Q5_1": (0.0379, 0.0458),
    "Q5_0": (0.0427, 0.0580),
    "Q4_K": (0.0713, 0.0866),
    "Q4_1": (0.0782, 0.0940),
    "Q4_0": (0.0859, 0.1154),
    "Q3_K": (0.1509, 0.1828),
    "Q2_K": (0.2968, 0.3410),
}


def weights(kind: str, rows: int = 64, columns: int = 3072) -> np.ndarray:
    draw = np.random.default_rng(3)
    x = draw.standard_normal if kind == "gauss" else lambda shape: draw.standard_t(4, shape)
    return (x((rows, columns)) * 0.02).astype(np.float32)


def decoded(data: torch.Tensor, name: str) -> np.ndarray:
    """By the gguf package."""
    return gguf.dequantize(data.numpy(), getattr(gguf.GGMLQuantizationType, name))


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_types_are_the_packages_bytes(name):
    edge = np.zeros((4, 128), np.float32)
    edge[1], edge[2, ::2] = 1.5, -2.5
    edge[3, 5], edge[3, 6] = 0.125, -0.125  # both largest: the first decides
    edge[3, 64:] = np.arange(64) / 4 - 8
    for x in (weights("gauss"), weights("t4"), edge, weights("t4", 3, 160) * 1e-6):
        with np.errstate(all="ignore"):
            expected = gguf.quantize(x, getattr(gguf.GGMLQuantizationType, name))
        got = quantize_rows(torch.from_numpy(x), BY_NAME[name]).numpy()
        equal = (got == expected).mean()
        assert equal == 1, f"{name}: {equal:.4%} of the bytes are equal"


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("kind", ["gauss", "t4"])
def test_errors_are_those_of_ggml(name, kind):
    x = weights(kind)
    got = decoded(quantize_rows(torch.from_numpy(x), BY_NAME[name]), name)
    error = np.linalg.norm(got - x) / np.linalg.norm(x)
    expected = ERRORS[name][kind == "t4"]
    assert error < 1.02 * expected, f"{name}: relative error {error:.5f}, ggml has {expected}"


@pytest.mark.parametrize("name", ENCODE)
def test_our_decoder_gives_what_the_package_gives(name):
    data = quantize_rows(torch.from_numpy(weights("t4", 5, 768)), BY_NAME[name])
    assert np.array_equal(dequantize(data, BY_NAME[name]).numpy(), decoded(data, name))


@pytest.mark.parametrize("name", ENCODE)
def test_chunks_and_threads_change_no_byte(name, monkeypatch):
    x, importance = torch.from_numpy(weights("t4", 45, 768)), torch.rand(768) + 0.01
    before = torch.get_num_threads()
    for factors in (None, importance):
        whole = quantize_rows(x, BY_NAME[name], factors)
        try:
            for chunk, threads in ((1, 1), (768 * 9, 1), (768 * 45, 3)):
                monkeypatch.setattr(encoder, "CHUNK", chunk)
                torch.set_num_threads(threads)
                again = quantize_rows(x, BY_NAME[name], factors)
                assert torch.equal(again, whole), f"{name}, {chunk}, {threads} threads"
        finally:
            torch.set_num_threads(before)
        assert torch.equal(quantize_rows(x[7:19], BY_NAME[name], factors), whole[7:19])


@pytest.mark.parametrize("name", ENCODE)
@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 3e-8, 1e-30, 500.0])
def test_constant_and_tiny_rows(name, value):
    x = torch.full((2, 256), value)
    x[1, 3] = 0
    for importance in (None, torch.ones(256)):
        got = torch.from_numpy(decoded(quantize_rows(x, BY_NAME[name], importance), name))
        assert got.isfinite().all()
        limit = 0.17 * abs(value) + 1e-6
        assert (got - x).abs().max() <= limit, f"{name} {value}: {(got - x).abs().max()}"


# Where columns count differently, the error that counts falls by this at least (ggml: 11 to 25 %).
@pytest.mark.parametrize(
    "name, gain",
    [
        ("Q2_K", 0.2),
        ("Q3_K", 0.11),
        ("Q4_K", 0.1),
        ("Q5_K", 0.09),
        ("Q6_K", 0.09),
        ("Q4_0", 0.09),
        ("Q4_1", 0.15),
        ("Q5_0", 0.09),
        ("Q5_1", 0.15),
    ],
)
def test_importance_lowers_the_error_that_counts(name, gain):
    x = weights("gauss")
    importance = np.random.default_rng(5).chisquare(1, x.shape[1]).astype(np.float32) + 1e-4

    def error(factors: torch.Tensor | None) -> float:
        got = decoded(quantize_rows(torch.from_numpy(x), BY_NAME[name], factors), name)
        return float(np.linalg.norm((got - x) * np.sqrt(importance)))

    plain, weighted = error(None), error(torch.from_numpy(importance))
    assert weighted < (1 - gain) * plain, f"{name}: {1 - weighted / plain:.1%} less"


def test_half_types_are_read_as_they_are():
    x = torch.from_numpy(weights("gauss", 3, 512))
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(
            quantize_rows(x.to(dtype), BY_NAME["Q4_K"]),
            quantize_rows(x.to(dtype).float(), BY_NAME["Q4_K"]),
        )
    assert torch.equal(quantize_rows(x, BY_NAME["BF16"]).view(torch.bfloat16), x.bfloat16())


def test_largest_keeps_sign_and_takes_the_first():
    x = torch.tensor([[1.0, -3.0, 2.0, 0.0], [-3.0, 3.0, -2.0, 0.0], [3.0, 1.0, 1.0, -0.0]])
    assert largest(x).tolist() == [-3, -3, 2, 0]


def test_fp8_with_a_scale():
    x = torch.from_numpy(weights("t4", 16, 512))
    scale = fp8_scale(float(x.abs().max()))
    codes = quantize_fp8(x, scale).view(torch.float8_e4m3fn)
    assert codes.float().abs().max() == 448
    error = float((codes.float() * scale - x).norm() / x.norm())
    assert error < 1.02 * 0.0264, error
    assert fp8_scale(0.0) == 1.0 and not quantize_fp8(torch.zeros(2, 4), 1.0).any()
