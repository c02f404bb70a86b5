"""Seeds: weight files of both containers, LoRAs, tokenizers, configs, training states."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from inkstone.kernels.configs import MMDiTConfig
from inkstone.loaders.arch.expected_tensors import mmdit_layout
from inkstone.loaders.formats.imatrix import save_imatrix
from inkstone.loaders.formats.safetensors import save_safetensors

from ..support import gguf_bytes as gguf
from ..support import lora_files
from .files import joined
from .packed_seeds import packed_layers

ROOT = Path(__file__).resolve().parents[2]
_MODEL = ROOT / "embedded" / "model"
_SMALL = MMDiTConfig(layers=1, heads=1, head_dim=16, channels=16, joint=8, ff=16, axes=(4, 6, 6))


def saved(tensors: Mapping[str, Tensor], metadata: dict | None = None) -> bytes:
    """A .safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        save_safetensors(path, {n: t.contiguous() for n, t in tensors.items()}, metadata)
        return path.read_bytes()


def safetensors_files() -> list[bytes]:
    """Types, ranks, empty tensors, metadata."""
    types = (torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.float8_e5m2)
    every = {f"t.{n}": torch.ones(2, 3).to(dtype) for n, dtype in enumerate(types)}
    odd = {"a": torch.ones(()), "b": torch.ones(0, 4), "c": torch.ones(1, 1, 1, 2)}
    return [saved(every), saved(odd, {"format": "pt", "a": "b"}), saved({})]


def shards() -> list[bytes]:
    """An index with its parts."""
    parts = [saved({"a": torch.ones(2)}), saved({"b": torch.ones(3)})]
    index = {
        "metadata": {"total_size": 20},
        "weight_map": {"a": "one.safetensors", "b": "two.safetensors"},
    }
    return [joined(json.dumps(index).encode(), *parts)]


def packed() -> list[bytes]:
    """config.json and a file with one packed layer."""
    patterns = {"threads_per_block": [512], "bytes_per_thread": 8, "version": "0.2.0"}
    config = {
        "_class_name": "QwenImageTransformer2DModel",
        "dfloat11_config": {**patterns, "pattern_dict": {"embed_tokens": []}},
        "quantization_config": {"quant_method": "nf4"},
    }
    files = [saved(tensors) for tensors in packed_layers()]
    return [joined(b"{}", file) for file in files] + [joined(json.dumps(config).encode(), files[6])]


@functools.lru_cache(maxsize=1)
def _tiny_model() -> dict[str, Tensor]:
    layout = mmdit_layout(_SMALL)
    return {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in layout.items()}


def models() -> list[bytes]:
    """config.json and a model each: whole, with a prefix, a part of it, other kinds."""
    model = _tiny_model()
    config = (_MODEL / "transformer" / "config.json").read_bytes()
    half = dict(list(model.items())[: len(model) // 2])
    vae = {"decoder.conv_in.weight": torch.zeros(4, 4, 1, 1, 1), "encoder.x": torch.zeros(2)}
    text = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(8, 8)}
    return [
        joined(config, saved(model, {"inkstone_family": "qwen-image"})),
        joined(b"{}", saved({"model.diffusion_model." + n: t for n, t in model.items()})),
        joined(b"{}", saved(half)),
        joined(b"{}", saved({**vae, **text})),
        joined(b"{}", loras()[0]),
        joined(b"{}", gguf.file()),
    ]


def model_configs() -> list[bytes]:
    """The JSON files of a folder: those of the embedded model, and fuller ones."""
    names = (
        "transformer/config",
        "text_encoder/config",
        "vae/config",
        "scheduler/scheduler_config",
    )
    shipped = [(_MODEL / f"{name}.json").read_bytes() for name in (*names, "model_index")]
    transformer = {
        "_class_name": "QwenImageTransformer2DModel",
        "num_layers": 2,
        "num_attention_heads": 2,
        "axes_dims_rope": [16, 56, 56],
    }
    text = {
        "model_type": "qwen2_5_vl",
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
        "text_config": {"head_dim": 128},
    }
    vae = {"latents_mean": [0.1] * 16, "latents_std": [1.5] * 16}
    schedule = {
        "base_shift": 0.5,
        "max_shift": 0.9,
        "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
        "use_dynamic_shifting": True,
        "time_shift_type": "exponential",
        "shift": 1.0,
        "num_train_timesteps": 1000,
    }
    index = {"_class_name": "QwenImagePipeline"}
    full = [json.dumps(c).encode() for c in (transformer, text, vae, schedule, index)]
    return [joined(*shipped), joined(*full)]


def loras() -> list[bytes]:
    """Every method, spellings of the names, alphas in the metadata."""
    state = {n: torch.ones(s) for n, s in mmdit_layout(lora_files.CONFIG).items()}
    module = "transformer_blocks.0.attn.to_q"
    files = []
    torch.manual_seed(0)
    for method in lora_files.METHODS.values():
        parts = {f"{module}.{end}": t for end, t in method(state[module + ".weight"]).items()}
        files.append(saved(parts))
    down, up = torch.ones(2, 32), torch.ones(32, 2)
    kohya = {
        "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": down,
        "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight": up,
        "lora_unet_transformer_blocks_0_attn_to_q.alpha": torch.tensor(1.0),
    }
    peft = {
        f"transformer.{module}.lora_A.weight": down,
        f"transformer.{module}.lora_B.weight": up,
        "text_encoder.model.layers.0.mlp.up_proj.lora_A.weight": down,
        "text_encoder.model.layers.0.mlp.up_proj.lora_B.weight": up,
        "transformer.transformer_blocks.0.attn.norm_q.diff": torch.ones(16),
    }
    adapter = {"lora_alpha": 4, "r": 2, "rank_pattern": {}, "alpha_pattern": {module: 8}}
    notes = {
        "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in adapter.items()})
    }
    return [*files, saved(kohya, {"ss_network_alpha": "1"}), saved(peft, notes)]


def gguf_files() -> list[bytes]:
    """Right ones with every kind of key, and an architecture of an encoder."""
    keys = (
        *gguf.KEYS,
        gguf.array("ints", gguf.I32, 2, b"\1\0\0\0\2\0\0\0"),
        gguf.number("general.alignment", 32),
        gguf.kv("f", gguf.F32, b"\0\0\x80?"),
        gguf.array("comfy.gguf.orig_shape.b", gguf.I32, 2, b"\2\0\0\0\2\0\0\0"),
    )
    return [gguf.file(), gguf.file(keys), gguf.file(tensors=(), data=b"")]


def gguf_tokenizers() -> list[bytes]:
    """A header with the toy vocabulary."""
    vocab = json.loads((_MODEL / "tokenizer" / "vocab.json").read_text("utf-8"))
    tokens = [*vocab, "<|im_start|>", "<|im_end|>"]
    kinds = [1] * len(vocab) + [3, 3]
    lines = (_MODEL / "tokenizer" / "merges.txt").read_text("utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#")]
    numbers = b"".join(n.to_bytes(4, "little") for n in kinds)
    keys = (
        gguf.ARCH,
        gguf.kv("tokenizer.ggml.model", gguf.STRING, gguf.text("gpt2")),
        gguf.kv("tokenizer.ggml.pre", gguf.STRING, gguf.text("qwen2")),
        gguf.array(
            "tokenizer.ggml.tokens", gguf.STRING, len(tokens), b"".join(map(gguf.text, tokens))
        ),
        gguf.array("tokenizer.ggml.token_type", gguf.I32, len(kinds), numbers),
        gguf.array(
            "tokenizer.ggml.merges", gguf.STRING, len(merges), b"".join(map(gguf.text, merges))
        ),
    )
    return [gguf.file(keys, (), b"")]


def mmprojs() -> list[bytes]:
    """A few tensors of a vision tower."""
    clip = gguf.kv("general.architecture", gguf.STRING, gguf.text("clip"))
    shapes = {
        "v.patch_embd.weight": (2, 2, 3, 4),
        "v.patch_embd.weight.1": (2, 2, 3, 4),
        "v.blk.0.attn_q.weight": (4, 4),
        "v.blk.0.attn_k.weight": (4, 4),
        "v.blk.0.attn_v.weight": (4, 4),
        "v.blk.0.ln1.weight": (4,),
        "mm.0.weight": (16, 16),
        "mm.2.weight": (16, 32),
    }
    infos, at = [], 0
    for name, dims in shapes.items():
        infos.append(gguf.info(name, dims, gguf.TYPE_F32, at))
        at += -(-4 * torch.Size(dims).numel() // 32) * 32
    return [gguf.file((clip,), infos, b"\0" * at)]


def imatrices() -> list[bytes]:
    """Both formats."""
    sums = {"transformer_blocks.0.attn.to_q.weight": (torch.ones(8), 4)}
    with tempfile.TemporaryDirectory() as folder:
        save_imatrix(Path(folder) / "i.gguf", sums, "prompts", "x")
        made = (Path(folder) / "i.gguf").read_bytes()
    name, values = b"blk.0.attn_q.weight", torch.ones(4).numpy().tobytes()
    numbers = [n.to_bytes(4, "little") for n in (1, len(name), 3, 4)]
    return [made, numbers[0] + numbers[1] + name + numbers[2] + numbers[3] + values]


def tokenizers_json() -> list[bytes]:
    """The toy vocabulary as a tokenizer.json."""
    vocab = json.loads((_MODEL / "tokenizer" / "vocab.json").read_text("utf-8"))
    some = dict(list(vocab.items())[:60])
    added = [
        {"id": 60 + n, "content": text, "special": True, "lstrip": False}
        for n, text in enumerate(("<|im_start|>", "<|im_end|>"))
    ]
    model = {"type": "BPE", "vocab": some, "merges": [], "byte_fallback": False}
    pattern = {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}
    whole = {"version": "1.0", "added_tokens": added, "model": model, "pre_tokenizer": pattern}
    letters = list(some)
    merged = {**some, letters[0] + letters[1]: 70}
    more = {**whole, "model": {**model, "vocab": merged, "merges": [letters[:2]]}}
    return [json.dumps(w).encode() for w in (whole, more)]


def tokenizer_parts() -> list[bytes]:
    """The files of the embedded model."""
    home = _MODEL / "tokenizer"
    parts = [(home / n).read_bytes() for n in ("vocab.json", "merges.txt", "tokenizer_config.json")]
    small = b'{"a": 0, "b": 1, "ab": 2}'
    added = b'{"<|im_start|>": 3, "<|im_end|>": 4}'
    return [joined(*parts), joined(small, b"#version: 0.2\na b\n", b"", added)]


def train_states() -> list[bytes]:
    """run.json and a checkpoint of a layer."""
    tensors = {}
    for name, shape in (("weight", (2, 3)), ("bias", (2,))):
        for start in ("model.", "ema.", "adam.exp_avg.", "adam.exp_avg_sq."):
            tensors[start + name] = torch.ones(shape)
        tensors["adam.step." + name] = torch.tensor(5.0)
    state = saved(tensors, {"step": "5"})
    return [joined(b'{"seed": 1, "start": null}', state), joined(b'{"seed": 2}', state)]
