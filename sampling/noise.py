"""Initial noise. Item k of a batch uses seed + k, so it equals the single picture of that seed.

One item equals the reference's CPU generator (diffusers draws (1,1,16,h,w) float32) and ComfyUI's
`torch.manual_seed(seed); torch.randn` of one latent, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InkstoneError


def noise(
    seed: int, batch: int, rows: int, columns: int, channels: int = 16, frames: int = 1
) -> Tensor:
    """[batch * frames,channels,rows,columns] float32 on the CPU; rows, columns in latent pixels.

    frames: latents of one item (layers), drawn together and consecutive.
    """
    if not 0 <= seed < 2**64:
        raise InkstoneError(
            f"Seed is {seed}: expected a whole number from 0 to 18446744073709551615."
        )
    if batch < 1:
        raise InkstoneError(f"Batch is {batch}: expected at least 1.")
    items = []
    for k in range(batch):
        generator = torch.Generator().manual_seed((seed + k) % 2**64)
        items.append(torch.randn(frames, channels, rows, columns, generator=generator))
    return torch.cat(items)
