"""Files of Qwen3-VL, the text encoder of Qwen-Image-2.1: layouts, names, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import QWEN3_VL_TEXT, QWEN3_VL_VISION, DeepVisionConfig, TextConfig
from inkstone.kernels.text_encoder import TextEncoder
from inkstone.loaders.arch import key_maps_gguf
from inkstone.loaders.arch.expected_tensors import Layout, text_layout, vision_layout
from inkstone.loaders.arch.key_maps import text_names
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions

from ..support import tiny
from ..support.headers import facts, renamed

# sizes of the published model, not of our defaults
TEXT = TextConfig(36, 4096, 32, 8, 128, 12288, 151936, bias=False, qk_norm=True)
VISION = DeepVisionConfig(27, 1152, 16, 4304, out=4096, places=2304, taps=(8, 16, 24))


def published(text: TextConfig = TEXT, vision: DeepVisionConfig = VISION):
    from ..support.vision_deep import their_config, transformers

    with torch.device("meta"):
        net = transformers.Qwen3VLForConditionalGeneration(their_config(text, vision))
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def test_layout_is_the_reference():
    file = published()
    names = text_names(file)
    assert {ours: file[n] for ours, n in names.table.items()} == text_layout(TEXT, VISION)
    assert names.unused == ("lm_head.weight",) and not names.others
    info = facts(file)
    assert (info.role, info.family, info.variant, info.layout) == (
        "text_encoder",
        "qwen3-vl",
        "8B, with vision",
        "transformers",
    )
    assert not (info.problem or info.missing or info.unexpected)
    assert info.sentence == (
        "Qwen3-VL text encoder, 8B, with vision, 36 layers, 8.14 B parameters, bf16"
    )


def test_counts_of_the_published_model():
    layout = text_layout(TEXT, VISION, lm_head=True)
    assert (len(layout), sum(map(math.prod, layout.values()))) == (750, 8_767_123_696)
    tower = vision_layout(VISION)
    assert sum(map(math.prod, tower.values())) == 576_388_336
    with torch.device("meta"):
        network = TextEncoder(QWEN3_VL_TEXT)
    ours = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert ours == text_layout(QWEN3_VL_TEXT) == text_layout(TEXT)
    assert vision_layout(QWEN3_VL_VISION) == tower


def single(text: TextConfig = TEXT, vision: DeepVisionConfig | None = VISION) -> Layout:
    """ComfyUI's file."""
    ours = text_layout(text, vision)
    return {n if n.startswith("visual.") else f"model.{n}": shape for n, shape in ours.items()}


@pytest.mark.parametrize("prefix", ["", "text_encoders.qwen3vl_8b.transformer."])
def test_single_files(prefix):
    info = facts(renamed(single(), prefix) | {prefix + "lm_head.weight": (151936, 4096)})
    assert (info.family, info.variant, info.problem) == ("qwen3-vl", "8B, with vision", "")
    assert info.config["heads"] == 32 and info.config["kv_heads"] == 8


SMALLER = dict(width=1024, depth=24, ff=4096)
REFUSED = {
    "4B": (
        single(replace(TEXT, width=2560, ff=9728), replace(VISION, out=2560, **SMALLER)),
        "it is Qwen3-VL-4B, Qwen-Image-2.1 needs the 8B",
    ),
    "2B": (
        single(
            replace(TEXT, layers=28, width=2048, heads=16, ff=6144),
            replace(VISION, out=2048, **SMALLER),
        ),
        "it is Qwen3-VL-2B, Qwen-Image-2.1 needs the 8B",
    ),
    "32B": (
        single(replace(TEXT, layers=64, width=5120, heads=64, ff=25600), replace(VISION, out=5120)),
        "it is Qwen3-VL-32B, Qwen-Image-2.1 needs the 8B",
    ),
    "language model alone": (
        single(vision=None),
        "it is a language model of Qwen3 without the eyes of Qwen3-VL, Qwen-Image needs "
        "Qwen2.5-VL-7B, Qwen-Image-2.1 needs Qwen3-VL-8B",
    ),
    "no DeepStack": (single(vision=replace(VISION, taps=())), "without the eyes of Qwen3-VL"),
    "damaged": (
        {n: s for n, s in single().items() if "deepstack_merger_list.1.norm" not in n},
        "2 tensors are missing (visual.deepstack_merger_list.1.norm.weight, ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    shapes, words = REFUSED[name]
    info = facts(shapes)
    assert info.role == "text_encoder" and words in info.problem


def test_gguf_by_its_architecture():
    """The language model has the tensors of Qwen3-8B: only the header tells them apart."""
    ours, file = text_layout(TEXT, lm_head=True), _gguf_names(TEXT)
    names = text_names(file)
    assert names.table == {n: t for t, n in file.items() if not n.startswith("lm_head")}
    assert names.unused == ("output.weight",) and not names.others
    shapes = {theirs: ours[n] for theirs, n in file.items()}
    info = facts(shapes, metadata={"general.architecture": "qwen3vl"})
    assert (info.family, info.variant) == ("qwen3-vl", "8B, vision in an mmproj file")
    assert not info.problem
    info = facts(shapes, metadata={"general.architecture": "qwen3"})
    assert "without the eyes of Qwen3-VL" in info.problem


@pytest.mark.parametrize("published", [True, False])
def test_a_gguf_made_for_drawing_writes_no_text(published, tmp_path):
    """`quantize` leaves the head out; that of published sizes is not the table of embeddings."""
    width = 4096 if published else 256
    text = replace(TEXT, layers=1, width=width, heads=2, kv_heads=1, ff=64, vocab=300)
    torch.manual_seed(1)
    tensors = {n: torch.randn(s) * 0.02 for n, s in text_layout(text).items()}
    out = tmp_path / "e.gguf"
    writer = pytest.importorskip("gguf").GGUFWriter(out, "qwen3vl")
    names = {theirs: ours for theirs, ours in _gguf_names(text).items() if ours in tensors}
    for theirs, ours in names.items():
        writer.add_tensor(theirs, tensors[ours].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tiny.tokenizer().save_pretrained(tmp_path / "words")
    model = load_text_encoder(out, LoadOptions(torch.float32), tokenizer=tmp_path / "words")
    if not published:
        assert model.head.open().format == "the table of embeddings"
        return
    with pytest.raises(InkstoneError, match="can encode prompts, but not write text"):
        model.head.open()


def _gguf_names(text: TextConfig) -> dict[str, str]:
    """llama.cpp's names, by the tables of its package, and ours."""
    gguf = pytest.importorskip("gguf")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3VL, text.layers)
    return {
        table.get_name(n if n.startswith("lm_head") else f"model.{n}", (".weight", ".bias")): n
        for n in text_layout(text, lm_head=True)
    }


def mmproj(vision: DeepVisionConfig = VISION) -> Layout:
    """Names and shapes of the vision tower as llama.cpp's converter writes it."""
    theirs = {
        "patch_embed.proj.bias": "v.patch_embd.bias",
        "pos_embed": "v.position_embd",
        "merger.norm": "v.post_ln",
        "merger.linear_fc1": "mm.0",
        "merger.linear_fc2": "mm.2",
    }
    block = {"norm1": "ln1", "norm2": "ln2", "attn.qkv": "attn_qkv", "attn.proj": "attn_out"}
    block |= {"mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down"}
    for n in range(vision.depth):
        theirs |= {f"blocks.{n}.{ours}": f"v.blk.{n}.{name}" for ours, name in block.items()}
    for level, n in enumerate(vision.taps):
        parts = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
        theirs |= {
            f"deepstack_merger_list.{level}.{ours}": f"v.deepstack.{n}.{name}"
            for ours, name in parts.items()
        }
    file: Layout = {}
    for ours, shape in vision_layout(vision).items():
        bare = ours.removeprefix("visual.")
        stem, _, leaf = bare.rpartition(".")
        if bare == "patch_embed.proj.weight":
            both = (*shape[:2], *shape[3:])
            file |= {"v.patch_embd.weight": both, "v.patch_embd.weight.1": both}
        else:
            file[theirs[bare] if bare in theirs else f"{theirs[stem]}.{leaf}"] = shape
    return file


def test_mmproj():
    file = mmproj()
    table, strange = key_maps_gguf.vision_parts(file)
    assert not strange and key_maps_gguf.tapped_blocks(file) == (8, 16, 24)
    assert key_maps_gguf.joined_shapes(file, table) == vision_layout(VISION)
    names = table["visual.deepstack_merger_list.2.linear_fc1.weight"].names
    assert names == ("v.deepstack.24.fc1.weight",)
    info = facts(file, metadata={"general.architecture": "clip"})
    assert (info.role, info.family, info.problem) == ("vision", "qwen3-vl", "")
    assert info.variant == "for text encoders of width 4096"
    other = facts(mmproj(replace(VISION, taps=())), metadata={"general.architecture": "clip"})
    assert "Qwen-Image-2.1 needs that of Qwen3-VL-8B" in other.problem
