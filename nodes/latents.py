"""LATENT {"samples": raw VAE latents}: the keys that we read and write, the core's and ours."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypedDict

from ..errors import InkstoneError

if TYPE_CHECKING:
    from torch import Tensor

    from ..controlnet.canvas import Canvas
    from ..loaders.models.vae import VAEModel
    from ..sampling.geometry import LatentSpec
    from ..sampling.inpaint import Crop
    from ..sampling.pixel_lock import Lock

    Statistics = tuple[Tensor, Tensor]  # mean and std [1,C,1,1]

log = logging.getLogger(__name__)

SAMPLES: Final = "samples"
MASK: Final = "noise_mask"
LOCK: Final = "inkstone_lock"  # where the picture lies on the canvas
CROP: Final = "inkstone_crop"  # the part of a picture that is inpainted
LAYERS: Final = "inkstone_layers"  # number of layers to generate
BATCH_INDEX: Final = "batch_index"  # core: which noise of a batch each picture has
STATISTICS: Final = "inkstone_statistics"  # of the VAE whose raw latents these are
RATIO: Final = "downscale_ratio_spacial"  # core: picture pixels per latent pixel
OWN_SIZE: Final = "inkstone_own_size"  # empty, and the sampler's model decides the size


class Latent(TypedDict, total=False):
    """A LATENT. Nodes of the core and of other packs add keys."""

    samples: Tensor
    noise_mask: Tensor
    inkstone_lock: Lock
    inkstone_crop: Crop
    inkstone_layers: int
    inkstone_statistics: Statistics
    inkstone_own_size: bool
    batch_index: list[int]
    downscale_ratio_spacial: float


def latent_of(samples: Tensor, lock: Lock, vae: VAEModel) -> Latent:
    """The LATENT of a picture that this lock places on its canvas."""
    return {SAMPLES: samples, LOCK: lock, STATISTICS: (vae.mean, vae.std)}


def latent_samples(latent: Latent, layers: bool = False) -> Tensor:
    """Samples [B,C,1,h,w]; 4-D is read as one frame. layers: allows more frames."""
    samples = latent[SAMPLES]
    if samples.dim() == 4:
        samples = samples[:, :, None]
    right = samples.dim() == 5 and samples.shape[1] in _specs()
    if not right or not (layers or samples.shape[2] == 1):
        kinds = " or ".join(spec.words() for spec in _specs().values())
        raise InkstoneError(
            f"The latent has shape {list(latent[SAMPLES].shape)}: expected {kinds}. Use the node "
            "Inkstone Empty Latent."
        )
    return samples


def _specs() -> dict[int, LatentSpec]:
    """The latents of all families, by their channels."""
    from ..loaders.arch.family import FAMILIES

    return {family.latents.channels: family.latents for family in FAMILIES.values()}


def scale_of(samples: Tensor) -> int:
    """Picture pixels per latent pixel of samples [B,C,...]; 8 for channels of no family, as core's
    Empty Latent Image makes them.
    """
    spec = _specs().get(samples.shape[1])
    return spec.scale if spec else 8


def spec_of(latent: Latent) -> LatentSpec:
    """The latents that these are, by their channels."""
    return _specs()[latent_samples(latent, layers=True).shape[1]]


def restated(latent: Latent, vae: VAEModel) -> Tensor:
    """The samples as raw latents of this VAE. A diffusion model that was loaded without its VAE
    knows only the statistics of its family; this VAE may have others.
    """
    samples, own = latent_samples(latent, layers=True), latent.get(STATISTICS)
    if own is None or samples.shape[1] != vae.mean.shape[1]:  # another family: decode refuses it
        return samples
    if all(bool((a == b).all()) for a, b in zip(own, (vae.mean, vae.std))):
        return samples
    mean, std, new_mean, new_std = (x[:, :, None].to(samples) for x in (*own, vae.mean, vae.std))
    return (samples - mean) / std * new_std + new_mean


def inpaint_mask(latent: Latent) -> Tensor | None:
    """The mask of what is inpainted [n,1,h,w], or None for all of it.

    noise_mask may have any size, ours or the core's: it is stretched over the picture, and a latent
    cell is inpainted if any pixel of it is.
    """
    from ..sampling.masks import bounds, ends, latent_mask, mask_for
    from ..sampling.pixel_lock import lock

    mask, (height, width) = latent.get(MASK), latent[SAMPLES].shape[-2:]
    if mask is None:
        return None
    if mask.shape[-2:] == (height, width):
        return ends(mask.reshape(-1, 1, height, width))
    spec = spec_of(latent)
    place = latent.get(LOCK) or lock(width * spec.scale, height * spec.scale, latents=spec)
    mask = mask_for(mask, place.picture)
    bounds(mask)  # refuses an empty mask
    return latent_mask(mask, place)


def canvas(latent: Latent) -> Canvas:
    """The canvas to which control pictures are fitted."""
    from ..controlnet.canvas import canvas_of

    spec = spec_of(latent)
    height, width = (side * spec.scale for side in latent[SAMPLES].shape[-2:])
    return canvas_of(width, height, latent.get(CROP) or latent.get(LOCK), spec)


def warn_of_batch_index(latent: Latent) -> None:
    """One line when core's nodes chose other noises than the first ones of a batch."""
    index = latent.get(BATCH_INDEX)
    if index is not None and list(index) != list(range(len(index))):
        log.warning(
            "the latent's batch_index %s (Latent From Batch, Repeat Latent Batch) is ignored: "
            "picture k uses seed + k; set the seed of the picture that you want",
            list(index)[:8],
        )
