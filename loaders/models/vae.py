"""The loaded VAE, between raw latents and pictures."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import ResidualVAEConfig, VAEConfig
from ...kernels.memory import free_bytes
from ...kernels.spread import apart
from ...kernels.vae import VAE
from ...kernels.vae_memory import plan_rows
from ...kernels.vae_residual import ResidualVAE
from ...kernels.vae_strips import decode_rows, moments_rows
from ...sampling.nan_check import is_finite
from ...sampling.pixel_lock import colour
from ...sampling.preview import chart, fitted
from ..arch.family import QWEN_IMAGE, Family, family_by_latents
from ..memory.lru import Recent
from .image_processor import digest

log = logging.getLogger(__name__)

_KEPT_LATENTS = 8  # of pictures that were encoded
_alive: weakref.WeakValueDictionary[int, VAEModel] = weakref.WeakValueDictionary()


def build_vae(config: VAEConfig) -> VAE:
    """The network of a config, on the device of the context."""
    return ResidualVAE(config) if isinstance(config, ResidualVAEConfig) else VAE(config)


def vae_in_use(mean: Tensor) -> VAEModel | None:
    """A loaded VAE whose latents have this mean; None where there is none."""
    candidates = (vae for vae in _alive.values() if vae.mean.shape == mean.shape)
    return next((vae for vae in candidates if torch.allclose(vae.mean, mean)), None)


def picture_for(pictures: Tensor, channels: int) -> Tensor:
    """Pictures [B,H,W,C] with as many channels as the VAE has, 3 or 4: grey is repeated, an alpha
    channel added is opaque.
    """
    if pictures.shape[-1] == 1:
        pictures = colour(pictures)
    if channels == 4 and pictures.shape[-1] == 3:
        return torch.cat([pictures, torch.ones_like(pictures[..., :1])], dim=-1)
    return pictures


@dataclass
class VAEModel:
    """A loaded VAE with its latent statistics. Its latents are raw: [B,C,1,h,w], C = 16 at 1/8 of
    the picture's size, of Qwen-Image-2.1 64 at 1/16.
    """

    network: VAE = field(repr=False)
    mean: Tensor
    std: Tensor
    dtype: torch.dtype
    device: torch.device
    path: Path = field(repr=False)  # not for the page: ComfyUI shows what a wire carries
    budget: int | None = None  # bytes for activations; None = three quarters of what is free
    family: Family = QWEN_IMAGE
    _last_plan: str = field(default="", init=False, repr=False)
    _factors: Tensor | None = field(default=None, init=False, repr=False)
    _encoded: Recent[Tensor] = field(
        default_factory=lambda: Recent(_KEPT_LATENTS), init=False, repr=False
    )

    def __post_init__(self) -> None:
        _alive[id(self)] = self

    def preview_factors(self) -> Tensor:
        """[C+1,3] from latents to colours (see sampling/preview.py), fitted at the first call."""
        if self._factors is None:
            picture = chart(self.network.config.scale)
            z = self._encode(picture_for(picture, self.network.config.channels))[:, :, 0]
            self._factors = fitted((z - self.mean) / self.std, picture)
        return self._factors

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent [B,C,1,h,w] or [B,C,h,w] -> pictures [B,H,W,3 or 4] float32 in 0..1, alpha
        straight.

        Layers [B,C,layers,h,w] give one picture each, [B*layers,H,W,4], in the same order.
        """
        z = latent.transpose(1, 2).flatten(0, 1) if latent.dim() == 5 else latent
        c = self.network.config
        if z.dim() != 4 or z.shape[1] != c.z or 0 in z.shape:
            raise self._not_its_latent(latent, z)
        height, width = z.shape[2] * c.scale, z.shape[3] * c.scale
        rows, sentence = self._plan(height, width)
        self._log_plan(sentence)
        with torch.inference_mode(), apart(self.device):
            z = z.to(self.device, self.dtype)
            pixels = [
                self.network.decode(item) if rows is None else decode_rows(self.network, item, rows)
                for item in z.split(1)
            ]
            picture = torch.cat(pixels).float().clamp(-1, 1).add(1).div(2)
        if not is_finite(picture):
            raise InkstoneError(
                f"The VAE {self.path.name} gave values that are not finite, in "
                f"{str(self.dtype).removeprefix('torch.')}. Choose dtype float32; if it stays, the "
                "file is damaged: download it again."
            )
        return picture.permute(0, 2, 3, 1).contiguous().cpu()

    def _not_its_latent(self, latent: Tensor, z: Tensor) -> InkstoneError:
        """The error for a latent that this VAE did not make; z: of one picture each."""
        c = self.network.config
        shape = f"[batch, {c.z}, 1, height/{c.scale}, width/{c.scale}]"
        other = family_by_latents(z.shape[1]) if z.dim() == 4 else None
        if other is None or other.latents.channels == c.z:
            return InkstoneError(
                f"The latent has shape {list(latent.shape)}: expected {shape}. Connect the latent "
                "of an Inkstone or Qwen-Image sampler."
            )
        return InkstoneError(
            f"The latent has {z.shape[1]} channels, it is one of {other.noun}, and the VAE "
            f"{self.path.name} takes {shape}. Load the VAE of {other.noun}."
        )

    def _plan(self, height: int, width: int, encode: bool = False) -> tuple[int | None, str]:
        """Rows of a strip (None = whole) and the log line."""
        budget = self.budget or free_bytes(self.device) * 3 // 4
        c, device = self.network.config, self.device.type
        rows, _, line = plan_rows(c, height, width, self.dtype, budget, device, encode)
        return rows, line

    def _log_plan(self, plan: str) -> None:
        """Logs a line per plan, not per picture: scoring a model decodes hundreds alike."""
        if plan != self._last_plan:
            log.info("%s", plan)
            self._last_plan = plan

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B,H,W,3 or 4] in 0..1, sides multiples of 8 (of Qwen-Image-2.1: 16) -> raw
        latent means [B,C,1,h,w].

        For a VAE with alpha (layered, 2.1), pictures without it count as opaque. Latents are kept
        by content: a picture that was just encoded is not encoded again.
        """
        c = self.network.config
        pictures = picture_for(pictures, c.channels)
        _, height, width, channels = pictures.shape
        if height % c.scale or width % c.scale or channels != c.channels:
            raise InkstoneError(
                f"The picture is {width}x{height} with {channels} channels: expected sides that "
                f"are multiples of {c.scale} and {c.channels} channels. Resize or convert it first."
            )
        items = pictures.float().cpu().split(1)
        return torch.cat([self._encoded.get(digest(x), partial(self._encode, x)) for x in items])

    def _encode(self, picture: Tensor) -> Tensor:
        """[1,H,W,3 or 4] -> [1,C,1,h,w]"""
        rows, sentence = self._plan(picture.shape[1], picture.shape[2], True)
        self._log_plan(sentence)
        with torch.inference_mode(), apart(self.device):
            x = picture.permute(0, 3, 1, 2).to(self.device, self.dtype).mul(2).sub(1)
            if rows is None:
                means, _ = self.network.moments(x)
            else:
                means, _ = moments_rows(self.network, x, rows)
        return means.float().cpu()[:, :, None]
