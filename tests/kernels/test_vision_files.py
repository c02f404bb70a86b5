"""Files with a vision tower: both layouts of names, GGUF with an mmproj file, damaged ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import VisionConfig
from inkstone.kernels.vision import VisionTower
from inkstone.loaders.arch.expected_tensors import vision_layout
from inkstone.loaders.arch.family import EDIT, EDIT_PLUS
from inkstone.loaders.arch.header_view import HeaderView
from inkstone.loaders.arch.key_maps import KeyMap
from inkstone.loaders.arch.vision_config import vision_config
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.image_processor import rgb_bytes, tower_pixels
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.vision import TowerOptions, _settings, open_tower
from inkstone.loaders.models.vision_gguf import VisionFile
from inkstone.loaders.models.weight_file import weight_file
from inkstone.sampling.vision_sizes import vision_patches

from ..support import tiny
from ..support.oracle import measured
from ..support.vision import image, random_qwen, save_encoder


@pytest.fixture(scope="module")
def encoder():
    return random_qwen()


@pytest.fixture(scope="module")
def ours(encoder, tmp_path_factory):
    return load_text_encoder(save_encoder(encoder, tmp_path_factory.mktemp("qwen")))


def old_layout(name: str) -> str:
    """Names of the first Qwen2.5-VL files."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def new_layout(name: str) -> str:
    """Names of the modules of transformers 5."""
    if name.startswith("visual."):
        return f"model.{name}"
    inner = name.startswith("model.") and not name.startswith(("model.visual.", "model.language_"))
    return name.replace("model.", "model.language_model.", 1) if inner else name


@pytest.mark.parametrize("rename", [old_layout, new_layout])
def test_both_layouts(encoder, ours, tmp_path, rename):
    folder = save_encoder(encoder, tmp_path, rename)
    with open_weights(folder / "text_encoder" / "model.safetensors") as file:
        start = "visual." if rename is old_layout else "model.visual."
        assert any(name.startswith(start) for name in file.entries)
    _, picture = image(90, 61)
    got = load_text_encoder(folder).encode_edit("a", [picture], EDIT_PLUS).states
    assert torch.equal(got, ours.encode_edit("a", [picture], EDIT_PLUS).states)


def test_tower_of_a_gguf_encoder(tmp_path):
    """An mmproj file beside it, one matrix packed."""
    gguf = pytest.importorskip("gguf")
    from ..loaders.test_gguf_text import encoder, random_tensors, tower

    numbers = VisionConfig(depth=2, width=80, ff=60, out=256)
    near = encoder(tmp_path / "Qwen2.5-VL-7B-Q8_0.gguf", gguf.GGMLQuantizationType.Q8_0)
    kinds = {"mm.0.weight": gguf.GGMLQuantizationType.Q8_0}
    tower(tmp_path / "mmproj.gguf", kinds, numbers)
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = load_text_encoder(near)
    plain = VisionTower(VisionConfig(2, 80, 1, 60, out=256, full=()))
    shapes = vision_layout(numbers)
    tensors = {n.removeprefix("visual."): t for n, t in random_tensors(shapes).items()}
    _, picture = image(90, 61)
    found = model.vision.open()
    got = found.encode(picture, EDIT_PLUS.area).rows
    assert found.network.merger.mlp[0].storage.format == "Q8_0"
    tensors["merger.mlp.0.weight"] = found.network.merger.mlp[0].dequantize()
    plain.load_state_dict(tensors)
    pixels = tower_pixels(rgb_bytes(picture), EDIT_PLUS.area)
    with torch.no_grad():
        want = plain(vision_patches(pixels, 14, 2), (pixels.shape[1] // 14, pixels.shape[2] // 14))
    error = measured(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert model.encode_edit("a", [picture], EDIT_PLUS).states.shape[2] == 256


def test_a_missing_tower_is_reported_only_by_an_edit(encoder, tmp_path):
    folder = save_encoder(encoder, tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    with open_weights(path) as file:
        kept = {n: file.read(n).clone() for n in file.entries if "visual." not in n}
    save_safetensors(path, kept, None)
    model = load_text_encoder(folder)
    assert model.encode("a cat").states.shape[0] == 1
    with pytest.raises(InkstoneError, match="vision tower is missing.*qwen_2.5_vl_7b.safetensors"):
        model.encode_edit("a", [torch.rand(30, 30, 3)], EDIT)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, at: t.pop(at + "blocks.1.attn.qkv.bias"),
        lambda t, at: t.update({at + "blocks.1.attn.qkv.bias": torch.ones(3)}),
        lambda t, at: t.update({at + "blocks.1.attn.qkv.bias_2": torch.ones(3)}),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_a_damaged_tower_is_reported_at_load(encoder, tmp_path, change):
    folder = save_encoder(encoder, tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    with open_weights(path) as file:
        tensors = {n: file.read(n).clone() for n in file.entries}
    start = next(n for n in tensors if "visual." in n).partition("visual.")[0] + "visual."
    change(tensors, start)
    save_safetensors(path, tensors, None)
    with pytest.raises(InkstoneError, match="blocks.1.attn.qkv.bias"):
        load_text_encoder(folder)


def test_a_damaged_mmproj_is_reported_by_an_edit(tmp_path):
    pytest.importorskip("gguf")
    from ..loaders.test_gguf_text import tower

    numbers = VisionConfig(depth=2, width=80, ff=60, out=256)
    with VisionFile(tower(tmp_path / "mmproj.gguf", vision=numbers)) as file:
        whole = {name: name for name in file.entries}
        want = TowerOptions(256, torch.float32, torch.device("cpu"))
        view = HeaderView(file.entries, file.metadata, {}, file)

        def opened(table, settings, options=want):
            return open_tower(weight_file(file, view, KeyMap(table)), settings, options)

        assert opened(whole, {}).network.config.heads == 1
        some = {n: n for n in whole if n != "visual.blocks.0.norm2.weight"}
        for table, settings, words in (
            (some, {}, "1 tensors do not fit.*norm2.weight has shape nothing, expected .80."),
            ({n: n for n in whole if "patch" not in n}, {}, "cannot be built"),
            (whole, {"num_heads": 3}, "3 heads"),
            (whole, {"num_heads": "many"}, "'many' heads"),
            (whole, {"window_size": 14}, "windows of 14"),
            (whole, {"fullatt_block_indexes": 5}, "full blocks 5"),
        ):
            with pytest.raises(InkstoneError, match=words):
                opened(table, settings)
        with pytest.raises(InkstoneError, match="of width 256, this one has 3584"):
            opened(whole, {}, dataclasses.replace(want, width=3584))


def test_settings_of_an_mmproj_header():
    values = _settings({"clip.vision.attention.head_count": "16", "clip.vision.n_wa_pattern": "8"})
    assert vision_config(vision_layout(VisionConfig()), values, "f") == VisionConfig()
    other = vision_config(vision_layout(VisionConfig()), {"num_heads": 20, "period": 4}, "f")
    assert other.heads == 20 and other.full == (3, 7, 11, 15, 19, 23, 27, 31)
    assert _settings({"clip.vision.n_wa_pattern": "0"}) == {}
