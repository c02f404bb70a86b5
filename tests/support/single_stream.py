"""Tiny networks of Qwen-Image-2.1: diffusers' class and ours with the same random weights."""

import math

import torch
from torch import Tensor

from inkstone.kernels.configs import SingleStreamConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.single_stream import SingleStream

from .oracle import fill, library

CONFIG = SingleStreamConfig(3, 2, 16, 8, 24, 96, (4, 6, 6))
WIDE = SingleStreamConfig(2, 2, 128, 64, 48, 768, (16, 56, 56))


def reference_network(config: SingleStreamConfig, seed: int = 0):
    """diffusers' class, every norm and matrix random."""
    diffusers = library("diffusers")
    torch.manual_seed(seed)
    network = diffusers.QwenImage21Transformer2DModel(
        in_channels=config.channels,
        out_channels=config.channels,
        num_layers=config.layers,
        attention_head_dim=config.head_dim,
        num_attention_heads=config.heads,
        context_in_dim=config.joint,
        mlp_ratio=config.ff // config.width,
        axes_dims_rope=config.axes,
    )
    return fill(network)


def tiny_pair(config: SingleStreamConfig, seed: int = 0):
    """(diffusers' network, ours, all weights by their names)."""
    ref, ours = reference_network(config, seed), SingleStream(config)
    state = ref.state_dict()
    missing, _ = ours.load_state_dict(state, strict=False)
    assert not missing, missing
    return ref, ours.eval(), state


def reference_velocity(ref, inputs: Inputs, sigma: Tensor) -> Tensor:
    """The velocity of the target by diffusers' network. sigma [B]."""
    with torch.no_grad():
        return trained_velocity(ref, inputs, sigma)


def trained_velocity(ref, inputs: Inputs, sigma: Tensor) -> Tensor:
    """`reference_velocity` with gradients."""
    batch, tokens = inputs.img.shape[:2]
    target, *grids = inputs.grids
    clean = inputs.references.references
    img = (
        inputs.img
        if clean is None
        else torch.cat([clean.tokens.expand(batch, -1, -1), inputs.img], 1)
    )
    # its text has a place for every four tokens of a reference, and its mask also of the target
    txt, mask, read = [], [], 0
    for slot, (_, h, w) in zip(inputs.slots, grids):
        txt += [
            inputs.txt[:, read:slot],
            inputs.txt.new_zeros(batch, h * w // 4, inputs.txt.shape[2]),
        ]
        mask += [False] * (slot - read) + [True] * (h * w // 4)
        read = slot
    txt.append(inputs.txt[:, read:])
    mask += [False] * (inputs.txt.shape[1] - read) + [True] * (math.prod(target) // 4)
    out = ref(
        hidden_states=img,
        encoder_hidden_states=torch.cat(txt, dim=1),
        timestep=sigma,
        img_shapes=[[*grids, target]] * batch,
        img_mask=torch.tensor([mask] * batch),
    ).sample
    return out[:, -tokens:]
