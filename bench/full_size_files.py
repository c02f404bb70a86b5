"""Files of the real size for full_size.py and interrupt.py: valid random blocks in the full layout.

The diffusion model (60 layers, the published type mix), the Qwen2.5-VL-7B text encoder (Q4_K, Q6_K)
and the VAE (bf16), 17 GB in all, written once.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.kernels.configs import MMDiTConfig, TextConfig, VAEConfig
from inkstone.loaders.arch import expected_tensors, key_maps_gguf, key_maps_vae
from inkstone.loaders.arch.expected_tensors_vae import vae_layout
from inkstone.loaders.formats.gguf_metadata import ARCHITECTURE
from inkstone.loaders.formats.gguf_writer import Value, gguf_layout
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.quant.gguf_types import BY_NAME

MODEL, TEXT, VAE = "qwen-image-Q4_K_M.gguf", "qwen2.5-vl-7b-Q4_K_M.gguf", "vae.safetensors"
# type -> (block bytes, halves to set: (offset, value)); a weight has a deviation of about 0.02
BLOCKS = {
    "Q4_K": (144, ((0, 1.2e-4), (2, 8e-4))),
    "Q5_K": (176, ((0, 6e-5), (2, 8e-4))),
    "Q6_K": (210, ((208, 1.6e-5),)),
}
_TILE = 4096  # blocks of random bytes that are repeated
_NOISE = 1 << 22  # floats that are repeated


def blocks(kind: str, count: int) -> Iterator[bytes]:
    """`count` valid blocks of a type, in pieces."""
    size, halves = BLOCKS[kind]
    tile = np.random.default_rng(7).integers(0, 256, (_TILE, size), dtype=np.uint8)
    for at, value in halves:
        tile[:, at : at + 2] = np.frombuffer(struct.pack("<e", value), np.uint8)
    whole = tile.tobytes()
    for start in range(0, count, _TILE):
        yield whole if count - start >= _TILE else whole[: (count - start) * size]


def mmdit_type(name: str, shape: tuple[int, ...]) -> str:
    """The published Q4_K_M mix: v and down Q6_K, first and last block Q5_K, the rest Q4_K."""
    if not name.startswith("transformer_blocks.") or len(shape) == 1:
        return "F32" if len(shape) == 1 else "BF16"
    if name.split(".")[1] in ("0", "59"):
        return "Q5_K"
    high = ("to_v.", "add_v_proj.", "net.2.")
    return "Q6_K" if any(h in name for h in high) else "Q4_K"


def text_type(name: str, shape: tuple[int, ...]) -> str:
    """Q4_K with Q6_K for v and down, as the usual _M mixes."""
    if len(shape) == 1:
        return "F32"
    return "Q6_K" if "attn_v" in name or "ffn_down" in name else "Q4_K"


def write_gguf(
    path: Path,
    arch: str,
    tensors: expected_tensors.Layout,
    kind_of: Callable[[str, tuple[int, ...]], str],
    values: Mapping[str, Value] = {},
) -> None:
    """A GGUF file of random weights, its data streamed behind its header. values: more of that."""
    kinds = {name: (shape, BY_NAME[kind_of(name, shape)]) for name, shape in tensors.items()}
    values = {ARCHITECTURE: arch, "general.quantization_version": 2, **values}
    head, slots, total = gguf_layout(values, kinds)
    part = path.with_suffix(".part")
    with open(part, "wb") as out:
        out.write(head)
        for slot in slots:
            out.write(bytes(slot.begin - out.tell()))
            for piece in data(slot.kind.name, math.prod(slot.shape)):
                out.write(piece)
        out.write(bytes(total - out.tell()))
    part.replace(path)


def data(kind: str, count: int) -> Iterator[bytes]:
    """Bytes of a tensor of `count` weights: random blocks, small floats, norms near 1."""
    if kind in BLOCKS:
        yield from blocks(kind, count // 256)
        return
    values = torch.randn(min(count, _NOISE), generator=torch.Generator().manual_seed(3)).mul_(0.02)
    if kind == "F32":
        piece = values.add_(0.5).numpy().tobytes()
    else:
        piece = values.bfloat16().view(torch.uint8).numpy().tobytes()
    size = len(piece) // len(values)
    for start in range(0, count, _NOISE):
        yield piece[: (count - start) * size]


def vocabulary() -> dict[str, Value]:
    """A tokenizer of full size with one merge: bytes, filler, chat marks in their places."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, "ab", *(f"filler{i}" for i in range(151643 - len(letters) - 1))]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    rest = [f"[PAD{i}]" for i in range(152064 - len(words) - len(special))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*words, *special, *rest],
        "tokenizer.ggml.token_type": [1] * len(words) + [3] * len(special) + [5] * len(rest),
        "tokenizer.ggml.merges": ["a b"],
    }


def prepare(folder: Path) -> None:
    """Writes what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MODEL).exists():
        write_gguf(
            folder / MODEL, "qwen_image", expected_tensors.mmdit_layout(MMDiTConfig()), mmdit_type
        )
    if not (folder / TEXT).exists():
        ours = expected_tensors.text_layout(TextConfig())
        named = {gguf_text_name(name): shape for name, shape in ours.items()}
        write_gguf(folder / TEXT, "qwen2vl", named, text_type, vocabulary())
    if not (folder / VAE).exists():
        wan = {ours: theirs for theirs, ours in key_maps_vae.wan_vae_table().items()}
        shapes = vae_layout(VAEConfig())
        gen = torch.Generator().manual_seed(5)
        tensors = {
            wan[name]: torch.randn(shape, generator=gen).mul_(0.03).bfloat16()
            for name, shape in shapes.items()
            if name in wan
        }
        save_safetensors(folder / VAE, tensors, {"format": "pt"})


def gguf_text_name(ours: str) -> str:
    """Our name of a language model's tensor -> that of GGUF."""
    for theirs, name in key_maps_gguf.TEXT:
        pattern = re.escape(name).replace(r"\{n\}", r"(?P<n>\d+)")
        match = re.fullmatch(pattern.replace(r"\{leaf\}", "(?P<leaf>weight|bias)"), ours)
        if match:
            return theirs.format(**match.groupdict())
    raise SystemExit(f"no GGUF name for {ours}")
