"""Models from GGUF files give what the same weights give from a folder."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.host.headless import HeadlessHost, using
from inkstone.host.model_folders import model_files
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.forward import Inputs
from inkstone.loaders.arch import expected_tensors, key_maps
from inkstone.loaders.arch.identify import identify, require
from inkstone.loaders.arch.key_maps import text_names
from inkstone.loaders.formats.gguf import GGUFFile
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import SafetensorsFile, save_safetensors
from inkstone.loaders.models import tokenizer as tokenizer_module
from inkstone.loaders.models.load import load_diffusion_model, load_text_encoder, load_vae
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.quant.gguf_storage import find_gguf

from ..support import tiny
from ..support.gguf_files import finish
from ..support.oracle import measured

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType
PROMPT = "a red cat on a mat"
TINY = MMDiTConfig(layers=2, heads=2, head_dim=128, channels=64, joint=256, ff=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(4)
    place = tmp_path_factory.mktemp("tiny") / "model"
    return tiny.save(tiny.pipeline("heads as published"), place)


def converted(source: Path, to: Path, arch: str, kinds: tuple, names=None, **values) -> Path:
    """A weight file as GGUF, matrices in turn in `kinds`; next to it the same weights as floats."""
    writer, floats = gguf.GGUFWriter(to, arch), {}
    for key, add in values.items():
        getattr(writer, f"add_{key}")(*add)
    with open_weights(source) as file:
        for number, (name, entry) in enumerate(file.entries.items()):
            weight, kind = file.read(name, dtype=torch.float32), kinds[number % len(kinds)]
            short = len(entry.shape) != 2 or entry.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]
            kind = Q.F32 if short or "img_in" in name else kind
            raw = gguf.quants.quantize(weight.numpy(), kind)
            floats[name] = torch.from_numpy(gguf.quants.dequantize(raw, kind)).view(entry.shape)
            theirs = names(name) if names else name
            if theirs:
                writer.add_tensor(theirs, raw, raw_dtype=kind)
    finish(writer)
    save_safetensors(to.with_suffix(".safetensors"), floats)
    return to


def test_a_diffusion_model(folder, tmp_path, caplog):
    kinds = (Q.Q8_0, Q.Q5_1, Q.Q4_0)
    path = converted(folder / "transformer", tmp_path / "m.gguf", "qwen_image", kinds)
    caplog.set_level(logging.INFO)
    ours, plain = (
        load_diffusion_model(p, LoadOptions(torch.float32))
        for p in (path, path.with_suffix(".safetensors"))
    )
    assert "Q8_0" in ours.weights_format and "Q4_0" in ours.weights_format
    torch.manual_seed(0)
    c = ours.network.config
    start, text = torch.randn(1, 20, c.channels), torch.randn(1, 7, c.joint)
    with torch.inference_mode():
        got, want = (
            model.network(Inputs(start, text, model.modulation(torch.tensor([0.4])), [(1, 4, 5)]))
            for model in (ours, plain)
        )
    error = measured(got, want)
    print(f"GGUF against the same floats: relative {error:.1e}")
    assert error < 1e-5, f"relative {error:.1e}"


GGUF_NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 4)


def to_gguf_name(name: str) -> str | None:
    if "visual." in name:
        return None
    plain = name.replace("language_model.", "")
    return GGUF_NAMES.get_name(plain, (".weight", ".bias"))


def vocabulary(folder: Path) -> dict:
    from transformers import Qwen2Tokenizer

    reference = Qwen2Tokenizer.from_pretrained(folder / "tokenizer")
    vocab = reference.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    kinds = [3 if vocab[t] in reference.added_tokens_decoder else 1 for t in tokens]
    return dict(
        tokenizer_model=("gpt2",),
        tokenizer_pre=("qwen2",),
        token_list=(tokens,),
        token_types=(kinds,),
        token_merges=(["ÿ ÿ"],),
    )


def test_a_text_encoder_with_its_own_tokenizer(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_comfyui_folders", lambda near: [])
    values = vocabulary(folder)
    values["token_list"][0].append("ÿÿ")  # of bytes that no text has
    values["token_types"][0].append(1)
    path = converted(
        folder / "text_encoder",
        tmp_path / "e.gguf",
        "qwen2vl",
        (Q.Q8_0, Q.Q5_0),
        to_gguf_name,
        **values,
    )
    with open_weights(path) as file:
        assert not text_names(file.entries).others
    caplog.set_level(logging.INFO)
    ours = load_text_encoder(path, LoadOptions(torch.float32))
    assert "an edit needs mmproj-e.gguf" in caplog.text and "Q8_0" in caplog.text
    plain = load_text_encoder(
        path.with_suffix(".safetensors"), LoadOptions(torch.float32), tokenizer=folder / "tokenizer"
    )
    error = measured(ours.encode(PROMPT).states, plain.encode(PROMPT).states)
    print(f"GGUF against the same floats: relative {error:.1e}")
    assert error < 1e-5, f"relative {error:.1e}"


def test_a_vae_with_kernels_of_rank_five(folder, tmp_path):
    """GGUF has four dimensions: the shape of larger kernels is a value of the header."""
    to, writer = tmp_path / "v.gguf", gguf.GGUFWriter(tmp_path / "v.gguf", "pig")
    with open_weights(folder / "vae") as file:
        for name, entry in file.entries.items():
            weight = file.read(name, dtype=torch.float32)
            if weight.dim() > 4:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(entry.shape))
                weight = weight.reshape(-1, weight.shape[-1])
            writer.add_tensor(name, np.ascontiguousarray(weight.numpy().astype(np.float16)))
    finish(writer)
    latent = torch.randn(1, 16, 1, 4, 4)
    got, want = load_vae(to).decode(latent), load_vae(folder).decode(latent)
    error = measured(got, want)
    print(f"VAE in f16: relative {error:.1e}")
    assert error < 0.02, f"relative {error:.1e}"


def test_a_damaged_block_is_reported_when_it_is_loaded(folder, tmp_path):
    path = converted(folder / "transformer", tmp_path / "m.gguf", "qwen_image", (Q.Q8_0,))
    name = "transformer_blocks.1.img_mlp.net.0.proj.weight"
    with open_weights(path) as file:
        at = file.entries[name].begin + 34 * 5
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\x00\x7e")
    with pytest.raises(InkstoneError, match=f"{name} .Q8_0.: block 5 has a scale that is no"):
        load_diffusion_model(path, LoadOptions(torch.float32))


# --- recognized by content


def model(path: Path, arch: str, prefix: str = "", config=TINY) -> dict[str, torch.Tensor]:
    """A diffusion model as the usual converters write it; its float weights by our names."""
    torch.manual_seed(2)
    writer, reference = gguf.GGUFWriter(path, arch), {}
    for number, (name, shape) in enumerate(expected_tensors.mmdit_layout(config).items()):
        weight = torch.randn(shape) * 0.05
        keep = len(shape) == 1 or not name.startswith("transformer_blocks.")
        kind = Q.F32 if keep else Q.Q8_0 if number % 3 else Q.Q5_1
        raw = gguf.quants.quantize(weight.numpy(), kind)
        writer.add_tensor(prefix + name, raw, raw_dtype=kind)
        reference[name] = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    finish(writer)
    return reference


@pytest.mark.parametrize(
    ("arch", "prefix"),
    [
        ("qwen_image", ""),
        ("pig", ""),
        ("cow", "model.diffusion_model."),
        ("", ""),
        ("", "model.diffusion_model."),
    ],
)
def test_a_diffusion_model_is_detected_by_its_names(tmp_path, arch, prefix):
    model(tmp_path / "m.gguf", arch, prefix)
    facts = identify(tmp_path / "m.gguf")
    assert not facts.problem and facts.role == "diffusion_model" and facts.prefix == prefix
    assert facts.sentence.startswith("Qwen-Image diffusion model")
    assert facts.sentence.endswith("2 layers, 4.05 M parameters, 19 x Q8_0 + 9 x Q5_1 + fp32")
    assert sum(facts.dtypes.values()) == len(expected_tensors.mmdit_layout(TINY))
    require(facts, "diffusion_model")


def test_the_type_of_file_is_detected_by_its_first_bytes(tmp_path):
    model(tmp_path / "m.safetensors", "qwen_image")
    save_safetensors(tmp_path / "s.gguf", {"x": torch.ones(2)})
    assert isinstance(open_weights(tmp_path / "m.safetensors"), GGUFFile)
    assert isinstance(open_weights(tmp_path / "s.gguf"), SafetensorsFile)
    assert identify(tmp_path / "m.safetensors").role == "diffusion_model"
    with pytest.raises(InkstoneError, match="seems to be a .safetensors file"):
        GGUFFile(tmp_path / "s.gguf")


def test_every_matrix_is_found_and_equal(tmp_path):
    reference = model(tmp_path / "m.gguf", "qwen_image", "model.diffusion_model.")
    with open_weights(tmp_path / "m.gguf") as file:
        table = key_maps.mmdit_names(file.entries).table
        matches = find_gguf(file, table)
        packed = {
            n for n in reference if n.startswith("transformer_blocks.") and reference[n].dim() == 2
        }
        assert set(matches) == packed and {f.format for f in matches.values()} == {"Q8_0", "Q5_1"}
        for name, weight in reference.items():
            got = matches[name].load().dequantize() if name in matches else file.read(table[name])
            assert torch.equal(got, weight), name
        for one in matches.values():
            assert one.load().nbytes == one.nbytes and one.parts == (one.name,)
    save_safetensors(tmp_path / "s.safetensors", {"x": torch.ones(2, 2)})
    with open_weights(tmp_path / "s.safetensors") as file:
        assert find_gguf(file, {"x": "x"}) == {}


def test_files_are_listed_without_later_parts(tmp_path):
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "c.GGUF"):
        (tmp_path / "unet" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "unet" / name).write_bytes(b"")
    with using(HeadlessHost(models=(tmp_path,))):
        listed = model_files("diffusion_models")
    assert listed == ["a.gguf", "b-00001-of-00002.gguf", "c.GGUF"]
