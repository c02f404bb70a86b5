"""Tiny random Qwen-Image folders, written by diffusers and transformers themselves, for parity
tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .oracle import fill

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]

SHAPES = {
    "even": dict(layers=2, heads=2, head_dim=16, axes=(4, 6, 6), text=(32, 2, 2, 1), vae=8),
    "odd layers, three heads": dict(
        layers=3, heads=3, head_dim=32, axes=(8, 12, 12), text=(48, 3, 3, 1), vae=12
    ),
    "five layers, one wide head": dict(
        layers=5, heads=1, head_dim=64, axes=(8, 28, 28), text=(64, 2, 4, 2), vae=8
    ),
    "heads as published": dict(  # single files have no config.json: they need heads of 128
        layers=2, heads=1, head_dim=128, axes=(16, 56, 56), text=(256, 2, 2, 1), vae=8
    ),
}

SCHEDULER = dict(
    base_image_seq_len=256,
    max_image_seq_len=8192,
    base_shift=0.5,
    max_shift=0.9,
    shift_terminal=0.02,
    use_dynamic_shifting=True,
)


def tokenizer():
    """A byte-level Qwen2 tokenizer without merges: 262 entries."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    alphabet = sorted(ByteLevel.alphabet())
    tok = Qwen2Tokenizer(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    tok.add_special_tokens({"additional_special_tokens": SPECIAL})
    tok.pad_token = SPECIAL[0]
    return tok


def pipeline(shape: str, scheduler: dict | None = None):
    """A diffusers QwenImagePipeline with random weights everywhere."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    c = SHAPES[shape]
    width, layers, heads, kv = c["text"]
    tok = tokenizer()
    dit = QwenImageTransformer2DModel(
        num_layers=c["layers"],
        attention_head_dim=c["head_dim"],
        num_attention_heads=c["heads"],
        joint_attention_dim=width,
        axes_dims_rope=c["axes"],
    )
    head = width // heads
    text = dict(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=300,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=dict(
            rope_type="default",
            rope_theta=1e6,
            mrope_section=[head // 8, head * 3 // 16, head * 3 // 16],
        ),
    )
    vision = dict(
        depth=1,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=width,
        fullatt_block_indexes=[0],
    )
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            image_token_id=tok.convert_tokens_to_ids(SPECIAL[5]),
            text_config=text,
            vision_config=vision,
        )
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or SCHEDULER)),
        vae=fill(AutoencoderKLQwenImage(base_dim=c["vae"])),
        text_encoder=fill(encoder),
        tokenizer=tok,
        transformer=fill(dit),
    )


def save(pipe, folder: Path) -> Path:
    """The pipeline as a Hugging Face folder."""
    pipe.save_pretrained(folder)
    return folder


def reference(
    pipe, prompt: str, negative: str | None, size: tuple[int, int], run: dict, seeds: list[int]
):
    """(raw latents [B,16,1,h,w], pictures [B,H,W,3] in 0..1) of diffusers for these seeds."""
    width, height = size
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    with torch.no_grad():
        packed = pipe(
            prompt,
            negative_prompt=negative,
            true_cfg_scale=run["cfg"],
            width=width,
            height=height,
            num_inference_steps=run["steps"],
            num_images_per_prompt=len(seeds),
            generator=generators,
            output_type="latent",
        ).images
        z = pipe._unpack_latents(packed, height, width, pipe.vae_scale_factor)
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1, 1)
            for v in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
        )
        raw = z * std + mean
        pictures = pipe.vae.decode(raw).sample[:, :, 0].clamp(-1, 1) / 2 + 0.5
    return raw, pictures.permute(0, 2, 3, 1)


def write_json(path: Path, value: dict) -> None:
    """Small helper for edited configs."""
    path.write_text(json.dumps(value), encoding="utf-8")
