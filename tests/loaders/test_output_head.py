"""The output head of the text encoder in every layout and format, and files without one."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.few_tokens import few_tokens_reason
from inkstone.loaders.arch.key_maps import head_names
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.memory.residency import residencies
from inkstone.loaders.models.generation import TextPrompt, answer_bytes, generate
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import TYPES
from inkstone.sampling.next_token import Decoding

from ..support import tiny
from ..support.dfloat11_encoder import encode as df11
from ..support.oracle import library, measured, relative
from ..support.packers import four_bits, svdquant_parts
from ..support.vision import random_qwen

LAYOUTS = {  # the new names -> those of a layout
    "transformers": lambda n: n,
    "old": lambda n: n.replace("model.language_model.", "model.").replace(
        "model.visual.", "visual."
    ),
    "language_model.model": lambda n: (
        n.replace("model.language_model.", "language_model.model.")
        .replace("model.visual.", "visual.")
        .replace("lm_head.", "language_model.lm_head.")
    ),
    "headless": lambda n: n.replace("model.", "", 1),
    "plain": lambda n: n.replace("model.language_model.", "").replace("model.visual.", "visual."),
}
PREFIX = "text_encoders.qwen25_7b.transformer."
WIDTH = 256
VOCAB, GROWN = 300, 384
PROMPT = TextPrompt("<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n")
SHORT = Decoding(max_tokens=6)


@pytest.fixture(scope="module")
def weights():
    """A tiny encoder with heads of 128, which a file without config.json has."""
    model = random_qwen(width=WIDTH, kv=1, layers=2, heads=2)
    return {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("model.visual")}


def load(folder, tensors, dtype=torch.float32, config=None):
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    save_safetensors(folder / "encoder.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", **config}))
    return load_text_encoder(folder / "encoder.safetensors", LoadOptions(dtype))


def scores(model) -> torch.Tensor:
    """Scores of the token behind a prompt."""
    head = model.head.open()
    if head.weights is not None:
        head.weights.settle()
        head.weights.fill()
    ids = torch.tensor([model.tokens(PROMPT.text)])
    with torch.inference_mode():
        return head.scores(model.network(ids)[:, -1]).float()


@pytest.fixture(scope="module")
def plain(weights, tmp_path_factory):
    return load(tmp_path_factory.mktemp("plain"), weights)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_it(layout, prefix, weights, plain, tmp_path):
    tensors = {prefix + LAYOUTS[layout](name): t for name, t in weights.items()}
    model = load(tmp_path, tensors)
    assert torch.equal(scores(model), scores(plain))
    assert generate(model, [PROMPT], SHORT) and model.head.open().nbytes == 300 * WIDTH * 4


def test_it_is_not_read_for_encoding(plain, weights, tmp_path):
    model = load(tmp_path, weights)
    model.encode("a cat")
    assert model.head._model is None
    model.head.open()
    assert model.head.open().weights.placement is None
    assert "lm_head.weight" not in dict(model.network.named_parameters())


def test_the_names_of_gguf():
    names = head_names(["token_embd.weight", "blk.0.attn_q.weight", "output.weight", "other"])
    assert names.table["lm_head.weight"] == "output.weight" and names.others == ("other",)


def test_files_without_it_say_where_to_get_one(weights, tmp_path):
    tensors = {n: t for n, t in weights.items() if not n.startswith("lm_head")}
    model = load(tmp_path, tensors)
    with pytest.raises(InkstoneError) as caught:
        generate(model, [PROMPT], SHORT)
    text = str(caught.value)
    assert "encoder.safetensors: this file can encode prompts, but not write text" in text
    assert "Qwen/Qwen-Image" in text and "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf" in text


@pytest.mark.parametrize("inner", [False, True])
def test_a_tied_head_is_the_table_of_embeddings(inner, weights, tmp_path):
    tensors = {n: t for n, t in weights.items() if not n.startswith("lm_head")}
    says = {"tie_word_embeddings": True}
    model = load(tmp_path, tensors, config={"text_config": says} if inner else says)
    untied = {**weights, "lm_head.weight": weights["model.language_model.embed_tokens.weight"]}
    (tmp_path / "untied").mkdir()
    assert relative(scores(model), scores(load(tmp_path / "untied", untied))) < 1e-6
    assert model.head.open().weights is None and model.head.open().nbytes == 0


def test_a_head_of_another_model_is_refused(weights, tmp_path):
    model = load(tmp_path, {**weights, "lm_head.weight": torch.rand(299, WIDTH)})
    with pytest.raises(InkstoneError, match=r"lm_head.weight \[299, 256\], expected"):
        model.head.open()


def fp8_plain(t: dict, names: list[str]) -> None:
    for name in names:
        t[name + ".weight"] = t[name + ".weight"].to(torch.float8_e4m3fn)


def fp8_scaled(t: dict, names: list[str]) -> None:
    t["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    for name in names:
        w = t[name + ".weight"].float()
        t[name + ".scale_weight"] = w.abs().max() / 448
        t[name + ".weight"] = (w / t[name + ".scale_weight"]).to(torch.float8_e4m3fn)


def int8_rows(t: dict, names: list[str]) -> None:
    text = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    for name in names:
        w = t[name + ".weight"].float()
        scale = w.abs().amax(1, keepdim=True) / 127
        t[name + ".weight"] = (w / scale).round().to(torch.int8)
        t |= {name + ".weight_scale": scale, name + ".comfy_quant": text}


def bf16(t: dict, names: list[str]) -> None:
    for name in names:
        t[name + ".weight"] = t[name + ".weight"].bfloat16()


def svdquant(t: dict, names: list[str]) -> None:
    """Those whose sizes it takes: the head and the attention."""
    fitting = [name for name in names if not any(n % 128 for n in t[name + ".weight"].shape)]
    assert "lm_head" in fitting and len(fitting) == 9
    for name in fitting:
        bias = t.pop(name + ".bias", None)
        parts = svdquant_parts(t.pop(name + ".weight").float(), bias)
        t |= {f"{name}.{part}": tensor for part, tensor in parts.items()}


FORMATS = {
    "nf4": (four_bits, 0.45),
    "SVDQuant": (svdquant, 0.45),
    "fp8 plain": (fp8_plain, 0.15),
    "fp8 scaled": (fp8_scaled, 0.15),
    "int8": (int8_rows, 0.04),
    "bf16": (bf16, 0.02),
}


def grown(tensor: torch.Tensor) -> torch.Tensor:
    """Rows for all tokens of a vocabulary that every format takes."""
    if tensor.dim() != 2 or len(tensor) != VOCAB:
        return tensor
    more = torch.randn(GROWN - VOCAB, tensor.shape[1], generator=torch.Generator().manual_seed(4))
    return torch.cat([tensor, more.to(tensor) * tensor.std()])


@pytest.mark.parametrize("name", FORMATS)
def test_packed_formats(name, weights, plain, tmp_path):
    """Scores within the error of the format; the head itself is packed too."""
    change, most = FORMATS[name]
    tensors = {LAYOUTS["old"](n): t.clone() for n, t in weights.items()}
    layers = [
        n.removesuffix(".weight")
        for n, t in tensors.items()
        if t.dim() == 2 and "embed" not in n and n.endswith(".weight")
    ]
    assert "lm_head" in layers
    tensors = {n: grown(t) for n, t in tensors.items()}
    change(tensors, layers)
    model = load(tmp_path, tensors)
    got = scores(model)
    assert len(got[0]) == GROWN
    assert name == "bf16" or model.head.open().nbytes < 2 * GROWN * WIDTH, "it stays packed"
    error = measured(got[:, :VOCAB], scores(plain))
    assert 0 < error < most, f"{name}: {error:.1e}"
    assert len(generate(model, [PROMPT], SHORT)[0].tokens) >= 1


def test_dfloat11(weights, plain, tmp_path):
    half = {LAYOUTS["old"](n): t.bfloat16() for n, t in weights.items()}
    packed = dict(half)
    packed |= {"lm_head" + k: v for k, v in df11([packed.pop("lm_head.weight")]).items()}
    (tmp_path / "a").mkdir()
    config = {"dfloat11_config": {"pattern_dict": {r"lm_head": []}}}
    model = load(tmp_path, packed, config=config)
    want = load(tmp_path / "a", half)
    assert relative(scores(model), scores(want)) < 1e-6


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind, most", [("Q8_0", 0.03), ("Q4_K", 0.4), ("Q6_K", 0.1)])
def test_gguf(kind, most, tied, weights, plain, tmp_path):
    """`output.weight`; where it is left out, the table of embeddings is the head."""
    own = {n.replace("model.language_model.", ""): t for n, t in weights.items()}
    if tied:
        own["lm_head.weight"] = own["embed_tokens.weight"]
        (tmp_path / "plain").mkdir()
        plain = load(tmp_path / "plain", own)
    written = {n: t for n, t in own.items() if n != "lm_head.weight" or not tied}
    path = gguf_file(tmp_path / "encoder.gguf", written, kind)
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = load_text_encoder(path, LoadOptions(torch.float32))
    error = measured(scores(model), scores(plain))
    assert 1e-5 < error < most, f"{kind}: {error:.1e}"
    assert (model.head.open().weights is None) == tied
    assert tied or kind in model.head.open().format
    assert len(generate(model, [PROMPT], SHORT)[0].tokens) >= 1


def gguf_file(path, tensors, kind: str):
    """A file by the gguf package, matrices quantized by us, which also writes K types."""
    gguf = library("gguf")
    from ..loaders.test_gguf_text import to_gguf

    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_uint32("qwen2vl.attention.head_count", 2)
    writer.add_uint32("qwen2vl.attention.head_count_kv", 1)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    for theirs, ours in to_gguf(shapes).items():
        if tensors[ours].dim() == 1:
            writer.add_tensor(theirs, tensors[ours].float().numpy())
            continue
        own = kind if tensors[ours].shape[1] % 256 == 0 else "Q8_0"  # K types have blocks of 256
        rows = quantize_rows(tensors[ours], next(t for t in TYPES.values() if t.name == own))
        writer.add_tensor(theirs, rows.numpy(), raw_dtype=gguf.GGMLQuantizationType[own])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- the form for single tokens


@pytest.mark.skipif(
    bool(few_tokens_reason(torch.device("cpu"), torch.bfloat16)), reason="no 4-bit product"
)
@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "Q6_K"])
def test_single_tokens_by_their_form(kind, weights, tmp_path, monkeypatch):
    """Scores of every token as near to the plain bfloat16 way as that is to float32."""
    own = {n.replace("model.language_model.", ""): t for n, t in weights.items()}
    path = gguf_file(tmp_path / "encoder.gguf", own, kind)
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    decoding = Decoding(max_tokens=12, repetition_penalty=1.0)

    def written(dtype, forms: bool) -> tuple[list[torch.Tensor], int]:
        model = load_text_encoder(path, LoadOptions(dtype))
        head = model.head.open()
        kept: list[torch.Tensor] = []
        spy = replace(
            head,
            scores=lambda states: kept.append(head.scores(states).float()) or kept[-1],
            forms=head.forms if forms else None,
        )
        monkeypatch.setattr(model.head, "_model", spy)
        if not forms:
            monkeypatch.setattr(model, "forms", None)
        generate(model, [PROMPT], decoding)
        bytes_of = model.forms.weights.reserved if model.forms else 0
        return kept, bytes_of

    exact, none = written(torch.float32, True)
    half, _ = written(torch.bfloat16, False)
    few, reserved = written(torch.bfloat16, True)
    assert none == 0 < reserved, "only computing in bfloat16 has a use for it"
    floor = max(relative(a, b) for a, b in zip(half[:2], exact[:2]))
    error = max(relative(a, b) for a, b in zip(few[:2], exact[:2]))
    assert error < 2 * floor < 0.1, f"{error:.1e} against {floor:.1e}"


def test_without_room_tokens_are_written_from_packed_weights(weights, tmp_path, caplog):
    own = {n.replace("model.language_model.", ""): t for n, t in weights.items()}
    path = gguf_file(tmp_path / "encoder.gguf", own, "Q8_0")
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = load_text_encoder(path, LoadOptions(torch.bfloat16))
    if model.forms is None:
        pytest.skip("no 4-bit product")
    caplog.set_level(logging.INFO)
    generate(model, [PROMPT], SHORT)
    assert not model.forms.weights.reserved, "6 tokens are not worth it"
    longer = Decoding(max_tokens=8)
    want = generate(model, [PROMPT], longer)[0]
    assert model.forms.weights.reserved and "written slowly" not in caplog.text
    generate(model, [PROMPT], SHORT)
    assert model.forms.weights.reserved, "what is there is used"
    model.forms.weights.park()
    head = model.head.open()
    least = model.weights.nbytes + head.nbytes + answer_bytes(model, [40], 8)
    own_bytes = least + model.forms.weights.nbytes // 2

    def free(need: int, device: torch.device, ask: bool = True) -> int:
        held = sum(one.in_memory for one in residencies())
        return int(own_bytes / 0.95) + 1 - held

    for one in (model, head, model.forms, head.forms):
        one.weights.free = free
    got = generate(model, [PROMPT], longer)[0]
    assert "written slowly" in caplog.text and not model.forms.weights.reserved
    assert len(got.tokens) >= 1 and want.prompt_tokens == got.prompt_tokens
