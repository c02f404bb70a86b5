"""The parts of the base model that controls of core use: its input layers, without its blocks.

Core's Fun ControlNet calls them by the names of core's network.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...kernels.mmdit import normed_text
from ...kernels.rope import image_positions
from ...sampling.geometry import LATENT, TOKEN, even, pack

if TYPE_CHECKING:
    from ...loaders.models.diffusion_model import DiffusionModel


class CoreStreams(torch.nn.Module):
    """Image and text tokens, positions and the embedded timestep, as core's network gives them."""

    patch_size = TOKEN // LATENT

    def entered(self) -> AbstractContextManager[DiffusionModel]:
        """The model with its LoRAs, its weights loaded."""
        raise NotImplementedError

    def process_img(self, x: Tensor, index: int = 0) -> tuple[Tensor, Tensor, torch.Size]:
        """x [B,16,1,h,w] -> tokens [B,S,64], positions [B,S,3], shape with even sides."""
        z = even(x[:, :, 0])
        rows, columns = (side // self.patch_size for side in z.shape[-2:])
        places = image_positions((1, rows, columns), index).to(x.device)
        return pack(z), places.expand(len(x), -1, -1), z[:, :, None].shape

    def pe_embedder(self, ids: Tensor) -> Tensor:
        """Positions [B,N,3] -> rotations as core's blocks take them."""
        from comfy.ldm.flux.layers import EmbedND

        with self.entered() as model:
            c = model.network.config
        return EmbedND(dim=c.head_dim, theta=int(c.theta), axes_dim=list(c.axes))(ids)

    def img_in(self, tokens: Tensor) -> Tensor:
        """[B,S,64] -> [B,S,D]"""
        with self.entered() as model:
            return model.network.img_in(tokens.to(model.device, model.dtype)).to(tokens)

    def txt_norm(self, states: Tensor) -> Tensor:
        """[B,L,J] -> [B,L,J]"""
        with self.entered() as model:
            return normed_text(model.network, states.to(model.device, model.dtype)).to(states)

    def txt_in(self, states: Tensor) -> Tensor:
        """[B,L,J], normed -> [B,L,D]"""
        with self.entered() as model:
            return model.network.txt_in(states.to(model.device, model.dtype)).to(states)

    def time_text_embed(self, timesteps: Tensor, hidden: Tensor, *_: object) -> Tensor:
        """Timesteps [B] in 0..1 -> [B,D], before the SiLU of a block's modulation."""
        with self.entered() as model:
            return model.time(timesteps.float().cpu()).to(hidden)
