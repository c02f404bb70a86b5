"""DFloat11: bit-exact from streams of an encoder that restates the format; damage is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import VisionConfig
from inkstone.loaders.arch import key_maps
from inkstone.loaders.arch.expected_tensors import vision_layout
from inkstone.loaders.arch.header_view import HeaderView
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_text_encoder
from inkstone.loaders.models.vision import TowerOptions, tower_place
from inkstone.quant.dfloat11 import ORDER

from ..support.dfloat11_encoder import code_table, encode
from ..support.packed import check, opened, packed_weights, refused

BLOCK = "transformer_blocks.0"
MEMBERS = ORDER[r"transformer_blocks\.\d+"]


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=g) * 0.02).bfloat16()


def every_exponent(rows: int, columns: int) -> torch.Tensor:
    """Exponents 0 to 239 (the format has no others), signs and mantissas at random; zeros too."""
    g = torch.Generator().manual_seed(1)
    exponent = torch.arange(rows * columns) % 240
    rest = torch.randint(0, 256, (rows * columns,), generator=g)
    bits = (rest & 0x80) << 8 | exponent << 7 | rest & 0x7F
    bits[::7] = 0
    return bits.to(torch.int16).view(torch.bfloat16).view(rows, columns)


def one(weight: torch.Tensor, counts: dict[int, int] | None = None) -> dict[str, torch.Tensor]:
    """A file with one matrix in a stream of its own."""
    stream = encode([weight], counts)
    return {"a" + k: v for k, v in stream.items()} | {"a.bias": torch.zeros(len(weight))}


STEEP = {e: 2 ** (e - 100) for e in range(101, 130)}  # lengths 1 .. 29: codes over all four levels
CASES = {
    "normal": (normal(300, 256), None),
    "one row": (normal(1, 64), None),
    "every exponent": (every_exponent(64, 240), None),
    "only zeros": (torch.zeros(33, 32).bfloat16(), None),
    "two values": (torch.tensor([[1.0, 2.0] * 40] * 90).bfloat16(), None),
    "codes of 1 to 29 bits": (
        (torch.arange(101, 131).clamp_max(129).repeat(300) << 7)
        .to(torch.int16)
        .view(torch.bfloat16)
        .view(300, 30),
        STEEP,
    ),
    "the longest code alone": (torch.full((64, 64), 2.0**-26).bfloat16(), STEEP),
}


@pytest.mark.parametrize("case", CASES)
def test_exact(case, tmp_path):
    weight, counts = CASES[case]
    packed = packed_weights(tmp_path, one(weight, counts))["a.weight"]
    storage = packed.load()
    assert packed.shape == tuple(weight.shape) and packed.nbytes == storage.nbytes
    check(storage, weight.float())
    assert torch.equal(
        storage.dequantize(torch.bfloat16).view(torch.int16), weight.view(torch.int16)
    ), "bits, the sign of zero included"


def test_the_steep_tree_has_long_codes():
    assert max(bits for bits, _ in code_table(STEEP).values()) >= 29


def test_rows_alone_and_into_a_view(tmp_path):
    weight = normal(200, 512)
    storage = packed_weights(tmp_path, one(weight))["a.weight"].load()
    for start, count in ((0, 1), (199, 1), (37, 64), (5, 190)):
        got = storage.rows_into(start, torch.empty(count, 512))
        assert torch.equal(got, weight[start : start + count].float()), f"rows {start} + {count}"
    wide = torch.zeros(30, 600)
    storage.rows_into(10, wide[:, :512])
    assert torch.equal(wide[:, :512], weight[10:40].float()) and not wide[:, 512:].any()


def block(sizes: int = 48) -> tuple[dict, dict]:
    """A block whose 14 matrices share a stream, and the matrices by name."""
    weights = {
        name: normal(sizes + 4 * at, 64 + 8 * (at % 3), at) for at, name in enumerate(MEMBERS)
    }
    tensors = {BLOCK + k: v for k, v in encode(list(weights.values())).items()}
    tensors |= {f"{BLOCK}.{n}.bias": torch.zeros(len(w)) for n, w in weights.items()}
    return tensors, weights


CONFIG = {
    "dfloat11_config": {
        "version": "0.5.0",
        "threads_per_block": [512],
        "bytes_per_thread": 8,
        "pattern_dict": {k: list(v) for k, v in ORDER.items()},
    }
}


@pytest.mark.slow
@pytest.mark.parametrize("config", [None, CONFIG])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_block_shares_a_stream(config, prefix, tmp_path):
    tensors, weights = block()
    packed = packed_weights(tmp_path, tensors, config=config, prefix=prefix)
    assert set(packed) == {f"{BLOCK}.{n}.weight" for n in MEMBERS}
    stream_parts = {name for name in tensors if not name.endswith(".bias")}
    for name, weight in weights.items():
        one = packed[f"{BLOCK}.{name}.weight"]
        storage = one.load()
        assert set(one.parts) == stream_parts and one.nbytes == storage.nbytes
        check(storage, weight.float())


def test_matrices_without_bias_take_the_width_of_the_network(tmp_path):
    table = {"norm.weight": torch.ones(64), "layers.0.self_attn.q_proj.bias": torch.ones(32)}
    names = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    shapes = [(32, 64), (64, 40), (96, 64), (64, 96)]
    weights = [normal(*shape, seed) for seed, shape in enumerate(shapes)]
    table |= {"layers.0" + k: v for k, v in encode(weights).items()}
    table |= {"embed_tokens" + k: v for k, v in encode([normal(50, 64)]).items()}
    patterns = {r"model\.layers\.\d+": names, r"model\.embed_tokens": []}
    config = {"dfloat11_config": {"pattern_dict": patterns}}
    packed = packed_weights(tmp_path, table, config=config, prefix="model.")
    assert packed["embed_tokens.weight"].shape == (50, 64)
    for name, weight in zip(names, weights):
        check(packed[f"layers.0.{name}.weight"].load(), weight.float())


# --- text encoders

LANGUAGE = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


def text_encoders(folder: Path) -> tuple[Path, Path]:
    """The embedded text encoder in bfloat16, and as DFloat11 with the settings of its streams."""
    shutil.copytree(EMBEDDED_FOLDER / "text_encoder", folder / "plain")
    shutil.copytree(EMBEDDED_FOLDER / "tokenizer", folder / "tokenizer")
    file = folder / "plain" / "model.safetensors"
    with open_weights(file) as source:
        metadata = dict(source.metadata)
        plain = {n: source.read(n).bfloat16() for n in source.entries}
    save_safetensors(file, plain, metadata)
    shutil.copytree(folder / "plain", folder / "packed")
    start = next(n for n in plain if "layers.0.mlp.up_proj" in n).partition("layers.")[0]
    for layer in (f"{start}layers.0", f"{start}layers.1"):
        weights = [plain.pop(f"{layer}.{n}.weight") for n in LANGUAGE]
        plain |= {layer + k: v for k, v in encode(weights).items()}
    tokens = f"{start}embed_tokens"
    plain |= {tokens + k: v for k, v in encode([plain.pop(tokens + ".weight")]).items()}
    save_safetensors(folder / "packed" / "model.safetensors", plain, metadata)
    dots = start.replace(".", r"\.")
    order = {dots + r"layers\.\d+": LANGUAGE, dots + "embed_tokens": []}
    path = folder / "packed" / "config.json"
    config = json.loads(path.read_text()) | {"dfloat11_config": {"pattern_dict": order}}
    path.write_text(json.dumps(config))
    return folder / "plain", folder / "packed"


def test_a_text_encoder_draws_the_same_bits(tmp_path):
    plain, packed = (
        load_text_encoder(f, tokenizer=tmp_path / "tokenizer") for f in text_encoders(tmp_path)
    )
    gate = packed.network.layers[1].mlp.gate_proj
    assert gate.storage.format == "DFloat11"
    assert packed.weights.nbytes < plain.weights.nbytes
    prompt = 'a red circle and the word "INK"'
    a, b = plain.encode(prompt).states, packed.encode(prompt).states
    assert torch.equal(a, b), f"{(a - b).abs().max():.2e}"


def test_a_text_encoder_whose_streams_nobody_explains(tmp_path):
    """gate and up have one shape: their order must not be guessed."""
    _, packed = text_encoders(tmp_path)
    (packed / "config.json").unlink()
    words = r"nothing says which\. Put the publisher's config\.json"
    with pytest.raises(InkstoneError, match=words):
        load_text_encoder(packed)


def test_a_vision_tower_in_streams(tmp_path):
    numbers = VisionConfig(depth=2, width=80, ff=60, out=64)
    torch.manual_seed(5)
    plain = {n: torch.randn(s).bfloat16() * 0.1 for n, s in vision_layout(numbers).items()}
    names = ["attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    streams = dict(plain)
    for block in ("visual.blocks.0", "visual.blocks.1"):
        weights = [streams.pop(f"{block}.{n}.weight") for n in names]
        streams |= {block + k: v for k, v in encode(weights).items()}
    source = opened(tmp_path, streams)
    names_ = key_maps.KeyMap({n: n for n in source.entries})
    order = {"dfloat11_config": {"pattern_dict": {r"visual\.blocks\.\d+": names}}}
    want = TowerOptions(64, torch.float32, torch.device("cpu"))
    view = HeaderView(source.entries, source.metadata, order, source)
    tower = tower_place(source, view, names_, want).open()
    tower.weights.settle()
    tower.weights.fill()
    for name in names:
        for at in (0, 1):
            unpacked = tower.network.get_submodule(f"blocks.{at}.{name}").dequantize()
            assert torch.equal(unpacked, plain[f"visual.blocks.{at}.{name}.weight"].float()), name
    view = HeaderView(source.entries, source.metadata, {}, source)
    refused(("nothing says which",), lambda: tower_place(source, view, names_, want).open())


def test_only_the_bytes_of_a_matrix_are_read(tmp_path, monkeypatch):
    """The last of 14 matrices does not cost the whole stream."""
    from inkstone.loaders.formats.safetensors import SafetensorsFile

    tensors, weights = block(200)
    one = packed_weights(tmp_path, tensors)[f"{BLOCK}.{MEMBERS[-1]}.weight"]
    read, real = [], SafetensorsFile.read_bytes
    monkeypatch.setattr(
        SafetensorsFile,
        "read_bytes",
        lambda self, name, a, b: read.append(b - a) or real(self, name, a, b),
    )
    check(one.load(), weights[MEMBERS[-1]].float())
    whole = sum(t.nbytes for t in tensors.values())
    assert sum(read) < whole / 5, f"{sum(read)} of {whole} bytes"
