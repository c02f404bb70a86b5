"""Products of comfy-kitchen: what a CPU can run of them (fp8, int8), operands of the rest against a
stand-in that multiplies its operands, and every reason not to use them.
"""

from __future__ import annotations

import json

import pytest
import torch

from inkstone.quant import comfy_kitchen as ours
from inkstone.quant.storage import PlainStorage

from ..support.oracle import measured
from ..support.packed import packed_weights

kitchen = pytest.importorskip("comfy_kitchen", reason="the package whose products these are")

from .test_formats_comfy import LAYER, encoded, weight, with_mark  # noqa: E402

ROWS = {"nvfp4": 150, "mxfp8": 150}  # padded ones


def storage_of(case: str, folder):
    tensors, plain, conf = encoded(case, weight(ROWS.get(case, 160)))
    if case in ROWS:
        tensors[LAYER + ".bias"] = torch.zeros(ROWS[case])
    packed = packed_weights(folder, with_mark(tensors, conf))[LAYER + ".weight"]
    return packed.load(), plain[: packed.shape[0]]


@pytest.fixture
def stand_in(monkeypatch):
    """nvfp4 and mxfp8 products by unpacking both sides: torch has none on a CPU."""

    def nvfp4(a, b, tensor_scale_a, tensor_scale_b, block_scale_a, block_scale_b, out_dtype):
        left = kitchen.dequantize_nvfp4(a, tensor_scale_a, block_scale_a, torch.float32)
        right = kitchen.dequantize_nvfp4(b, tensor_scale_b, block_scale_b, torch.float32)
        return (left @ right.t()).to(out_dtype)

    def mxfp8(a, b, block_scale_a, block_scale_b, out_dtype):
        left = kitchen.dequantize_mxfp8(a, block_scale_a, torch.float32)
        return (left @ kitchen.dequantize_mxfp8(b, block_scale_b, torch.float32).t()).to(out_dtype)

    monkeypatch.setattr(kitchen, "scaled_mm_nvfp4", nvfp4)
    monkeypatch.setattr(kitchen, "scaled_mm_mxfp8", mxfp8)


# case -> how far rounding the input may take a product
WORST = {
    "float8_e4m3fn": 0.04,
    "int8_tensorwise": 0.02,
    "int8_tensorwise rows": 0.02,
    "int8_tensorwise convrot": 0.02,
    "nvfp4": 0.13,
    "mxfp8": 0.04,
}


@pytest.mark.parametrize("case", WORST)
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_are_near_the_plain_ones(case, with_bias, tmp_path, stand_in):
    storage, plain = storage_of(case, tmp_path)
    torch.manual_seed(0)
    x = torch.randn(2, 9, 512, dtype=torch.bfloat16)
    bias = torch.randn(len(plain)).bfloat16() if with_bias else None
    want = torch.nn.functional.linear(x.float(), plain, None if bias is None else bias.float())
    got = ours.product_of(storage, kitchen)(x, bias)
    assert got.shape == want.shape and got.dtype == x.dtype
    error = measured(got.float(), want)
    assert error < WORST[case], f"{case}: {error:.3f}"
    zero = ours.product_of(storage, kitchen)(torch.zeros(3, 512, dtype=x.dtype), None)
    assert torch.equal(zero, torch.zeros_like(zero)), "an input of zeros"


def test_reasons_on_a_cpu(tmp_path):
    storage, _ = storage_of("int8_tensorwise", tmp_path)
    assert ours.matmul_of(storage) == (None, "cpu has no tensor cores")
    assert ours.matmul_of(PlainStorage(torch.ones(2, 2))) == (
        None,
        "float32 has no product of its own",
    )
    four, _ = storage_of("convrot_w4a4", tmp_path)
    assert ours.matmul_of(four) == (None, "convrot_w4a4 has no product of its own")
    e5m2, _ = storage_of("float8_e5m2", tmp_path)
    assert "no product" in ours.matmul_of(e5m2)[1]


@pytest.fixture
def card(monkeypatch):
    """A pretended card: (capability, CUDA version of torch)."""

    def pretend(capability: tuple[int, int], version: str) -> None:
        monkeypatch.setattr(ours.Storage, "device", property(lambda _: torch.device("cuda")))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setattr(torch.version, "hip", None)

    return pretend


CARDS = [
    ("int8_tensorwise", (7, 0), "12.8", "int8 needs compute capability 7.5"),
    ("int8_tensorwise", (7, 5), "12.8", "comfy-kitchen"),
    ("float8_e4m3fn", (8, 6), "13.0", "fp8 needs compute capability 8.9"),
    ("float8_e4m3fn", (8, 9), "12.8", "comfy-kitchen"),
    ("nvfp4", (9, 0), "13.0", "nvfp4 needs compute capability 10.0"),
    ("nvfp4", (12, 0), "12.8", "nvfp4 needs a build of torch for CUDA 13, this is for 12.8"),
    ("nvfp4", (10, 0), "13.0", "comfy-kitchen"),
    ("mxfp8", (12, 0), "13.1", "comfy-kitchen"),
]


@pytest.mark.parametrize("case, capability, version, reason", CARDS)
def test_cards(case, capability, version, reason, tmp_path, card):
    storage, _ = storage_of(case, tmp_path)
    card(capability, version)
    product, words = ours.matmul_of(storage)
    assert words == reason and (product is not None) == (words == "comfy-kitchen")


def test_without_the_package(tmp_path, card, monkeypatch):
    storage, _ = storage_of("int8_tensorwise", tmp_path)
    card((9, 0), "13.0")
    ours._kitchen.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "comfy_kitchen", None)
    assert ours.matmul_of(storage) == (None, "comfy-kitchen is not installed")
    ours._kitchen.cache_clear()


@pytest.mark.parametrize("nested", [False, True])
def test_files_may_ask_for_full_precision(nested, tmp_path, card):
    tensors, plain, conf = encoded("float8_e4m3fn", weight())
    flag = {"full_precision_matrix_mult": True}
    conf = conf | ({"params": flag} if nested else flag)
    storage = packed_weights(tmp_path, with_mark(tensors, conf))[LAYER + ".weight"].load()
    assert torch.equal(storage.rows_into(0, torch.empty(160, 512)), plain)
    card((9, 0), "13.0")
    assert ours.matmul_of(storage) == (None, "the file asks for products in full precision")


def test_old_markers_of_two_elements_ask_too(tmp_path):
    for count in (0, 2):
        tensors = {
            "a.weight": torch.ones(16, 16).to(torch.float8_e4m3fn),
            "a.scale_weight": torch.ones(()),
            "scaled_fp8": torch.zeros(count),
        }
        storage = packed_weights(tmp_path, tensors)["a.weight"].load()
        assert storage.full_precision == (count == 2)


def test_settings_that_are_no_flag_change_nothing(tmp_path):
    tensors, _, conf = encoded("float8_e4m3fn", weight())
    conf = json.loads(json.dumps(conf | {"full_precision_matrix_mult": False}))
    packed = packed_weights(tmp_path, with_mark(tensors, conf))[LAYER + ".weight"]
    assert not packed.load().full_precision
