"""GGUF files that we write: sizes of the published ones to the byte, types by the published mixes,
and values as the gguf package reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch.expected_tensors import mmdit_layout
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.gguf_writer import gguf_layout
from inkstone.pipeline.gguf_recipes import MIXES, mix_named, types_of
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import BY_NAME

gguf = pytest.importorskip("gguf")
MARK = "__index_timestep_zero__"  # the one tensor that may be empty

KEYS = {
    "general.architecture": "qwen_image",
    "general.quantization_version": 2,
    "general.file_type": 15,
}
# Bytes of published files; of the others the size printed on their page, in GB.
PUBLISHED = {
    "BF16": 40_872_114_720,
    "Q2_K": 7_062_518_304,
    "Q3_K_S": 8_952_609_312,
    "Q3_K_M": 9_679_567_392,
}
PRINTED = {
    "Q4_0": 11.853,
    "Q4_K_S": 12.140,
    "Q4_1": 12.844,
    "Q4_K_M": 13.066,
    "Q5_K_S": 14.118,
    "Q5_0": 14.401,
    "Q5_1": 15.392,
    "Q5_K_M": 14.935,
    "Q6_K": 16.825,
    "Q8_0": 21.762,
}


def whole(mix: str) -> tuple[int, dict[str, int]]:
    """(bytes of the 60-block file, tensors per type)."""
    shapes = mmdit_layout(MMDiTConfig())
    kinds, replaced = types_of(shapes, MIXES[mix])
    assert not replaced
    _, slots, total = gguf_layout(KEYS, {n: (s, kinds[n]) for n, s in shapes.items()})
    counts: dict[str, int] = {}
    for slot in slots:
        counts[slot.kind.name] = counts.get(slot.kind.name, 0) + 1
    return total, counts


@pytest.mark.slow
@pytest.mark.parametrize("mix", PUBLISHED)
def test_sizes_are_the_published_ones_to_the_byte(mix):
    assert whole(mix)[0] == PUBLISHED[mix]


@pytest.mark.parametrize("mix", PRINTED)
def test_sizes_are_the_printed_ones(mix):
    total, counts = whole(mix)
    assert abs(total / 1e9 - PRINTED[mix]) < 0.001, total
    assert counts["F32"] == 1087 and counts["BF16"] == 6


def test_types_of_the_usual_mix():
    shapes = mmdit_layout(MMDiTConfig())
    kinds, _ = types_of(shapes, mix_named("q4_k_m"))
    block = "transformer_blocks.{}."
    told = {
        block.format(0) + "attn.to_v.weight": "Q5_K",
        block.format(59) + "img_mlp.net.2.weight": "Q5_K",
        block.format(7) + "attn.add_v_proj.weight": "Q6_K",
        block.format(7) + "txt_mlp.net.2.weight": "Q6_K",
        block.format(7) + "attn.to_out.0.weight": "Q4_K",
        block.format(7) + "img_mod.1.weight": "Q4_K",
        block.format(7) + "img_mod.1.bias": "F32",
        "img_in.weight": "BF16",
        "txt_norm.weight": "F32",
        "proj_out.weight": "BF16",
    }
    assert {name: kinds[name].name for name in told} == told
    kinds, _ = types_of(shapes, MIXES["Q4_K_S"])
    values = [n for n, k in kinds.items() if k.name == "Q5_K" and "_mlp.net.2." not in n]
    assert values == [
        block.format(i) + f"attn.{v}.weight" for i in (0, 1) for v in ("to_v", "add_v_proj")
    ]


def test_rows_that_do_not_fit_get_another_type():
    shapes = {
        "transformer_blocks.0.attn.to_q.weight": (8, 128),
        "transformer_blocks.1.attn.to_q.weight": (8, 40),
    }
    for mix, kind in (("Q4_K_S", "Q5_0"), ("Q6_K", "Q8_0"), ("Q3_K_S", "Q5_0"), ("Q8_0", "Q8_0")):
        kinds, replaced = types_of(shapes, MIXES[mix])
        assert [k.name for k in kinds.values()] == [kind, "F16"], mix
        assert sum(replaced.values()) == (1 if mix == "Q8_0" else 2)
    with pytest.raises(InkstoneError, match="Q4_K_X.*Q4_K_M"):
        mix_named("Q4_K_X")


def test_a_written_file_is_read_by_the_package_and_by_us(tmp_path):
    torch.manual_seed(0)
    rows = torch.randn(6, 512)
    keys = KEYS | {
        "some.text": "Grüße",
        "some.floats": 0.5,
        "some.flag": True,
        "some.words": ["a", "Ġb"],
        "some.numbers": [1, -2],
    }
    kinds = [BY_NAME[n] for n in ("Q4_K", "Q8_0", "Q5_1", "Q2_K", "BF16", "F32")]
    tensors = {f"t{k.name}": ((6, 512), k) for k in kinds}
    tensors |= {"vector": ((5,), BY_NAME["F32"]), MARK: ((0,), BY_NAME["F32"])}
    head, slots, total = gguf_layout(keys, tensors)
    data = bytearray(total)
    data[: len(head)] = head
    for slot in slots[:-2]:
        data[slot.begin : slot.begin + slot.nbytes] = (
            quantize_rows(rows, slot.kind).numpy().tobytes()
        )
    vector = torch.arange(5.0)
    data[slots[-2].begin : slots[-2].begin + 20] = vector.numpy().tobytes()
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    theirs = gguf.GGUFReader(path)
    assert {f: theirs.fields[f].contents() for f in keys} == keys
    with GGUFFile(path) as ours:
        for tensor in theirs.tensors[:-1]:
            expected = gguf.dequantize(tensor.data, tensor.tensor_type)
            got = ours.read(tensor.name, dtype=torch.float32).numpy()
            assert np.array_equal(expected, got), tensor.name
        assert ours.entries[MARK].shape == (0,)
        assert torch.equal(ours.read("vector"), vector)


def test_rows_must_be_whole_blocks():
    with pytest.raises(InkstoneError, match="Q8_0 needs rows of a multiple of 32, got 40"):
        gguf_layout(KEYS, {"x": ((2, 40), BY_NAME["Q8_0"])})
