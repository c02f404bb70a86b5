"""Stand-ins for ComfyUI's nodes that encode prompts, and pictures with a VAE."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...host.api import io
from ...nodes.conditioning import REFERENCES
from ...nodes.sockets import connected
from ..node_types import SchemaInput, Value
from .factory import by_name, conditioning_output, latent_output, node, number
from .latents import Latent
from .scaling import resize

if TYPE_CHECKING:
    from torch import Tensor

    from ...nodes.conditioning import Conditioning

_CELL = 32  # pixels of a token of the vision tower
_MOST = 16  # pictures
_USUAL = 1024  # side of a square without pictures


def encode_text(clip: Value, text: str) -> Conditioning:
    """Encode a text."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_21(
    clip: Value,
    prompt: str,
    negative_prompt: str,
    resolution: int = _USUAL,
    vae: Value | None = None,
    **images: Tensor,
) -> io.NodeOutput:
    """Encode prompt and negative with up to 16 pictures, one of each input. All are resized to
    about resolution x resolution pixels (0: their own size) in whole cells; the empty latent has
    the size of the first.
    """
    import torch

    seen: list[Tensor] = []
    latents: list[Tensor] = []
    size = (resolution or _USUAL,) * 2
    for picture in connected(images, {}):
        copy = _resized(picture[:1], resolution)
        size = size if seen else (copy.shape[2], copy.shape[1])
        colour, alpha = copy[..., :3], copy[..., 3:]
        seen.append(colour * alpha + (1 - alpha) if alpha.shape[-1] else colour)
        if vae is not None:
            latents.append(vae.encode(copy))
    prompts = []
    for text in (prompt, negative_prompt):
        tokens = clip.tokenize(text, images=seen, keep_vision=not latents)
        made = clip.encode_from_tokens_scheduled(tokens)
        if latents:
            made[0][1][REFERENCES] = latents
        prompts.append(made)
    empty = torch.zeros(1, 64, size[1] // 16, size[0] // 16)
    return io.NodeOutput(*prompts, {"samples": empty})


def _resized(picture: Tensor, resolution: int) -> Tensor:
    """[1,H,W,C] with sides of whole cells, in its own ratio."""
    height, width = picture.shape[1:3]
    scale = resolution / math.sqrt(width * height) if resolution else 1.0
    sides = (max(_CELL, round(side * scale / _CELL) * _CELL) for side in (width, height))
    across, down = sides
    return (
        picture if (across, down) == (width, height) else resize(picture, across, down, "lanczos")
    )


def encode_picture(pixels: Tensor, vae: Value) -> Latent:
    """Encode a picture; sides are cropped to whole cells of the latent."""
    return {"samples": vae.encode(pixels)}


def decode_latent(samples: Latent, vae: Value) -> Tensor:
    """Decode a latent."""
    pictures = vae.decode(samples["samples"])
    return pictures.flatten(0, 1) if pictures.dim() == 5 else pictures


def _text(name: str) -> SchemaInput:
    item: SchemaInput = io.String.Input(name, multiline=True, dynamic_prompts=True)
    return item


PROMPT_NODES = by_name(
    node(
        "CLIPTextEncode",
        encode_text,
        lambda: [io.Clip.Input("clip"), _text("text")],
        conditioning_output,
        display_name="CLIP Text Encode (Prompt)",
        category="conditioning",
    ),
    node(
        "TextEncodeQwenImage21",
        encode_21,
        lambda: [
            io.Clip.Input("clip"),
            _text("prompt"),
            _text("negative_prompt"),
            io.Vae.Input("vae", optional=True),
            number("resolution", _USUAL, 0, 4096, _CELL),
            *(io.Image.Input(f"images.image_{n}", optional=True) for n in range(1, _MOST + 1)),
        ],
        lambda: [
            io.Conditioning.Output(display_name="positive"),
            io.Conditioning.Output(display_name="negative"),
            io.Latent.Output(display_name="latent"),
        ],
        display_name="Text Encode Qwen Image 2.1",
        category="model/conditioning/qwen image",
    ),
    node(
        "VAEEncode",
        encode_picture,
        lambda: [io.Image.Input("pixels"), io.Vae.Input("vae")],
        latent_output,
        display_name="VAE Encode",
        category="latent",
    ),
    node(
        "VAEDecode",
        decode_latent,
        lambda: [io.Latent.Input("samples"), io.Vae.Input("vae")],
        display_name="VAE Decode",
        category="latent",
    ),
)
