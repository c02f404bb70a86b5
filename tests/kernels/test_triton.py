"""The GPU kernels of GGUF weights against torch's own unpacking and a product in float64.

On a machine with CUDA they are compiled and run on the card; elsewhere Triton's interpreter runs
them on the CPU (it has no bfloat16 products), and that they compile for cards is a test of its own.
"""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from inkstone.errors import InkstoneError
from inkstone.kernels import linear
from inkstone.kernels.triton import backend, tiles
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.storage import PlainStorage

# read when a kernel is defined, so it is set before `gemm` is imported
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
pytest.importorskip(
    "triton", reason="triton is not installed: NOTHING OF THE GPU KERNELS IS CHECKED"
)

from inkstone.kernels.triton import gemm  # noqa: E402
from inkstone.kernels.triton.unpackers import CUTS, EXACT, Cut  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cpu" if gemm.INTERPRETED else "cuda")
CPU = torch.device("cpu")
# relative error of the norm; the weights are rounded alike on both sides
MOST = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def sample(name: str, rows: int, blocks: int):
    return backend.random_weight(name, rows, blocks * BY_NAME[name].block, seed=rows).to(DEVICE)


def inputs(tokens: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    dice = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, width, generator=dice).to(DEVICE, dtype)


def close(got: torch.Tensor, x, storage, bias=None) -> None:
    """`got` is x W^T + b up to the order of float32 sums and the rounding of the result."""
    want = x.double() @ storage.dequantize(x.dtype).double().T
    want = want if bias is None else want + bias.double()
    assert got.shape == want.shape and got.dtype == x.dtype
    error = ((got.double() - want).norm() / want.norm()).item()
    what = f"{storage.format}, {x.dtype}, M {x[..., 0].numel()}, N {storage.shape[0]}"
    assert error < MOST[x.dtype], f"{what}: relative error {error:.2e}"


@pytest.fixture
def fresh(monkeypatch):
    """No kernel has failed yet, nothing was tried."""
    monkeypatch.setattr(backend, "_given_up", [])
    backend._trial.cache_clear()
    yield
    backend._trial.cache_clear()


def test_the_types_are_those_of_the_kernels():
    assert set(backend.TYPES) == set(CUTS)
    assert all(BY_NAME[name].block in (32, 256) for name in CUTS)
    assert all(256 % cut.step == 0 for cut in CUTS.values())


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("rows, dtype", [(69, torch.float32), (5, torch.float16)])
def test_unpacked_bits(name, rows, dtype):
    """Odd rows, also beyond one program; for blocks of 32 an odd number of them."""
    storage = sample(name, rows, 3 if BY_NAME[name].block == 32 else 1)
    got, want = gemm.unpack_weight(storage, dtype), storage.dequantize(dtype)
    worst = (got.double() - want.double()).abs().max().item()
    assert torch.equal(got, want), f"{name} in {dtype}: off by up to {worst:g}"


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize(
    "tokens, rows, blocks, dtype", [(1, 69, (3, 1), torch.float32), (5, 37, (4, 2), torch.float16)]
)
def test_fused_product(name, tokens, rows, blocks, dtype):
    storage = sample(name, rows, blocks[BY_NAME[name].block == 256])
    x = inputs(tokens, storage.shape[1], dtype)
    bias = inputs(rows, 1, dtype)[:, 0] if tokens > 1 else None
    close(gemm.fused_product(x, storage, bias), x, storage, bias)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
@pytest.mark.parametrize("tokens", [17, 33, 131])
def test_every_tile(name, tokens):
    storage = sample(name, 67, 1)
    x = inputs(tokens, storage.shape[1], torch.float32)
    close(gemm.fused_product(x, storage), x, storage)


@pytest.mark.skipif(gemm.INTERPRETED, reason="NOT RUN ON A GPU: there is no CUDA here")
def test_on_a_card():
    """Every type in every tile, in the types that networks compute in."""
    for name, dtype in itertools.product(CUTS, (torch.bfloat16, torch.float16)):
        storage = sample(name, 1030, 96 if BY_NAME[name].block == 32 else 12)
        assert torch.equal(gemm.unpack_weight(storage, dtype), storage.dequantize(dtype)), name
        for tokens in (1, 16, 32, 77, 300):
            x = inputs(tokens, storage.shape[1], dtype)
            close(gemm.fused_product(x, storage), x, storage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_parts_of_k_are_summed_in_order(dtype, monkeypatch):
    """Two parts of 9 and 8 steps, with a bias, the same bits again."""
    storage = sample("Q8_0", 20, 33)
    monkeypatch.setattr(gemm, "_processors", lambda device: 1)
    assert tiles.splits(1, 17, 1) == 2
    x, bias = inputs(3, storage.shape[1], dtype), inputs(20, 1, dtype)[:, 0]
    got = gemm.fused_product(x, storage, bias)
    close(got, x, storage, bias)
    assert torch.equal(got, gemm.fused_product(x, storage, bias))


def test_inputs_of_any_form():
    """Three dimensions, rows apart, columns apart, none at all."""
    storage = sample("Q4_0", 9, 2)
    wide = inputs(6, 128, torch.float32)
    for x in (wide[:, :64].unflatten(0, (2, 3)), wide[:, 64:], wide[:, ::2], wide[:0, :64]):
        got = gemm.fused_product(x, storage)
        assert got.shape == (*x.shape[:-1], 9)
        if x.numel():
            close(got, x, storage)


def test_splits():
    assert tiles.splits(1, 48, 132) == 4  # parts of 12 steps; of 6 they would be too short
    assert tiles.splits(1, 1000, 132) == tiles.MOST_SPLITS
    assert tiles.splits(300, 1000, 132) == 1 and tiles.splits(1, 4, 132) == 1


def test_the_way_has_a_reason():
    how, reason = tiles.choose("Q4_K", torch.bfloat16, tiles.UNPACK_FROM - 1, CPU)
    assert how == "fused" and "Q4_K" in reason and str(tiles.UNPACK_FROM) in reason
    how, reason = tiles.choose("Q4_K", torch.bfloat16, tiles.UNPACK_FROM, CPU)
    assert how == "unpack" and "library" in reason
    assert tiles.choose("Q4_K", torch.float32, 1, CPU)[0] == "unpack"
    assert tiles.choose("Q4_K", torch.float16, 1, CPU, gradient=True)[0] == "unpack"
    with tiles.force("fused"):
        assert tiles.choose("Q4_K", torch.float32, 9999, CPU) == ("fused", "forced")


def test_old_cards_unpack_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    device = torch.device("cuda", 7)
    how, reason = tiles.choose("Q4_K", torch.float16, 1, device)
    assert how == "unpack" and "8.0" in reason


# --- the door


@pytest.mark.parametrize("how", tiles.HOWS)
def test_the_door_goes_there_when_forced(how):
    layer = linear.Linear(64, 9, device=DEVICE)
    layer.hold(sample("Q5_1", 9, 2))
    x = inputs(3, 64, torch.float32)
    with linear.force_packed("triton"), tiles.force(how), torch.no_grad():
        close(layer(x), x, layer.storage, layer.bias)
        want = F.gelu(layer(x), approximate="tanh")
        assert torch.equal(layer.gelu(x), want)


@pytest.mark.parametrize(
    "how, tokens, unpackings",
    [("unpack", (3, 5, 2), (3, 1)), ("fused", (3, 5), (0, 0)), (None, (90, 2, 80), (2, 1))],
)
def test_several_inputs_share_the_unpacked_weight(monkeypatch, how, tokens, unpackings):
    """The bits of single products. Few tokens read the packed weight, where the choice is open."""
    monkeypatch.setattr(tiles, "UNPACK_FROM", 60)
    layer, calls, unpack = linear.Linear(64, 9, device=DEVICE).half(), [], gemm.unpack_weight
    layer.hold(sample("Q5_1", 9, 2))
    xs = [inputs(n, 64, torch.float16) for n in tokens]

    def count(*args):
        calls.append(args)
        return unpack(*args)

    monkeypatch.setattr(gemm, "unpack_weight", count)
    with linear.force_packed("triton"), tiles.force(how), torch.no_grad():
        alone = [layer.gelu(x) for x in xs]
        single = len(calls)
        together = layer.each(xs, gelu=True)
    assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))
    assert (single, len(calls) - single) == unpackings


def test_gradients_go_through():
    storage, x = sample("Q4_1", 9, 2), inputs(3, 64, torch.float32).requires_grad_()
    with linear.force_packed("triton"):
        linear.packed_product(x, storage).sum().backward()
    want = storage.dequantize().sum(0).expand(3, 64)
    worst = (x.grad - want).abs().max().item()
    assert worst < 1e-5, f"gradient off by {worst:.1e}"


def test_without_a_card_there_is_a_reason(fresh):
    if DEVICE == CPU:
        assert "CUDA" in backend.refusal(sample("Q4_K", 4, 1), CPU, torch.float16)
    plain = PlainStorage(torch.zeros(2, 2, dtype=torch.float16))
    assert "float16" in backend.refusal(plain, DEVICE, torch.float16)
    name, reason = linear.packed_backend(plain, torch.device("meta"), torch.float16)
    assert name == "whole" and "no Triton kernel unpacks float16" in reason


@pytest.mark.parametrize("have, words", [((7, 0), "7.5"), ((8, 6), "")])
def test_cards_and_software(have, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: have)
    monkeypatch.setattr(torch.version, "hip", None)
    device = torch.device("cuda", 9)
    reason = backend._missing.__wrapped__(device, torch.float16)
    assert words in reason if words else reason is None
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in backend._missing.__wrapped__(device, torch.float16)
    with pytest.raises(InkstoneError, match="not installed"):
        backend.kernels()


def test_a_trial_finds_wrong_kernels(fresh, monkeypatch, caplog):
    assert backend.trial("Q4_0", DEVICE, torch.float16) is None
    monkeypatch.setitem(CUTS, "Q4_0", CUTS["IQ4_NL"])
    with caplog.at_level(logging.WARNING):
        reason = backend._trial("Q4_0", DEVICE, torch.float16)
        assert reason == backend._trial("Q4_0", DEVICE, torch.float16)
    assert "not those of torch" in reason and len(caplog.records) == 1


def test_a_trial_survives_kernels_that_do_not_build(fresh, monkeypatch):
    monkeypatch.setitem(CUTS, "Q4_0", Cut(None, 2, 16))
    assert "Error" in backend._trial("Q4_0", DEVICE, torch.float16)


def test_a_failure_is_logged_once_and_ends_it(fresh, monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("PassManager::run failed")

    storage, x = sample("Q4_0", 9, 2), inputs(3, 64, torch.float32)
    monkeypatch.setattr(gemm, "unpack_weight", broken)
    with linear.force_packed("triton"), pytest.raises(RuntimeError, match="PassManager"):
        linear.packed_product(x, storage)
    with caplog.at_level(logging.WARNING):
        choose = linear.packed_backend
        monkeypatch.setattr(linear, "packed_backend", lambda *args: ("triton", ""))
        close(linear.packed_product(x, storage), x, storage)
        monkeypatch.setattr(linear, "packed_backend", choose)
        assert len(caplog.records) == 1 and "PassManager" in caplog.text
    assert "PassManager" in backend.refusal(storage, torch.device("cuda"), torch.float16)
    assert linear._on_device(storage, torch.device("cuda"), torch.float16)[0] == "whole"


def test_refusals():
    x, storage = inputs(2, 64, torch.float32), sample("Q4_0", 3, 2)
    with pytest.raises(InkstoneError, match="No Triton kernel unpacks MXFP4"):
        gemm.unpack_weight(sample("MXFP4", 3, 2), torch.float16)
    with pytest.raises(InkstoneError, match="expected 64"):
        gemm.fused_product(x[:, :32], storage)
    with pytest.raises(InkstoneError, match="one device"):
        gemm.fused_product(x.to("meta"), storage)
    if gemm.INTERPRETED:
        with pytest.raises(InkstoneError, match="bfloat16"):
            gemm.fused_product(x.bfloat16(), storage)


# --- compilation, in a new process: what the interpreter takes the compiler may refuse


UNEVEN = ("M", "part_steps", "row_bytes")  # what is no multiple of 16 in real layers


def compiled(kernel, types: dict[str, str], constants: dict, options: dict, capability: int):
    """One kernel as machine code of a card that need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    at = {name: (kernel.arg_names.index(name),) for name in (*types, *constants)}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        signature,
        {at[k]: v for k, v in constants.items()},
        {at[k]: [["tt.divisibility", 16]] for k in types if k not in UNEVEN},
    )
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options | EXACT)


PRODUCTS = {"Q4_0": tiles.tile(1), "Q5_K": tiles.tile(64), "Q6_K": tiles.LARGE}  # the last: most


def compile_all(capability: int) -> None:
    """Every type's unpacking; the product for one type of each sort, in tiles small to large."""
    unpacking = {"raw": "*u8", "out": "*bf16", "N": "i32", "K": "i32", "row_bytes": "i32"}
    product = dict.fromkeys("M N K x_stride row_bytes part_steps".split(), "i32")
    product |= dict.fromkeys(("x", "bias", "y"), "*bf16") | {"raw": "*u8"}
    known = {name: gemm.constants(name, BY_NAME[name].block) for name in CUTS}
    for name in CUTS:
        compiled(gemm.unpack_kernel, unpacking, known[name] | {"BLOCK_N": 64}, {}, capability)
    for name, tile in PRODUCTS.items():
        size = {"WHOLE": True, "BIAS": True, "BLOCK_M": tile.tokens, "BLOCK_N": tile.rows}
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        code = compiled(gemm.product_kernel, product, known[name] | size, options, capability)
        assert "mma" in code.asm["ptx"], f"{name}, {tile}: no matrix units"
        assert code.metadata.shared <= 48 << 10, f"{name}, {tile}: {code.metadata.shared} bytes"


@pytest.mark.slow
def test_kernels_compile_for_cards(tmp_path):
    pytest.importorskip("triton.backends.nvidia", reason="this triton has no NVIDIA compiler")
    code = (
        "from tests import conftest; from tests.kernels import test_triton as t; "
        "t.compile_all(80); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.stdout.strip() == "done", done.stderr[-3000:]
