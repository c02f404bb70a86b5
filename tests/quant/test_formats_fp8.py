"""fp8 files: plain, scaled, by rows, old ones in U8; every damaged variant is refused."""

from __future__ import annotations

import pytest
import torch

from ..support.packed import check, packed_weights, refused

LAYER = "transformer_blocks.0.attn.to_q"
KINDS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def every_code(kind: torch.dtype, rows: int = 6, columns: int = 96) -> torch.Tensor:
    """[rows, columns] bytes with every code that is a number."""
    codes = torch.arange(256, dtype=torch.uint8)
    good = codes[codes.view(kind).float().isfinite()]
    codes = good.repeat(-(-rows * columns // len(good)))[: rows * columns]
    return codes.view(rows, columns)


@pytest.mark.parametrize("name", KINDS)
def test_plain(name, tmp_path):
    codes = every_code(KINDS[name])
    packed = packed_weights(
        tmp_path, {LAYER + ".weight": codes.view(KINDS[name]), LAYER + ".bias": torch.ones(6)}
    )
    one = packed[LAYER + ".weight"]
    assert (one.format, one.shape, one.parts) == (
        f"fp8 {name} plain",
        (6, 96),
        (LAYER + ".weight",),
    )
    storage = one.load()
    check(storage, codes.view(KINDS[name]).float())
    assert one.nbytes == storage.nbytes == 6 * 96


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("suffix", [".scale_weight", ".weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled(name, suffix, rows, tmp_path):
    codes, kind = every_code(KINDS[name]), KINDS[name]
    scale = torch.rand(6) * 1e-3 if rows else torch.tensor(3.1e-4)
    tensors = {
        LAYER + ".weight": codes.view(kind),
        LAYER + suffix: scale,
        LAYER + ".scale_input": torch.ones(()),
    }
    packed = packed_weights(tmp_path, tensors, prefix="model.diffusion_model.")
    one = packed[LAYER + ".weight"]
    assert one.format == f"fp8 {name} scaled" + " by rows" * rows
    assert set(one.parts) == set(tensors)
    storage = one.load()
    check(storage, codes.view(kind).float() * (scale[:, None] if rows else scale))
    assert one.nbytes == storage.nbytes


@pytest.mark.parametrize("marker, kind", [(torch.float32, "e4m3"), (KINDS["e5m2"], "e5m2")])
def test_old_files_hold_bytes(marker, kind, tmp_path):
    codes = every_code(KINDS[kind])
    tensors = {
        LAYER + ".weight": codes,
        LAYER + ".scale_weight": torch.tensor(0.5),
        "scaled_fp8": torch.zeros(0, dtype=marker),
    }
    one = packed_weights(tmp_path, tensors)[LAYER + ".weight"]
    assert one.format == f"fp8 {kind} scaled" and set(one.parts) == set(tensors)
    check(one.load(), codes.view(KINDS[kind]).float() * 0.5)


def test_floats_and_vectors_are_not_packed(tmp_path):
    tensors = {"norm.weight": torch.ones(4).to(KINDS["e4m3"]), "img_in.weight": torch.ones(4, 4)}
    assert packed_weights(tmp_path, tensors) == {}


def test_casting_a_network_leaves_codes_alone(tmp_path):
    codes = every_code(KINDS["e4m3"])
    tensors = {LAYER + ".weight": codes.view(KINDS["e4m3"])}
    one = packed_weights(tmp_path, tensors)[LAYER + ".weight"]
    storage = one.load().to(torch.bfloat16)
    check(storage, codes.view(KINDS["e4m3"]).float())


def test_large_matrices_go_in_chunks(tmp_path, monkeypatch):
    from inkstone.quant import fp8

    monkeypatch.setattr(fp8, "_AT_ONCE", 200)
    codes = every_code(KINDS["e4m3"], 7)
    tensors = {LAYER + ".weight": codes.view(KINDS["e4m3"]), LAYER + ".weight_scale": torch.rand(7)}
    one = packed_weights(tmp_path, tensors)[LAYER + ".weight"]
    check(one.load(), codes.view(KINDS["e4m3"]).float() * tensors[LAYER + ".weight_scale"][:, None])


# --- damaged files


def scaled() -> dict[str, torch.Tensor]:
    codes = every_code(KINDS["e4m3"]).view(KINDS["e4m3"])
    return {
        LAYER + ".weight": codes,
        LAYER + ".scale_weight": torch.tensor(0.5),
        "proj.weight": codes,
        "proj.scale_weight": torch.tensor(0.25),
    }


def _drop_scale(t):
    del t[LAYER + ".scale_weight"]


def _set(name, value):
    def change(t):
        t[name] = value

    return change


def _codes(at, value):
    def change(t):
        codes = t[LAYER + ".weight"].view(torch.uint8).clone()
        codes.view(-1)[at] = value
        t[LAYER + ".weight"] = codes.view(KINDS["e4m3"])

    return change


DAMAGE = {
    "scale missing": (_drop_scale, (LAYER + ".scale_weight is missing",)),
    "scale of a wrong length": (
        _set(LAYER + ".scale_weight", torch.ones(5)),
        ("shape [5], expected [6]",),
    ),
    "scale of a wrong rank": (
        _set(LAYER + ".scale_weight", torch.ones(6, 96)),
        ("shape [6, 96], expected [6]",),
    ),
    "scale in integers": (
        _set(LAYER + ".scale_weight", torch.tensor(3)),
        ("holds int64", "float32"),
    ),
    "scale is NaN": (_set(LAYER + ".scale_weight", torch.tensor(torch.nan)), ("has nan",)),
    "scale is infinite": (_set(LAYER + ".scale_weight", torch.tensor(torch.inf)), ("has inf",)),
    "a NaN code": (_codes(100, 0xFF), ("row 1, column 4", "NaN")),
    "all codes NaN": (_codes(slice(None), 0x7F), ("all NaN", LAYER)),
    "weight in floats": (
        _set(LAYER + ".weight", torch.ones(6, 96)),
        ("fp8 scale, but its weight is in plain floats",),
    ),
    "weight in integers": (
        _set(LAYER + ".weight", torch.ones(6, 96, dtype=torch.int16)),
        ("int16",),
    ),
    "quanto": (_set("x.weight._data", torch.ones(6, dtype=torch.int8)), ("quanto", "layer x")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name, tmp_path):
    change, words = DAMAGE[name]
    tensors = scaled()
    change(tensors)

    def run():
        for one in packed_weights(tmp_path, tensors).values():
            one.load()

    refused(words, run)
