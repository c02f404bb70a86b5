"""Blockwise and Fun controls with random weights as files, and what they do, restated in
plain torch on diffusers' own transformer by hooks behind its blocks.

Written from the published formulas, without our kernels: a second opinion, not a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkstone.loaders.formats.safetensors import save_safetensors

from . import tiny
from .oracle import fill


class Patch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.x_rms, self.y_rms = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.input_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output_proj(F.gelu(self.input_proj(self.x_rms(x) + self.y_rms(y))))


class Blockwise(nn.Module):
    """DiffSynth's file: embeds a picture, one patch per block."""

    def __init__(self, width: int, layers: int, condition: int) -> None:
        super().__init__()
        self.img_in = nn.Linear(condition, width)
        self.controlnet_blocks = nn.ModuleList(Patch(width) for _ in range(layers))


class Fun(nn.Module):
    """VideoX-Fun's file: whole blocks of diffusers, and where they are added."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        from diffusers.models.transformers import transformer_qwenimage as reference

        self.control_img_in = nn.Linear(132, width)
        self.control_blocks = nn.ModuleList(
            reference.QwenImageTransformerBlock(width, heads, width // heads) for _ in range(layers)
        )
        for block in self.control_blocks:
            block.after_proj = nn.Linear(width, width)
        self.control_blocks[0].before_proj = nn.Linear(width, width)


def random_control(kind: str, shape: str, layers: int):
    """A random control of a kind for a tiny model."""
    c = tiny.SHAPES[shape]
    width = c["heads"] * c["head_dim"]
    if kind == "fun":
        return fill(Fun(width, c["heads"], layers))
    return fill(Blockwise(width, layers, 68 if kind == "inpaint" else 64))


def saved(net: nn.Module, path: Path, prefix: str = "") -> Path:
    state = {prefix + k: v.contiguous() for k, v in net.state_dict().items()}
    save_safetensors(path, state, {})
    return path


def tokens(pipe, pixels: Tensor) -> Tensor:
    """[1,H,W,3] in 0..1 -> normalised packed latents [1,S,64] by diffusers' VAE."""
    config = pipe.vae.config
    x = pixels.permute(0, 3, 1, 2)[:, :, None] * 2 - 1
    with torch.no_grad():
        z = pipe.vae.encode(x).latent_dist.mode()
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    return packed(((z - mean) / std)[:, :, 0])


def packed(z: Tensor) -> Tensor:
    """[n,C,h,w] -> [n,h/2*w/2,4C], feature c*4 + row*2 + column."""
    n, c, h, w = z.shape
    z = z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(n, h // 2 * (w // 2), 4 * c)


def kept(mask: Tensor) -> Tensor:
    """[1,H,W], 1 = inpainted -> what stays, packed [1,S,4]."""
    size = mask.shape[1] // 8, mask.shape[2] // 8
    return packed(1 - F.interpolate(mask[:, None], size, mode="nearest"))


@dataclass
class Acting:
    """A control in a reference run: its condition, how strongly, in which part of the steps."""

    net: nn.Module
    condition: Tensor  # [1,S,condition]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@contextlib.contextmanager
def acting(pipe, controls: list[Acting], run: dict) -> Iterator[None]:
    """Within it the pipeline's transformer draws with these controls. A step has two passes with
    CFG; all controls of a block see the same stream."""
    network, halves = pipe.transformer, 2 if run["cfg"] > 1 else 1
    passes, hints = [0], {}

    def now(control: Acting) -> bool:
        step = (passes[0] - 1) // halves
        return step / run["steps"] >= control.start and (step + 1) / run["steps"] <= control.end

    def before(module, args, call: dict) -> None:
        passes[0] += 1
        hints.clear()
        for k, control in enumerate(controls):
            if isinstance(control.net, Fun) and now(control):
                hints[k] = fun_hints(network, control, call)

    def behind(index: int):
        def hook(module, args, out):
            text, x = out
            added = torch.zeros_like(x)
            count = len(network.transformer_blocks)
            for k, control in enumerate(controls):
                if not now(control):
                    continue
                if isinstance(control.net, Fun):
                    interval = count // len(control.net.control_blocks)
                    if index % interval == 0 and index // interval < len(hints[k]):
                        added += control.strength * hints[k][index // interval]
                else:
                    patch = control.net.controlnet_blocks[index]
                    added += control.strength * patch(x, control.net.img_in(control.condition))
            return text, x + added

        return hook

    handles = [network.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [
        b.register_forward_hook(behind(i)) for i, b in enumerate(network.transformer_blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fun_hints(network, control: Acting, call: dict) -> list[Tensor]:
    """The outputs of Fun's blocks for one pass of the base model, whose embeddings they use."""
    x, text, time = (call[k] for k in ("hidden_states", "encoder_hidden_states", "timestep"))
    net = control.net
    text = network.txt_in(network.txt_norm(text))
    temb = network.time_text_embed(time.to(x.dtype), x)
    turns = network.pos_embed(call["img_shapes"], max_txt_seq_len=text.shape[1], device=x.device)
    c = net.control_blocks[0].before_proj(net.control_img_in(control.condition)) + network.img_in(x)
    hints = []
    for block in net.control_blocks:
        text, c = block(
            hidden_states=c,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None,
            temb=temb,
            image_rotary_emb=turns,
        )
        hints.append(block.after_proj(c))
    return hints
