"""Previews of the picture while it is denoised.

Inside ComfyUI its preview setting decides: none, its own decoder for Qwen-Image's latents, or a
linear map from latents to colours. The map is the model folder's, else one fitted to the loaded
VAE, else ComfyUI's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .headless import headless_host
from .settings import shows_previews

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..loaders.models.diffusion_model import DiffusionModel
    from ..sampling.denoise import Step
    from ..sampling.request import Request

    Decoder = Callable[[Tensor], Image]

_LARGEST = 2048  # pixels on the longer side of a preview
_SHARE = 0.05  # of a run's time that a costly preview decoder may take


def previewer(model: DiffusionModel, request: Request) -> Callable[[Step], Image | None]:
    """A function from a finished step to a preview, or None where there is nothing to show."""
    method = preview_method()
    if method == "none":
        return lambda step: None
    if model.preview is None and method == "taesd":
        decoder = host_decoder(model)
        if decoder is not None:
            return _Sparing(decoder, model, request)
    return _Linear(model, request)


class _Linear:
    """All pictures of the run by one matrix; costs next to nothing compared to a step."""

    def __init__(self, model: DiffusionModel, request: Request) -> None:
        self._model, self._request = model, request
        self._factors = model.preview
        self._decoder: Decoder | None = None
        self._chosen = self._factors is not None

    def __call__(self, step: Step) -> Image | None:
        from ..sampling.preview import colours, sheet
        from ..sampling.sampler import normalised_latents

        if not self._chosen:
            self._choose()
        z = sheet(normalised_latents(self._model, step.x0, self._request))
        if self._factors is not None:
            return _enlarged(colours(z, self._factors), self._model.latents.scale)
        return None if self._decoder is None else self._decoder(z)

    def _choose(self) -> None:
        from ..loaders.models.vae import vae_in_use

        self._chosen = True
        vae = vae_in_use(self._model.latent_mean)
        if vae is not None:
            self._factors = vae.preview_factors()
        else:  # the VAE is loaded later, or it is ComfyUI's
            self._decoder = host_decoder(self._model)


class _Sparing:
    """A decoder that is skipped while it would take more than a small share of the run."""

    def __init__(self, decode: Decoder, model: DiffusionModel, request: Request) -> None:
        self._decode, self._model, self._request = decode, model, request
        self._cost, self._last = 0.0, time.monotonic()

    def __call__(self, step: Step) -> Image | None:
        from ..sampling.sampler import normalised_latents

        start, last = time.monotonic(), step.index + 1 == step.total
        if not last and (start - self._last) * _SHARE < self._cost:
            return None
        picture = self._decode(normalised_latents(self._model, step.x0, self._request)[0])
        self._last = time.monotonic()
        self._cost = self._last - start
        return picture


def _enlarged(pixels: Tensor, scale: int) -> Image:
    from PIL import Image

    picture = Image.fromarray(pixels.numpy())
    scale = max(1, min(scale, _LARGEST // max(picture.size)))
    size = picture.width * scale, picture.height * scale
    return picture.resize(size, Image.Resampling.BICUBIC)


def preview_method() -> str:
    """The user's choice of previews: none, auto, latent2rgb, taesd; headless auto or none."""
    headless = headless_host()
    if headless is not None:
        return "auto" if headless.previews else "none"
    from comfy.cli_args import args

    if not shows_previews():
        return "none"
    method = getattr(args, "preview_method", "auto")  # newer hosts set it again for every graph
    return str(getattr(method, "value", method))


def host_decoder(model: DiffusionModel) -> Decoder | None:
    """ComfyUI's own preview of a normalised latent [C,h,w] of this model; None headless, and where
    it has none.
    """
    if headless_host() is not None:
        return None
    import latent_preview
    from comfy import latent_formats

    wan = getattr(latent_formats, model.family.core.latents, None)
    decoder = latent_preview.get_previewer(model.device, wan()) if wan is not None else None
    if decoder is None:
        return None
    return lambda z: decoder.decode_latent_to_preview(z[None, :, None].float())
