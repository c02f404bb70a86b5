"""Products in int8 against a plain float64 computation of the same rounding, in the layers, and in
a whole model."""

from __future__ import annotations

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inkstone.kernels import compute_type, int8
from inkstone.kernels.compute_type import int8_refusal
from inkstone.kernels.forward import ForwardSize
from inkstone.kernels.linear import Linear
from inkstone.kernels.triton.backend import random_weight
from inkstone.loaders.models import load
from inkstone.loaders.models.load import load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline.describe import describe_model
from inkstone.pipeline.memory_plan import PlanRequest
from inkstone.quant import int8_rows
from inkstone.quant.chunked_storage import hadamard
from inkstone.quant.int_quant import RowScaledStorage
from inkstone.quant.native import unpack
from inkstone.quant.storage import PlainStorage
from inkstone.sampling.request import Request
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import sigmas

from ..support.allocated import allocated

N, K, TOKENS = 300, 512, 201


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rounded(x):
    """Rows of float64 as they are after the rounding to codes: the definition. Ties are those of
    float32, as numbers of few bits have many."""
    peak = x.abs().amax(1, keepdim=True)
    codes = (x.float() * (torch.full_like(peak, 127).float() / peak.float())).round()
    return codes.clamp(-127, 127).double() * peak / 127


def weights(kind: str):
    """(a weight, its float64 value after rounding, the matrix that turns the input)"""
    if kind == "float32":
        w = torch.randn(N, K, generator=dice())
    elif kind == "bfloat16":
        w = torch.randn(N, K, generator=dice()).bfloat16()
    elif kind == "plain":
        w = PlainStorage(torch.randn(N, K, generator=dice()).half())
    elif kind == "Q4_K":
        w = random_weight("Q4_K", N, K)
    else:
        codes = torch.randint(-127, 128, (N, K), dtype=torch.int8, generator=dice())
        scale = torch.rand(N, 1, generator=dice()) + 0.1 if "rows" in kind else torch.tensor(0.02)
        group = 64 if "convrot" in kind else 0
        w = RowScaledStorage("int8", codes, scale, 8, group)
        turn = torch.eye(K, dtype=torch.float64)
        if group:
            one = hadamard(group, torch.device("cpu")).double() / math.sqrt(group)
            turn = torch.block_diag(*[one] * (K // group))
        return w, codes.double() * scale.double(), turn
    floats = w if isinstance(w, torch.Tensor) else w.dequantize()
    return w, rounded(floats.double()), torch.eye(K, dtype=torch.float64)


KINDS = ("float32", "bfloat16", "plain", "Q4_K", "int8", "int8 rows", "int8 rows convrot")


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways to round; without a compiler they are the same."""
    monkeypatch.setattr(unpack, "_wanted", True)
    if request.param == "torch":
        monkeypatch.setattr(int8_rows, "quantizes", lambda *_: False)
        monkeypatch.setattr(int8_rows, "dequantizes", lambda *_: False)


@pytest.mark.parametrize("gelu", [False, True], ids=["", "gelu"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_rounded_numbers(kind, gelu, way):
    weight, plain, turn = weights(kind)
    bias = torch.randn(N, generator=dice(2)) if kind != "plain" else None
    x = torch.randn(2, TOKENS, K, generator=dice(1)) * torch.rand(2, TOKENS, 1, generator=dice(3))
    x[1, 5] = 0
    (y,) = int8.int8_products((x,), weight, bias, gelu)
    true = torch.nan_to_num(rounded(x.view(-1, K).double() @ turn)) @ plain.t()
    true = true if bias is None else true + bias.double()
    true = F.gelu(true, approximate="tanh") if gelu else true
    error = ((y.view(-1, N) - true).abs().max() / true.abs().max()).item()
    assert error <= 2e-6, f"{error:.1e} relative"


@pytest.mark.parametrize("group", [0, 4, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_rounding_has_the_bits_of_torch(dtype, group, monkeypatch):
    monkeypatch.setattr(unpack, "_wanted", True)
    x = (torch.randn(40, 768, generator=dice()) * 9).to(dtype)[:, :512]
    x[3] = 0
    compiled = int8_rows.quantize(x, int8_rows.empty_rows(40, 512), group)
    if not int8_rows.quantizes(x, group):
        pytest.skip("no C compiler on this machine")
    monkeypatch.setattr(int8_rows, "quantizes", lambda *_: False)
    plain = int8_rows.quantize(x, int8_rows.empty_rows(40, 512), group)
    assert torch.equal(compiled.codes, plain.codes) and torch.equal(compiled.scales, plain.scales)


def test_a_turned_row_is_the_matrix_times_the_row():
    x = torch.randn(5, 512, generator=dice())
    true = (x.double().view(5, -1, 64) @ hadamard(64, x.device).double()).view(5, 512)
    error = ((int8_rows.rotate(x, 64) - true).abs().max() / true.abs().max()).item()
    assert error <= 1e-6, f"{error:.1e}"


@pytest.mark.parametrize("kind", ["bfloat16", "Q4_K", "int8 rows convrot"])
def test_pieces_batches_and_company_change_no_bit(kind, monkeypatch):
    weight, _, _ = weights(kind)
    xs = [torch.randn(3, TOKENS, K, generator=dice(n)).bfloat16() for n in range(2)]
    whole = int8.int8_products(xs, weight, None, False)
    monkeypatch.setattr(int8, "_ROWS", 64)
    monkeypatch.setattr(int8, "_CHUNK", 50)
    monkeypatch.setattr(int8, "_AT_ONCE", 7 * K)
    for x, y in zip(xs, whole):
        assert y.dtype == torch.bfloat16
        rows = [int8.int8_products((row[None],), weight, None, False)[0] for row in x]
        assert torch.equal(torch.cat(rows), y)


@pytest.mark.parametrize("way", ["compiled"], indirect=True)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(bad, way):
    x = torch.randn(1, TOKENS, K, generator=dice())
    x[0, 7, 3] = bad
    (y,) = int8.int8_products((x,), weights("float32")[0], None, False)
    assert not y[0, 7].isfinite().any() and y[0, 8:].isfinite().all()


def layer(width: int = K) -> Linear:
    made = Linear(width, N)
    nn.init.normal_(made.weight), nn.init.normal_(made.bias)
    return made.requires_grad_(False)


def test_few_tokens_and_gradients_are_in_floats():
    torch.manual_seed(0)
    own, plain = layer(), Linear(K, N).requires_grad_(False)
    plain.load_state_dict(own.state_dict())
    own.int8 = True
    few = torch.randn(1, int8.TOKENS - 1, K)
    many = torch.randn(1, int8.TOKENS, K)
    with torch.no_grad():
        assert torch.equal(own(few), plain(few)) and not torch.equal(own(many), plain(many))
        several = own.each([few, many, few])
        for x, y in zip((few, many, few), several):
            assert torch.equal(y, own(x))
        batch = torch.cat([few] * 4)
        assert torch.equal(own(batch), plain(batch)), "a batch equals singles"
    inputs = many.requires_grad_()
    assert torch.equal(own(inputs), plain(inputs))
    own(inputs).sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0


@torch.no_grad()
def test_lora_branches_read_and_add_floats():
    torch.manual_seed(0)
    own, x = layer(), torch.randn(1, int8.TOKENS, K)
    own.int8 = True
    before, seen = own(x), []

    def branch(inputs, y):
        seen.append(inputs)
        return y + 0.125

    own.branches = (branch,)
    assert torch.equal(own(x), before + 0.125) and seen[0] is x
    assert torch.equal(own.gelu(x), F.gelu(before + 0.125, approximate="tanh"))


@pytest.fixture
def willing(monkeypatch):
    """Any machine, as if int8 were faster there."""
    monkeypatch.setattr(load, "int8_refusal", lambda *_: "")


def drawn(model, text, steps=4):
    levels = sigmas(model.schedule, steps, 256)
    return denoise(model, text, None, Request(256, 256, levels, cfg=1.0))


def test_a_drawing_in_int8_is_near_that_in_floats(willing):
    plain, own = load_all(None), load_all(None, LoadOptions(int8=True))
    text = plain.text_encoder.encode("a red circle on a white background").states
    a, b = drawn(plain.model, text), drawn(own.model, text)
    error = ((a - b).norm() / a.norm()).item()
    assert 1e-4 < error < 0.05, f"{error:.4f} relative"


def test_only_matrices_of_the_blocks_and_it_is_said(willing, caplog):
    with caplog.at_level(logging.INFO):
        model = load_all(None, LoadOptions(int8=True)).model
    linears = {n: m for n, m in model.network.named_modules() if isinstance(m, Linear)}
    marked = {name for name, linear in linears.items() if linear.int8}
    assert marked == {name for name in linears if name.startswith("transformer_blocks.")}
    assert {"img_in", "txt_in", "proj_out"} <= linears.keys() - marked
    assert "products of its blocks in int8" in caplog.text
    assert "products of its blocks in int8" in describe_model(model, PlanRequest())


def test_a_machine_without_the_instructions_says_so(monkeypatch, caplog):
    speeds = {torch.float32: 0.01, torch.int8: 0.02}
    monkeypatch.setattr(compute_type, "_seconds", lambda dtype: speeds[dtype])
    int8_refusal.cache_clear()
    try:
        model = load_all(None, LoadOptions(int8=True)).model
    finally:
        int8_refusal.cache_clear()
    assert not model.network.int8
    assert (
        "dtype int8 is not used, all is computed in float32: int8 products measured only 0.50x"
        in (caplog.text)
    )
    assert "in int8" not in describe_model(model, PlanRequest())


def test_programs_at_work_do_not_decide(monkeypatch):
    """Most turns of int8 are held up: the best of each type counts, on one thread."""
    turns, before, threads = {torch.bfloat16: 0, torch.int8: 0}, torch.get_num_threads(), set()

    def seconds(dtype):
        turns[dtype] += 1
        threads.add(torch.get_num_threads())
        held = dtype == torch.int8 and turns[dtype] != 2
        return 0.05 if held else {torch.bfloat16: 0.02, torch.int8: 0.01}[dtype]

    monkeypatch.setattr(compute_type, "_seconds", seconds)
    assert compute_type._speed(torch.int8, torch.bfloat16) == 2
    assert threads == {1} and torch.get_num_threads() == before
    monkeypatch.setattr(compute_type, "_seconds", lambda dtype: 4.0 if dtype == torch.int8 else 1.0)
    assert compute_type._speed(torch.int8, torch.bfloat16) == 0.25


def test_other_devices_and_a_faulty_product_refuse(monkeypatch):
    assert int8_refusal("cuda", torch.bfloat16) == "int8 products are for CPUs, and this is cuda"
    try:
        for product, words in (
            (lambda *_, **__: torch.zeros(1, 1, dtype=torch.int32), "failed its check"),
            (_no_product, "has no int8 product for CPUs (RuntimeError)"),
        ):
            int8_refusal.cache_clear()
            monkeypatch.setattr(torch, "_int_mm", product)
            assert words in int8_refusal("cpu", torch.float32)
    finally:
        int8_refusal.cache_clear()


def _no_product(*_, **__):
    raise RuntimeError


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_counted(kind):
    weight, _, _ = weights(kind)
    x, before = torch.randn(1, 3000, K, generator=dice()), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            used = allocated(lambda: int8.int8_products((x,), weight, None, False))
            used -= 3000 * N * 4  # the result
            planned = int8.int8_bytes(x.numel(), K)
    finally:
        torch.set_num_threads(before)
    assert used <= 1.02 * planned, f"{used} bytes, planned {planned}"
    assert planned <= 1.25 * used, f"{used} bytes, planned {planned}"


def test_the_plan_of_a_network_counts_it(willing):
    plain, own = load_all(None).model, load_all(None, LoadOptions(int8=True)).model
    size, c = ForwardSize(4096, 50, 1, 1), own.network.config
    more = own.network.activation_bytes(size, torch.float32) - plain.network.activation_bytes(
        size, torch.float32
    )
    assert more == int8.int8_bytes(max(4146 * c.width, 1024 * c.ff), c.ff)
