"""Every damaged GGUF file is a sentence: no crash, no hang, no large allocation."""

import os
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from inkstone.errors import InkstoneError
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.open import open_weights

from ..support import gguf_bytes as g
from ..support.gguf_bytes import (
    ARCH,
    DATA,
    KEYS,
    TENSORS,
    U32,
    U64,
    array,
    file,
    info,
    kv,
    number,
    text,
)

MOST = 100e6  # bytes that opening and reading may take at any moment
AGAIN = "ownload it again"
HUGE = 2**63

NAN = struct.pack("<e", float("nan")) + g.Q8_0_BLOCK[2:]
INF = struct.pack("<e", float("-inf")) + g.Q8_0_BLOCK[2:]
MXFP4 = 39


def one(*args, data: bytes = DATA, **more) -> bytes:
    """A file with one tensor."""
    return file(KEYS, [info(*args, **more)], data)


def orig_shape(*shape: int, kind: int = g.I32) -> bytes:
    packed = b"".join(struct.pack("<i", side) for side in shape)
    return array("comfy.gguf.orig_shape.b", kind, len(shape), packed)


BAD: dict[str, tuple[bytes, str, str]] = {
    # not a GGUF file
    "empty": (b"", "does not begin with GGUF", AGAIN),
    "three bytes": (b"GGU", "does not begin with GGUF", AGAIN),
    "zeros": (b"\0" * 200, "does not begin with GGUF", AGAIN),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9",
        "Git LFS pointer",
        "git lfs pull",
    ),
    "web page": (b"<!DOCTYPE html><html>" + b" " * 90, "a web page", "Log in"),
    "pickle": (b"\x80\x02}q\0" + b"\1" * 90, "a pickle", "publisher's .safetensors"),
    "zip": (b"PK\x03\x04" + b"\1" * 90, "a zip archive", "publisher's .safetensors"),
    "before GGUF": (b"tjgg\3\0\0\0" + b"\1" * 90, "from before GGUF", "Use a newer file"),
    # its first numbers
    "magic only": (b"GGUF", "ends inside its header: the version", AGAIN),
    "big endian": (file(head=struct.pack(">4sI", b"GGUF", 3)), "big endian", "little-endian"),
    "version 1": (file(head=struct.pack("<4sI", b"GGUF", 1)), "version 1", "Use a newer file"),
    "version 4": (file(head=struct.pack("<4sI", b"GGUF", 4)), "version 4", "Use a newer file"),
    "2^63 tensors": (file(counts=(HUGE, 4)), f"{HUGE} tensors", AGAIN),
    "2^63 keys": (file(counts=(2, HUGE)), f"{HUGE} keys", AGAIN),
    "2^64 - 1 of both": (file(counts=(2**64 - 1,) * 2), "tensors; at most", AGAIN),
    "65,537 tensors": (file(counts=(65_537, 0)) + b"\0" * 2_000_000, "at most 65536", AGAIN),
    "too many for the file": (file(counts=(1000, 4)), "its header counts 1000 tensors", AGAIN),
    "one key too many": (file(counts=(2, 5)), "", ""),
    "one tensor too many": (file(counts=(3, 4)), "", ""),
    "no tensors": (file(tensors=()), "it contains no tensors", "Use the file with the weights"),
    # keys and values
    "key of 2^63 bytes": (file([text("", HUGE)], counts=(2, 1)), f"has {HUGE} bytes", AGAIN),
    "key of 1025 bytes": (file([kv("k" * 1025, U32, b"\0" * 4)]), "1025 bytes, at most", AGAIN),
    "key of no bytes": (file([number("", 1)]), "expected printable", AGAIN),
    "key with a NUL": (file([number("a\0b", 1)]), "'a\\x00b', expected printable", AGAIN),
    "key not UTF-8": (file([kv(b"\xff\xfe", U32, b"\0" * 4)]), "not UTF-8 (byte 32)", AGAIN),
    "key twice": (file([*KEYS, number("n", 8)]), "key 'n' occurs twice", AGAIN),
    "array and value of one key": (file([*KEYS, array("n", U32, 0, b"")]), "occurs twice", AGAIN),
    "value of type 13": (file([kv("k", 13, b"\0" * 8)]), "unknown type 13", AGAIN),
    "value of 2^63 bytes": (
        file([kv("k", g.STRING, text("", HUGE))], counts=(2, 1)),
        f"{HUGE} bytes, at most",
        AGAIN,
    ),
    "value of 2 MiB": (file([kv("k", g.STRING, text("x" * 2**21))]), "at most 1048576", AGAIN),
    "value past the end": (
        file([kv("k", g.STRING, text("", 2**19))], counts=(2, 1)),
        "ends inside its header: the value of 'k'",
        AGAIN,
    ),
    "value not UTF-8": (file([kv("k", g.STRING, text(b"\xc3"))]), "not UTF-8 (byte 45)", AGAIN),
    "bool of 2": (file([kv("k", g.BOOL, b"\2")]), "true or false", AGAIN),
    "16 MiB of text": (
        file([kv(f"k{i}", g.STRING, text("x" * 2**20)) for i in range(16)]),
        "more than 8 MiB",
        AGAIN,
    ),
    "array of arrays": (
        file([array("k", g.ARRAY, 1, struct.pack("<IQ", 4, 0))]),
        "arrays inside",
        AGAIN,
    ),
    "array of type 99": (file([array("k", 99, 1, b"\0" * 8)]), "unknown type 99", AGAIN),
    "array of 2^63": (file([array("k", U64, HUGE, b"")]), f"{HUGE} elements", AGAIN),
    "strings 2^60": (file([array("k", g.STRING, 2**60, b"")]), f"{2**60} elements", AGAIN),
    "array of 17 Mi": (file([array("k", 0, 17 << 20, b"\0" * (17 << 20))]), "16777216 el", AGAIN),
    "header of 33 MiB": (file([array("k", U64, 33 << 17, b"\0" * (33 << 20))]), "32 MiB", AGAIN),
    "element of 2^62 bytes": (
        file([array("k", g.STRING, 2, text("", 2**62) + text("a"))]),
        "ends inside its header: the array 'k'",
        AGAIN,
    ),
    "alignment 0": (file([ARCH, number("general.alignment", 0)]), "is '0', expected a po", AGAIN),
    "alignment 48": (file([ARCH, number("general.alignment", 48)]), "expected a power of", AGAIN),
    "alignment 2^31": (file([number("general.alignment", 2**31)]), "power of two to 2^20", AGAIN),
    "alignment text": (file([kv("general.alignment", g.STRING, text("32²"))]), "'32", AGAIN),
    # tensors
    "name of 2^63 bytes": (file(KEYS, [text("", HUGE)], counts=(1, 4)), f"has {HUGE} bytes", AGAIN),
    "name not UTF-8": (one(b"\xff", (4,), 0, 0), "is not UTF-8", AGAIN),
    "name with a line break": (one("a\nb", (4,), 0, 0), "'a\\nb', expected printable", AGAIN),
    "name twice": (
        file(KEYS, [TENSORS[0], info("a.weight", (4,), 0, 160)]),
        "two tensors have the name 'a.weight'",
        AGAIN,
    ),
    "rank 5": (one("b", (1, 1, 1, 1, 4), 0, 0), "5 dimensions", AGAIN),
    "rank 2^32 - 1": (one("b", (4,), 0, 0, rank=2**32 - 1), "4294967295 dimensions", AGAIN),
    "side of 0": (one("b", (4, 0), 0, 0), "the shape [0, 4]: each side", AGAIN),
    "side of 2^63": (one("b", (HUGE,), 0, 0), f"[{HUGE}]: each side", AGAIN),
    "product overflows": (one("b", (2**32, 2**32), 0, 0), "more than 2^48", AGAIN),
    "product wraps to 0": (one("b", (2**40, 2**40), 0, 0), "more than 2^48", AGAIN),
    "larger than the file": (one("b", (2**40,), 0, 0), f"needs {4 << 40} bytes", AGAIN),
    "row of half a block": (one("a", (48, 2), 8, 0), "Q8_0 needs a multiple of 32", AGAIN),
    "type 4": (one("b", (32,), 4, 0), "Q4_2 was removed", "Q4_K_M or Q8_0"),
    "type 31": (one("b", (32,), 31, 0), "Q4_0_4_4 was removed", "Q4_K_M or Q8_0"),
    "type 36": (one("b", (32,), 36, 0), "IQ4_NL_4_4 was removed", "Q4_K_M or Q8_0"),
    "type 9": (one("b", (32,), 9, 0), "Q8_1 is a type of activations", "Q4_K_M or Q8_0"),
    "type 15": (one("b", (256,), 15, 0), "Q8_K is a type of activations", "Q4_K_M or Q8_0"),
    "type 1000": (one("b", (4,), 1000, 0), "is not known", "Q4_K_M or Q8_0"),
    "offset 2^63": (one("b", (4,), 0, HUGE), f"from byte {HUGE} of the data", AGAIN),
    "offset 2^64 - 32": (one("b", (4,), 0, 2**64 - 32), "from byte 18446744073709551584", AGAIN),
    "offset not aligned": (one("b", (4,), 0, 16), "not a multiple of 32", AGAIN),
    "overlap": (
        file(KEYS, [TENSORS[0], info("b", (4,), 0, 128)]),
        "tensor 'b' overlaps tensor 'a.weight'",
        AGAIN,
    ),
    "same place": (file(KEYS, [info(n, (4,), 0, 0) for n in "ab"]), "'b' overlaps tensor", AGAIN),
    "one inside another": (
        file(KEYS, [info("a", (64,), 0, 0), info("b", (4,), 0, 64)], b"\0" * 256),
        "'b' overlaps tensor 'a'",
        AGAIN,
    ),
    "last tensor cut": (file()[:-1], "the file has", AGAIN),
    "no data": (file(data=b""), "the file has", AGAIN),
    "true shape of another size": (file([*KEYS, orig_shape(2, 3)]), "is [2, 3], but", AGAIN),
    "true shape negative": (file([*KEYS, orig_shape(-2, -2)]), "is [-2, -2], but", AGAIN),
    "true shape of rank 9": (file([*KEYS, orig_shape(*[1] * 8, 4)]), "at most 8 integers", AGAIN),
    "true shape in floats": (file([*KEYS, orig_shape(4, kind=g.F32)]), "8 integers", AGAIN),
    # parts
    "a part by another name": (
        file([*KEYS, number("split.count", 3, "H", 2)]),
        "one of 3 parts",
        "publisher's names",
    ),
    "2^16 parts": (file([*KEYS, number("split.count", 65535, "H", 2)]), "at most 1024", AGAIN),
    "parts in words": (
        file([*KEYS, kv("split.count", g.STRING, text("two"))]),
        "split.count is 'two'",
        AGAIN,
    ),
    # what is in the blocks
    "scale NaN": (file(data=NAN + DATA[34:]), "a.weight (Q8_0): block 0 has a scale", AGAIN),
    "scale inf": (file(data=DATA[:68] + INF + DATA[102:]), "block 2 has a scale", AGAIN),
    "exponent NaN": (
        one("m", (64,), MXFP4, 0, data=b"\x7f" + b"\1" * 16 + b"\xff" + b"\1" * 16),
        "m (MXFP4): block 1 has a scale",
        AGAIN,
    ),
    "array cut in UTF-8": (
        file([array("tokenizer.ggml.tokens", g.STRING, 1, text(b"\xe2"))]),
        "element 0 is not UTF-8",
        AGAIN,
    ),
}
ANY = ("one key too many", "one tensor too many")  # what they run into is chance


def use(path: Path) -> None:
    """All that a loader does with a file."""
    with open_weights(path) as opened:
        for name in opened.entries:
            opened.read(name)
            opened.raw(name)
        for name in opened.arrays:
            opened.kv_array(name)


def measured(path: Path) -> int:
    """`use` under a count of allocated bytes: the highest amount, which must be small."""
    tracemalloc.start()
    try:
        use(path)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < MOST, f"{most / 1e6:.0f} MB for a file of {path.stat().st_size}"
    return most


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.gguf"


def test_the_sound_file_is_sound(path):
    path.write_bytes(file())
    measured(path)


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_with_a_message(path, case):
    data, thing, remedy = BAD[case]
    path.write_bytes(data)
    with pytest.raises(InkstoneError) as caught:
        measured(path)
    message = str(caught.value)
    assert thing in message and remedy in message and str(path) in message, message
    assert len(message) < 600 and message.endswith((".", '"')), message
    path.unlink()  # nothing keeps it open


def test_there_are_enough_of_them():
    assert len(BAD) >= 60
    assert all(thing and remedy for name, (_, thing, remedy) in BAD.items() if name not in ANY)


@pytest.mark.parametrize("case", ["LFS pointer", "web page", "pickle", "zip"])
def test_other_things_named_gguf_are_reported_by_inspect(path, case):
    data, thing, _ = BAD[case]
    path.write_bytes(data)
    facts = identify(path)
    assert thing in facts.sentence and facts.role == "unknown"
    with pytest.raises(InkstoneError, match="expected a diffusion model"):
        require(facts, "diffusion_model")


def test_every_truncation_is_an_error(path):
    whole = file()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InkstoneError):
            GGUFFile(path)


@pytest.mark.slow
def test_bit_flips_of_the_header_is_read_or_refused_with_a_message(path):
    whole, refused = file(), 0
    for at in range(g.header_length()):
        for bit in (0, 3, 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                use(path)
            except InkstoneError as error:
                refused += 1
                assert str(path) in str(error)
    assert refused > g.header_length(), f"only {refused} flips are seen"


def test_random_headers_are_read_or_refused(path):
    rng, whole = random.Random(5), file()
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(4, g.header_length() - 8)
            value = rng.choice((0, 1, 255, 2**31, 2**32 - 1, 2**40, HUGE, 2**64 - 1))
            changed[at : at + 8] = struct.pack("<Q", value)
        path.write_bytes(changed)
        try:
            use(path)
        except InkstoneError as error:
            assert str(path) in str(error)


@pytest.mark.slow
def test_a_wide_header_stays_below_the_limit(path):
    """The worst that passes all limits: a long header, 65,536 tensors, wide characters.

    Measured with fewer tensors (counting allocations is slow) and extended by what each adds.
    """
    keys = [
        array("k", 0, 16 << 20, b"\0" * (16 << 20)),
        *(kv(f"v{i}", g.STRING, text("😀" + "x" * (2**20 - 5))) for i in range(3)),
    ]
    sizes, peak = [], 0
    for count in (1024, 4096):
        tensors = [info(f"t{i:05}.{'y' * 50}", (1,), 0, 32 * i) for i in range(count)]
        path.write_bytes(file(keys, tensors, b"") + b"\0" * 32 * count)
        tracemalloc.start()
        with GGUFFile(path):
            now, peak = tracemalloc.get_traced_memory()
            sizes.append(now)
        tracemalloc.stop()
    most = peak + (65_536 - 4096) * (sizes[1] - sizes[0]) / 3072
    print(f"the widest header takes {most / 1e6:.0f} MB")
    assert 30e6 < most < MOST, f"{most / 1e6:.0f} MB"


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be changed there")
def test_a_file_that_changes_while_it_is_open(path):
    path.write_bytes(file())
    with GGUFFile(path) as opened:
        with open(path, "r+b") as other:
            other.truncate(g.header_length() + 40)
        for read in (opened.read, opened.raw):
            with pytest.raises(InkstoneError, match="changed on disk.*Load the model again"):
                read("a.weight")
    with pytest.raises(InkstoneError, match="model.gguf"):
        opened.read("a.weight")  # closed
