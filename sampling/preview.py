"""A small picture of where a run is: latents to colours by one 17x3 matrix, no decoder.

The matrix (16 channels and a constant -> R, G, B) is fitted by least squares on pictures and their
latents; a model folder carries it in vae/config.json as `inkstone_preview`.
"""

from __future__ import annotations

from torch import Tensor


def colours(z: Tensor, factors: Tensor) -> Tensor:
    """Normalised latents [16,h,w] and factors [17,3] -> uint8 [h,w,3]."""
    rgb = z.float().cpu().permute(1, 2, 0) @ factors[:-1] + factors[-1]
    return rgb.mul(255).round().clamp(0, 255).byte()
