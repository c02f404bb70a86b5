"""A tiny Qwen2.5-VL of transformers with random weights, and pictures for its tower."""

from __future__ import annotations

import dataclasses

import torch

from inkstone.kernels.configs import VisionConfig
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors

from . import tiny
from .oracle import fill, library

transformers = library("transformers")

PAD = 261  # <|image_pad|> of the toy tokenizer
MOST = 12845056  # pixels, preprocessor_config.json of Qwen-Image-Edit
CONFIGS = {
    "two full blocks": VisionConfig(4, 64, 2, 60, out=48, full=(1, 3)),
    "three heads, small windows": VisionConfig(3, 96, 3, 100, out=32, window=56, full=(2,)),
}


def their_vision(c: VisionConfig) -> dict:
    """The same numbers as transformers calls them."""
    return dict(
        depth=c.depth,
        hidden_size=c.width,
        intermediate_size=c.ff,
        num_heads=c.heads,
        out_hidden_size=c.out,
        window_size=c.window,
        fullatt_block_indexes=list(c.full),
    )


def image(width: int, height: int, seed: int = 0):
    """A PIL picture with edges and gradients, and the same as our float tensor."""
    from PIL import Image

    g = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 160, width)[None, :, None] + torch.zeros(height, 1, 3)
    noise = torch.randint(0, 96, (height, width, 3), generator=g)
    pixels = (ramp + noise).to(torch.uint8)
    return Image.fromarray(pixels.numpy()), pixels.float() / 255


def processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(max_pixels=MOST)


def random_qwen(
    width: int = 32, kv: int = 1, layers: int = 2, heads: int = 2, tower: str = "two full blocks"
):
    """A tiny Qwen2.5-VL of transformers with random weights."""
    c = dataclasses.replace(CONFIGS[tower], out=width)
    head = width // heads
    text = dict(
        hidden_size=width,
        intermediate_size=64,
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
    config = transformers.Qwen2_5_VLConfig(
        image_token_id=PAD, text_config=text, vision_config=their_vision(c)
    )
    torch.manual_seed(6)
    return fill(transformers.Qwen2_5_VLForConditionalGeneration(config))


def with_types(model):
    """transformers 5 takes M-RoPE only from token types, which diffusers does not pass."""
    plain = model.forward

    def forward(input_ids=None, **rest):
        types = (input_ids == PAD).int()
        return plain(input_ids=input_ids, mm_token_type_ids=types, **rest)

    return forward


def save_encoder(model, folder, rename=None):
    """A folder as diffusers writes it: text_encoder/ and tokenizer/."""
    model.save_pretrained(folder / "text_encoder")
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    if rename:
        path = folder / "text_encoder" / "model.safetensors"
        with open_weights(path) as file:
            tensors = {rename(n): file.read(n).clone() for n in file.entries}
        save_safetensors(path, tensors, None)
    return folder


class Processor:
    """Their processor, without torchvision."""

    def __init__(self) -> None:
        self.tokenizer, self.images = tiny.tokenizer(), processor()

    def __call__(self, text, images, padding, return_tensors):
        seen = self.images(images=images, return_tensors="pt")
        counts = iter((seen["image_grid_thw"].prod(1) // 4).tolist())
        pad = "<|image_pad|>"
        parts = text[0].split(pad)
        full = parts[0] + "".join(pad * next(counts) + part for part in parts[1:])
        return transformers.BatchFeature(dict(self.tokenizer(full, return_tensors="pt"), **seen))
