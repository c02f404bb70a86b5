"""Damaged DFloat11 files: every one is refused with the tensor and the problem."""

from __future__ import annotations

import pytest
import torch

from inkstone.quant import huffman

from ..support.packed import packed_weights, refused
from .test_formats_dfloat11 import BLOCK, CONFIG, block, normal, one


def _put(name, change):
    def run(t):
        t[name] = change(t[name])

    return run


def _drop(name):
    return lambda t: t.pop(name)


def _set(at, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[at] = value
        return tensor

    return change


def _flip(tensor):
    tensor = tensor.clone()
    tensor[5000:5064] ^= 0xFF
    return tensor


DAMAGE = {
    "no tables": (_drop("a.luts"), ("a.luts is missing",)),
    "no gaps": (_drop("a.gaps"), ("a.gaps is missing",)),
    "no signs": (_drop("a.sign_mantissa"), ("a.sign_mantissa is missing",)),
    "stream cut": (_put("a.encoded_exponent", lambda t: t[:4096]), ("is truncated or of another",)),
    "stream empty": (_put("a.encoded_exponent", lambda t: t[:0]), ("is truncated or of another",)),
    "stream cut a little": (_put("a.encoded_exponent", lambda t: t[:-100]), ("numbers, expected",)),
    "signs cut": (_put("a.sign_mantissa", lambda t: t[:-5]), ("elements, expected 0 ..",)),
    "gaps cut": (_put("a.gaps", lambda t: t[:-200]), ("a.gaps has",)),
    "positions cut": (_put("a.output_positions", lambda t: t[:-4]), ("a.output_positions has",)),
    "positions fall": (_put("a.output_positions", _set(slice(8, 12), 0)), ("not increase",)),
    "positions jump": (_put("a.output_positions", _set(7, 255)), ("not increase",)),
    "positions off": (_put("a.output_positions", _set(4, 0)), ("numbers, expected",)),
    "tables in floats": (_put("a.luts", lambda t: t.float()), ("holds float32",)),
    "tables of another width": (_put("a.luts", lambda t: t[:, :128]), ("[2 to 18, 256]",)),
    "tables point outside": (_put("a.luts", _set((0, 3), 241)), ("pointer to row 15",)),
    "a length of 0": (_put("a.luts", _set((-1, slice(None)), 0)), ("0 bits", "Huffman")),
    "a length of 77": (_put("a.luts", _set((-1, slice(None)), 77)), ("77 bits",)),
    "other lengths": (_put("a.luts", _set((-1, slice(None)), 9)), ("numbers, expected",)),
    "pointers in a circle": (_put("a.luts", _set(slice(0, -1), 255)), ("no symbol",)),
    "gaps of another stream": (
        _put("a.gaps", lambda t: torch.full_like(t, 0xFF)),
        ("numbers, expected",),
    ),
    "bits flipped": (_put("a.encoded_exponent", _flip), ("numbers, expected", "layer a")),
    "no shape": (_drop("a.bias"), ("gives the shape",)),
    "bias of another length": (_put("a.bias", lambda t: t[:-1]), ("make a matrix with 299 rows",)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name, tmp_path):
    change, words = DAMAGE[name]
    tensors = one(normal(300, 256))
    change(tensors)
    refused(words, lambda: packed_weights(tmp_path, tensors)["a.weight"].load().dequantize())


def _with(**changes):
    return {"dfloat11_config": {**CONFIG["dfloat11_config"], **changes}}


BLOCK_DAMAGE = {
    "no split": (_drop(BLOCK + ".split_positions"), None, ("split_positions is missing",)),
    "split too short": (
        _put(BLOCK + ".split_positions", lambda t: t[1:]),
        None,
        ("into 14 matrices",),
    ),
    "split falls": (_put(BLOCK + ".split_positions", _set(3, 0)), None, ("into 14 matrices",)),
    "split elsewhere": (
        _put(BLOCK + ".split_positions", _set(0, 100)),
        None,
        ("do not make a matrix with",),
    ),
    "other threads": (lambda t: None, _with(threads_per_block=[256]), ("expected", "512")),
    "other order": (lambda t: None, _with(pattern_dict={"a": "b"}), ("object of lists of names",)),
    "unknown order": (lambda t: None, _with(pattern_dict={}), ("nothing says which",)),
    "a pattern that runs away": (
        lambda t: None,
        _with(pattern_dict={"(a+)+b": []}),
        ("'(a+)+b'", "not supported"),
    ),
    "no settings": (lambda t: None, {"dfloat11_config": 3}, ("is int, expected an object",)),
}


@pytest.mark.parametrize("name", BLOCK_DAMAGE)
def test_damaged_blocks_are_refused(name, tmp_path):
    change, config, words = BLOCK_DAMAGE[name]
    tensors, _ = block(32)
    change(tensors)
    refused(words, lambda: packed_weights(tmp_path, tensors, config=config))


def test_tables_that_loop_end():
    """Random tables that pass the check: decoding ends, whatever it gives."""
    g = torch.Generator().manual_seed(3)
    for _ in range(6):
        luts = torch.randint(0, 256, (18, 256), generator=g, dtype=torch.uint8)
        luts[-1] = torch.randint(1, 33, (256,), generator=g)
        assert huffman.fault(luts) == ""
        stream = torch.randint(0, 256, (808,), generator=g, dtype=torch.uint8)
        tables = huffman.tables(bytes(luts.flatten().tolist()), torch.device("cpu"))
        exponents, counts = huffman.decode(stream, torch.zeros(100), tables)
        assert len(exponents) == counts.sum()
