"""Every GGUF type gives the same bits as the gguf package, on random blocks and on odd scales."""

import numpy as np
import pytest
import torch

from inkstone.quant.gguf_dequantizer import UNPACKED, bad_block, dequantize
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import BY_NAME, REFUSED, TYPES, BlockType

gguf = pytest.importorskip("gguf")

ISSUE = """F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS TQ1_0 TQ2_0
MXFP4 NVFP4""".split()
PACKED = [name for name in ISSUE if BY_NAME[name].packed]
# f16 bits: zeros of both signs, the least and the largest subnormal, the least and the largest
# normal number, one, two thirds
EDGES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00, 0x3955)


def blocks(kind: BlockType, rows: int, per_row: int, seed: int = 0) -> np.ndarray:
    """Random bytes [rows, per_row * kind.bytes] whose scales are finite."""
    raw = np.random.default_rng(seed).integers(0, 256, (rows, per_row * kind.bytes), dtype=np.uint8)
    flat = raw.reshape(-1, kind.bytes)
    for at in kind.scales:
        half = flat[:, at : at + 2].copy().view(np.uint16)
        half[half & 0x7C00 == 0x7C00] &= 0xBFFF
        flat[:, at : at + 2] = half.view(np.uint8)
    for at in kind.byte_scales:
        flat[flat[:, at] & kind.nan == kind.nan, at] = 0x41
    return raw


def with_scales(raw: np.ndarray, kind: BlockType, bits: int) -> np.ndarray:
    raw = raw.copy()
    for at in kind.scales:
        raw.reshape(-1, kind.bytes)[:, at : at + 2] = np.array([bits], np.uint16).view(np.uint8)
    return raw


def reference(raw: np.ndarray, kind: BlockType) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind.id))


def check(raw: np.ndarray, kind: BlockType, what: str = "") -> None:
    got, want = dequantize(torch.from_numpy(raw), kind).numpy(), reference(raw, kind)
    assert got.shape == want.shape and got.dtype == want.dtype == np.float32
    differ = int((got.view(np.uint32) != want.view(np.uint32)).sum())
    with np.errstate(invalid="ignore"):
        worst = np.nanmax(np.abs(got - want))
    assert not differ, f"{kind.name} {what}: {differ} of {got.size} differ, by up to {worst}"


def test_the_table_of_types_is_the_packages():
    theirs = {int(id): (id.name, *size) for id, size in gguf.constants.GGML_QUANT_SIZES.items()}
    ours = {kind.id: (kind.name, kind.block, kind.bytes) for kind in TYPES.values()}
    assert {id: theirs[id] for id in ours} == ours
    assert set(theirs) - set(ours) == {9, 15, 41} <= set(REFUSED)
    assert set(ISSUE) <= set(BY_NAME)


@pytest.mark.parametrize("name", ISSUE)
def test_random_blocks(name: str):
    kind = BY_NAME[name]
    if not kind.packed:
        floats = torch.randn(8, 96).to(kind.dtype)
        check(floats.view(torch.uint8).numpy(), kind)
        return
    # more than is unpacked at once, and no multiple of it
    check(blocks(kind, 3, UNPACKED // kind.block // 2 + 5), kind)


@pytest.mark.parametrize("name", PACKED)
def test_a_single_block_anywhere_in_memory(name: str):
    kind = BY_NAME[name]
    raw = blocks(kind, 1, 3)
    want, size = reference(raw, kind), kind.bytes
    for at in range(3):
        one = torch.from_numpy(raw)[:, at * size : (at + 1) * size]
        got = dequantize(one, kind)
        assert np.array_equal(got.numpy(), want[:, at * kind.block : (at + 1) * kind.block])


@pytest.mark.parametrize("name", [name for name in PACKED if BY_NAME[name].scales])
def test_edge_scales(name: str):
    kind = BY_NAME[name]
    for bits in EDGES:
        check(with_scales(blocks(kind, 2, 9, bits), kind, bits), kind, f"with scales {bits:#06x}")


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_scale_of_one_byte(name: str):
    kind = BY_NAME[name]
    raw = blocks(kind, 1, 256).reshape(256, kind.bytes)
    for at in kind.byte_scales:
        raw[:, at] = np.arange(256)
    raw = raw[:255] if name == "MXFP4" else raw  # 2^127 times 12 overflows, and is refused at load
    check(raw.reshape(1, -1), kind)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "IQ4_XS"])
def test_extreme_codes(name: str):
    kind = BY_NAME[name]
    for byte in (0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0):
        raw = np.full((1, kind.bytes * 4), byte, np.uint8)
        check(with_scales(raw, kind, 0x2E66), kind, f"of bytes {byte:#04x}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PACKED)
def test_other_types_are_rounded_once(name: str, dtype: torch.dtype):
    kind = BY_NAME[name]
    raw = torch.from_numpy(blocks(kind, 3, 1024))
    whole = dequantize(raw, kind)
    got = dequantize(raw, kind, dtype=dtype)
    assert torch.equal(got.view(torch.int16), whole.to(dtype).view(torch.int16))


@pytest.mark.parametrize("name", PACKED)
def test_storage_gives_rows_and_gathers(name: str):
    kind = BY_NAME[name]
    raw = torch.from_numpy(blocks(kind, 12, 6))
    storage = GGUFStorage(raw, kind, (12, 6 * kind.block))
    whole = dequantize(raw, kind)
    assert storage.format == name and storage.nbytes == raw.numel()
    assert torch.equal(storage.dequantize(), whole)
    rows = torch.empty(5, 6 * kind.block, dtype=torch.bfloat16)
    assert storage.rows_into(4, rows) is rows and torch.equal(rows, whole[4:9].bfloat16())
    index = torch.tensor([11, 0, 7, 7])
    assert torch.equal(storage.gather(index), whole[index])
    assert torch.equal(storage.gather(index, torch.bfloat16), whole[index].bfloat16())
    wide = torch.zeros(3, 8 * kind.block)
    part = wide[:, kind.block : 7 * kind.block]  # rows that do not follow each other in memory
    assert torch.equal(storage.rows_into(2, part), whole[2:5])
    assert torch.equal(part, whole[2:5]) and not wide[:, : kind.block].any()


def test_a_factor_multiplies_in_float32():
    kind = BY_NAME["NVFP4"]
    raw = torch.from_numpy(blocks(kind, 4, 3))
    storage = GGUFStorage(raw, kind, (4, 192), 0.3)
    want = dequantize(raw, kind) * 0.3
    assert torch.equal(storage.dequantize(), want)
    assert torch.equal(storage.gather(torch.tensor([2]), torch.bfloat16), want[2:3].bfloat16())


@pytest.mark.parametrize("name", PACKED)
def test_scales_that_are_no_numbers_are_found(name: str):
    kind = BY_NAME[name]
    raw = blocks(kind, 4, 8)
    assert bad_block(torch.from_numpy(raw), kind) is None
    for bits in (0x7C00, 0xFC00, 0x7E00, 0x7C01) if kind.scales else ():
        for at in kind.scales:
            bad = raw.copy()
            bad.reshape(-1, kind.bytes)[21, at : at + 2] = np.array([bits], "<u2").view(np.uint8)
            assert bad_block(torch.from_numpy(bad), kind) == 21
    for at in kind.byte_scales:
        bad = raw.copy()
        bad.reshape(-1, kind.bytes)[[19, 30], at] = 0xFF
        assert bad_block(torch.from_numpy(bad), kind) == 19
