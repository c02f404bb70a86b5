"""Formats of ComfyUI against comfy-kitchen's own quantizers and eager routines, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch

from ..support.packed import check, packed_weights, refused

kitchen = pytest.importorskip("comfy_kitchen", reason="the oracle of these formats")
from comfy_kitchen.tensor.awq_w4a16 import TensorCoreAWQW4A16Layout  # noqa: E402
from comfy_kitchen.tensor.convrot_w4a4 import TensorCoreConvRotW4A4Layout  # noqa: E402
from comfy_kitchen.tensor.fp8 import TensorCoreFP8Layout  # noqa: E402
from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout  # noqa: E402
from comfy_kitchen.tensor.mxfp8 import TensorCoreMXFP8Layout  # noqa: E402
from comfy_kitchen.tensor.nvfp4 import TensorCoreNVFP4Layout  # noqa: E402
from comfy_kitchen.tensor.w4a8_int8 import AsymW4A8Int8Layout  # noqa: E402

LAYER = "transformer_blocks.3.img_mlp.net.2"
ROWS, COLUMNS = 160, 512


def weight(rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """Float32 with a row and a block of zeros, a very large and a very small one."""
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)) * 0.02
    w[3] = 0
    w[5, :64] = 0
    w[7] *= 1e4
    w[9] *= 1e-6
    return w


# name -> (layout, arguments of its quantizer, settings beside the format)
CASES = {
    "float8_e4m3fn": (TensorCoreFP8Layout, {"scale": "recalculate"}, {}),
    "float8_e5m2": (TensorCoreFP8Layout, {"scale": "recalculate", "dtype": torch.float8_e5m2}, {}),
    "mxfp8": (TensorCoreMXFP8Layout, {}, {}),
    "nvfp4": (TensorCoreNVFP4Layout, {}, {}),
    "int8_tensorwise": (TensorWiseINT8Layout, {}, {}),
    "int8_tensorwise rows": (TensorWiseINT8Layout, {"per_channel": True}, {}),
    "int8_tensorwise convrot": (
        TensorWiseINT8Layout,
        {"per_channel": True, "convrot": True},
        {"convrot": True, "convrot_groupsize": 256},
    ),
    "int8_tensorwise convrot 64": (
        TensorWiseINT8Layout,
        {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
        {"convrot": True, "convrot_groupsize": 64},
    ),
    "convrot_w4a4": (TensorCoreConvRotW4A4Layout, {}, {"convrot_groupsize": 256}),
    "asym_w4a8_int8": (AsymW4A8Int8Layout, {}, {"group_size": 16, "convrot_groupsize": 256}),
    "asym_w4a8_int8 uniform": (AsymW4A8Int8Layout, {"codebook": False}, {}),
    "asym_w4a8_int8 float scales": (
        AsymW4A8Int8Layout,
        {"scale_dtype": torch.float32, "group_size": 32},
        {"params": {"group_size": 32}},
    ),
    "asym_w4a8_int8 correction": (AsymW4A8Int8Layout, {"codebook": False, "symmetric": False}, {}),
    "asym_w4a8_int8 6 bits": (AsymW4A8Int8Layout, {"bits": 6, "codebook": False}, {}),
}


def encoded(case: str, w: torch.Tensor) -> tuple[dict, torch.Tensor, dict]:
    """Tensors of a layer as ComfyUI saves it, the plain weight, and the layer's settings."""
    layout, arguments, settings = CASES[case]
    codes, params = layout.quantize(w, **arguments)
    plain = layout.dequantize(codes, params)
    state = layout.state_dict_tensors(codes, params)
    tensors = {f"{LAYER}.weight{suffix}": t for suffix, t in state.items()}
    return tensors, plain, {"format": case.split()[0], **settings}


def as_bytes(conf: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)


def with_mark(tensors: dict, conf: object) -> dict:
    return tensors | {LAYER + ".comfy_quant": as_bytes(conf)}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_comfy_kitchen(case, tmp_path):
    tensors, plain, conf = encoded(case, weight())
    one = packed_weights(tmp_path, with_mark(tensors, conf))[LAYER + ".weight"]
    storage = one.load()
    assert one.shape == (ROWS, COLUMNS)
    assert set(one.parts) == {*tensors, LAYER + ".comfy_quant"}
    assert one.nbytes == storage.nbytes and one.format == storage.format
    turned = "convrot" in case or "w4a8" in case
    check(storage, plain, most=1e-6 if turned else 0)


@pytest.mark.parametrize("case", ["mxfp8", "nvfp4"])
def test_padded_rows_are_cut_by_the_bias(case, tmp_path):
    tensors, plain, conf = encoded(case, weight(100))
    tensors[LAYER + ".bias"] = torch.zeros(100)
    one = packed_weights(tmp_path, with_mark(tensors, conf))[LAYER + ".weight"]
    assert one.shape == (100, COLUMNS) and LAYER + ".bias" not in one.parts
    check(one.load(), plain[:100])


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("named", ["", "model.diffusion_model."])
def test_metadata_names_formats(prefix, named, tmp_path):
    tensors, plain, conf = encoded("nvfp4", weight())
    tensors["norm.weight"] = torch.ones(3)
    layers = {named + LAYER: conf, "another.part": {"format": "nvfp4"}}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    packed = packed_weights(tmp_path, tensors, {"_quantization_metadata": text}, prefix=prefix)
    assert set(packed) == {LAYER + ".weight"}
    check(packed[LAYER + ".weight"].load(), plain)


def test_metadata_may_hold_bare_names(tmp_path):
    tensors, plain, conf = encoded("float8_e4m3fn", weight())
    text = json.dumps({"layers": {LAYER: "float8_e4m3fn"}})
    tensors[LAYER + ".weight"] = tensors[LAYER + ".weight"].view(torch.uint8)  # old files
    one = packed_weights(tmp_path, tensors, {"_quantization_metadata": text})[LAYER + ".weight"]
    check(one.load(), plain)


def test_awq(tmp_path):
    torch.manual_seed(1)
    codes = torch.randint(-128, 128, (96, 128), dtype=torch.int8)
    scale, zero = (torch.randn(4, 96) for _ in range(2))
    params = TensorCoreAWQW4A16Layout.Params(
        scale=scale, orig_dtype=torch.float32, orig_shape=(96, 256), zeros=zero
    )
    want = TensorCoreAWQW4A16Layout.dequantize(codes, params)
    tensors = {
        LAYER + ".weight": codes,
        LAYER + ".weight_scale": scale,
        LAYER + ".weight_zeros": zero,
    }
    one = packed_weights(tmp_path, with_mark(tensors, {"format": "awq_w4a16"}))[LAYER + ".weight"]
    storage = one.load()
    assert one.nbytes == storage.nbytes
    check(storage, want)


def test_modelopt_nvfp4(tmp_path):
    """Plain order of scales, the low nibble first, and columns that scale the input."""
    torch.manual_seed(2)
    codes = torch.randint(0, 256, (48, 40), dtype=torch.uint8)
    scale = torch.rand(48, 5).to(torch.float8_e4m3fn)
    columns = torch.rand(80)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    signed = torch.cat([levels, -levels])
    want = torch.stack([signed[(codes & 15).long()], signed[(codes >> 4).long()]], -1).view(48, 80)
    whole = torch.tensor(0.37)
    want = (want.view(48, 5, 16) * (scale.float() * whole).unsqueeze(-1)).view(48, 80) * columns
    tensors = {
        LAYER + ".weight": codes,
        LAYER + ".weight_scale": scale,
        LAYER + ".weight_scale_2": whole,
        LAYER + ".input_scale": torch.tensor(1.0),
        LAYER + ".pre_quant_scale": columns,
    }
    one = packed_weights(tmp_path, tensors)[LAYER + ".weight"]
    assert set(one.parts) == set(tensors) and one.shape == (48, 80)
    storage = one.load()
    assert one.nbytes == storage.nbytes
    check(storage, want)


def test_marked_and_plain_layers_may_mix(tmp_path):
    tensors, plain, conf = encoded("nvfp4", weight())
    fp8 = torch.ones(2, 4).to(torch.float8_e4m3fn)
    tensors |= {"a.weight": fp8, "b.weight": torch.ones(2, 2)}
    packed = packed_weights(tmp_path, with_mark(tensors, conf))
    assert {k: f.format for k, f in packed.items()} == {
        LAYER + ".weight": "nvfp4",
        "a.weight": "fp8 e4m3 plain",
    }


# --- damaged files


def damaged(case: str, change: dict) -> dict[str, torch.Tensor]:
    """A sound layer with some of its tensors replaced, or left out where the value is None."""
    tensors, _, conf = encoded(case, weight())
    tensors = with_mark(tensors, conf) | {LAYER + k: v for k, v in change.items()}
    return {k: v for k, v in tensors.items() if v is not None}


def _scale_with(value: int, shape: tuple[int, int]) -> torch.Tensor:
    scale = torch.full(shape, 0x38, dtype=torch.uint8)
    scale[2, 3] = value
    return scale.view(torch.float8_e4m3fn)


E8 = torch.float8_e8m0fnu
DAMAGE = {
    "no scale": ("float8_e4m3fn", {".weight_scale": None}, (".weight_scale is missing",)),
    "no weight": ("mxfp8", {".weight": None}, (".weight is missing",)),
    "mxfp8 scale not padded": (
        "mxfp8",
        {".weight_scale": torch.zeros(160, 16, dtype=torch.uint8).view(E8)},
        ("[160, 16]", "expected [256, 16]"),
    ),
    "mxfp8 NaN scale": (
        "mxfp8",
        {".weight_scale": torch.full((256, 16), 255, dtype=torch.uint8).view(E8)},
        ("NaN",),
    ),
    "mxfp8 NaN weight": (
        "mxfp8",
        {".weight": torch.full((160, 512), 127, dtype=torch.uint8).view(torch.float8_e4m3fn)},
        ("all NaN",),
    ),
    "mxfp8 in floats": ("mxfp8", {".weight": torch.ones(160, 512)}, ("holds float32",)),
    "mxfp8 columns": (
        "mxfp8",
        {".weight": torch.ones(160, 500).to(torch.float8_e4m3fn)},
        ("multiple of 32",),
    ),
    "mxfp8 bias of another length": ("mxfp8", {".bias": torch.zeros(90)}, ("its bias 90",)),
    "mxfp8 bias of two axes": (
        "mxfp8",
        {".bias": torch.zeros(2, 80)},
        (".bias has shape [2, 80]",),
    ),
    "mxfp8 bias without axes": ("mxfp8", {".bias": torch.zeros(())}, (".bias has shape []",)),
    "nvfp4 empty bias": ("nvfp4", {".bias": torch.zeros(32, 0)}, (".bias has shape [32, 0]",)),
    "nvfp4 without the whole scale": (
        "nvfp4",
        {".weight_scale_2": None},
        ("weight_scale_2 is missing",),
    ),
    "nvfp4 NaN scale": ("nvfp4", {".weight_scale": _scale_with(0x7F, (256, 32))}, ("[2, 3]",)),
    "nvfp4 infinite whole scale": (
        "nvfp4",
        {".weight_scale_2": torch.tensor(torch.inf)},
        ("weight_scale_2 has inf",),
    ),
    "nvfp4 vector": ("nvfp4", {".weight": torch.zeros(64, dtype=torch.uint8)}, ("a matrix",)),
    "int8 rows": ("int8_tensorwise", {".weight_scale": torch.ones(159, 1)}, ("expected [160]",)),
    "int8 NaN": (
        "int8_tensorwise",
        {".weight_scale": torch.tensor(torch.nan)},
        ("weight_scale has nan",),
    ),
    "int4 NaN": ("convrot_w4a4", {".weight_scale": torch.full((160,), torch.nan)}, ("has nan",)),
    "w4a8 scales of another length": (
        "asym_w4a8_int8",
        {".weight_s_channel": torch.ones(4)},
        ("expected [160]",),
    ),
    "w4a8 grid": ("asym_w4a8_int8", {".weight_s_rel": torch.ones(160, 31)}, ("4 or 6 bits",)),
    "w4a8 codebook": ("asym_w4a8_int8", {".weight_codebook": torch.ones(15)}, ("expected [16]",)),
    "w4a8 NaN": (
        "asym_w4a8_int8",
        {".weight_s_rel": torch.full((160, 32), torch.nan)},
        ("has nan",),
    ),
    "rotation that does not fit": (
        "convrot_w4a4",
        {".comfy_quant": as_bytes({"format": "convrot_w4a4", "convrot_groupsize": 1024})},
        ("power of 4",),
    ),
    "rotation of another kind": (
        "convrot_w4a4",
        {".comfy_quant": as_bytes({"format": "convrot_w4a4", "convrot_groupsize": 128})},
        ("power of 4",),
    ),
    "rotation in words": (
        "convrot_w4a4",
        {".comfy_quant": as_bytes({"format": "convrot_w4a4", "convrot_groupsize": "a"})},
        ("whole number",),
    ),
    "bad JSON": ("nvfp4", {".comfy_quant": torch.tensor([123, 34], dtype=torch.uint8)}, ("JSON",)),
    "JSON not UTF-8": (
        "nvfp4",
        {".comfy_quant": torch.tensor([0xFF, 0xFE, 1], dtype=torch.uint8)},
        ("JSON",),
    ),
    "JSON of a list": ("nvfp4", {".comfy_quant": as_bytes([1])}, ("object", "list")),
    "JSON in floats": ("nvfp4", {".comfy_quant": torch.ones(3)}, ("holds float32",)),
    "JSON without format": ("nvfp4", {".comfy_quant": as_bytes({})}, ("its format is",)),
    "unknown format": ("nvfp4", {".comfy_quant": as_bytes({"format": "q7"})}, ("'q7'", "nvfp4")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name, tmp_path):
    case, change, words = DAMAGE[name]
    tensors = damaged(case, change)

    def run():
        for one in packed_weights(tmp_path, tensors).values():
            one.load()

    refused((*words, LAYER), run)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", ("JSON",)),
        ("[]", ("object",)),
        ('{"layers": 3}', ("layers",)),
        (json.dumps({"layers": {LAYER: "bits"}}), ("'bits'", LAYER)),
        (json.dumps({"layers": {LAYER: 3}}), ("'3'", LAYER)),
    ],
)
def test_bad_metadata_is_refused(text, words, tmp_path):
    tensors, _, _ = encoded("nvfp4", weight())
    refused(words, lambda: packed_weights(tmp_path, tensors, {"_quantization_metadata": text}))
