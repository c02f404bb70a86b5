"""Rows of packed matrices as matrices of their own: in every format the same bits as the whole."""

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.memory.row_parts import cut_packed, cut_shapes, row_parts
from inkstone.quant.gguf_quantizer import ENCODE, quantize_rows
from inkstone.quant.gguf_storage import GGUFStorage
from inkstone.quant.gguf_types import BY_NAME
from inkstone.quant.storage import PlainStorage, Storage

from ..support.packed import check, packed_weights
from .test_formats_bnb import X, four_bit, int8
from .test_formats_comfy import CASES, LAYER, encoded, weight, with_mark
from .test_formats_dfloat11 import normal, one

FUSED = {"gate_up.weight": ("gate.weight", "up.weight")}


def comfy(case: str, folder) -> Storage:
    tensors, _, conf = encoded(case, weight(320))
    return packed_weights(folder, with_mark(tensors, conf))[LAYER + ".weight"].load()


def comfy_tiles(case: str, folder) -> Storage:
    """256 rows: their halves are whole tiles of scales."""
    tensors, _, conf = encoded(case, weight(256))
    return packed_weights(folder, with_mark(tensors, conf))[LAYER + ".weight"].load()


def bnb(shape, nested: bool, folder) -> Storage:
    tensors, _ = four_bit(*shape, nested=nested)
    return packed_weights(folder, tensors)[X + ".weight"].load()


def bnb8(folder) -> Storage:
    return packed_weights(folder, int8()[0])[X + ".weight"].load()


def fp8_rows(folder) -> Storage:
    w = weight(64).abs() + 1e-3
    scale = w.amax(1, keepdim=True) / 448
    tensors = {"x.weight": (w / scale).to(torch.float8_e4m3fn), "x.weight_scale": scale}
    return packed_weights(folder, tensors)["x.weight"].load()


def gguf(name: str, folder) -> Storage:
    kind = BY_NAME[name]
    return GGUFStorage(quantize_rows(weight(32), kind), kind, (32, 512))


def gguf_factor(folder) -> Storage:
    kind = BY_NAME["Q8_0"]
    return GGUFStorage(quantize_rows(weight(32), kind), kind, (32, 512), 0.3)


def dfloat11(rows: int, columns: int, folder) -> Storage:
    return packed_weights(folder, one(normal(rows, columns)))["a.weight"].load()


MAKE = {case: (comfy, case) for case in CASES}
MAKE |= {f"{case}, whole tiles": (comfy_tiles, case) for case in ("mxfp8", "nvfp4")}
MAKE |= {name: (gguf, name) for name in ENCODE}
MAKE |= {
    "GGUF with a factor": (gguf_factor,),
    "bf16": (lambda folder: PlainStorage(weight(32).bfloat16()),),
    "fp8 by rows": (fp8_rows,),
    "nf4": (bnb, (96, 192), False),
    "nf4, nested": (bnb, (1024, 64), True),
    "nf4, blocks over the ends of rows": (bnb, (400, 90), True),
    "bitsandbytes int8": (bnb8,),
    "DFloat11, one piece": (dfloat11, 40, 64),
    "DFloat11": (dfloat11, 300, 256),
}


@pytest.mark.parametrize("case", MAKE)
def test_rows_are_those_of_the_whole(case, tmp_path):
    make, *arguments = MAKE[case]
    whole = make(*arguments, tmp_path)
    want, n = whole.dequantize(), whole.shape[0]
    for start, stop in ((0, n // 2), (n // 2, n), (n // 4, n // 2), (3, 8)):
        part = whole.rows(start, stop)
        assert part.shape == (stop - start, whole.shape[1]) and part.format == whole.format
        check(part, want[start:stop])
    inner = whole.rows(n // 2, n).rows(1, n - n // 2)
    assert torch.equal(inner.dequantize(), want[n // 2 + 1 :]), "rows of rows"


def test_both_halves_are_read_once(tmp_path):
    tensors, plain, conf = encoded("int8_tensorwise rows", weight(64))
    packed = packed_weights(tmp_path, with_mark(tensors, conf))
    one = packed[LAYER + ".weight"]
    calls = []

    def load():
        calls.append(1)
        storage = one.load()
        storage.full_precision = True
        return storage

    from dataclasses import replace

    whole = {"gate_up.weight": replace(one, load=load), "other.weight": one}
    parts = row_parts(FUSED, {"gate_up.weight": (64, 512), "other.weight": (64, 512)})
    cut = cut_packed(whole, parts)
    assert set(cut) == {"gate.weight", "up.weight", "other.weight"}
    assert cut["other.weight"] is one
    assert cut["gate.weight"].nbytes + cut["up.weight"].nbytes == one.nbytes
    for times in (1, 2):  # streamed weights are read again
        gate, up = cut["gate.weight"].load(), cut["up.weight"].load()
        assert len(calls) == times
        assert torch.equal(gate.dequantize(), plain[:32]), "gate first"
        assert torch.equal(up.dequantize(), plain[32:])
        assert gate.full_precision and up.full_precision
        assert gate.nbytes + up.nbytes == one.nbytes
    shapes = cut_shapes({"gate_up.weight": (64, 512), "norm.weight": (5,)}, parts)
    assert shapes == {"norm.weight": (5,), "gate.weight": (32, 512), "up.weight": (32, 512)}


def test_odd_rows_are_refused():
    with pytest.raises(InkstoneError, match=r"gate_up.weight has 5 rows, which are not 2 equal"):
        row_parts(FUSED, {"gate_up.weight": (5, 8)})
    assert row_parts(FUSED, {"norm.weight": (5,)}) == {}


def test_a_format_without_rows_is_refused():
    class Whole(Storage):
        format = "a new format"

    from inkstone.quant.storage import PackedWeight

    one = PackedWeight(
        "gate_up.weight", (4, 8), "a new format", 9, ("gate_up.weight",), lambda: Whole((4, 8))
    )
    cut = cut_packed({"gate_up.weight": one}, row_parts(FUSED, {"gate_up.weight": (4, 8)}))
    with pytest.raises(
        InkstoneError, match=r"format a new format, whose rows cannot be cut.*img_mlp.proj"
    ):
        cut["up.weight"].load()
