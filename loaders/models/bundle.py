"""The three loaded models of a drawing."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InkstoneError
from ..arch.family import Family
from .diffusion_model import DiffusionModel
from .text_encoder import TextEncoderModel
from .vae import VAEModel


@dataclass
class Bundle:
    """The three models of one folder. A memory plan needs only the first."""

    model: DiffusionModel
    text_encoder: TextEncoderModel | None
    vae: VAEModel | None

    def __post_init__(self) -> None:
        if self.text_encoder is not None:
            check_prompts(self.model, self.text_encoder)
        if self.vae is not None:
            check_latents(self.model, self.vae)


def check_prompts(model: DiffusionModel, text: TextEncoderModel) -> None:
    """Raises where this text encoder does not write what the model reads: encoding may take
    minutes.
    """
    reads, writes = model.network.config.joint, text.network.config.width
    if reads != writes:
        raise InkstoneError(
            f"The diffusion model {model.path.name} reads prompts {reads} wide, and the text "
            f"encoder {text.path.name} writes {writes} ({_maker(text.family)}). Load the text "
            f"encoder of {model.family.noun}"
            + ("." if model.family.shipped else f": {model.family.encoder.full}.")
        )


def _maker(family: Family) -> str:
    """Whose a text encoder is."""
    return f"of {family.noun}" if family.shipped else family.encoder.title


def check_latents(model: DiffusionModel, vae: VAEModel) -> None:
    """Raises where this VAE cannot decode what the model draws: a drawing may take minutes."""
    own, config = model.latents, vae.network.config
    if (own.channels, own.scale) != (config.z, config.scale):
        raise InkstoneError(
            f"The diffusion model {model.path.name} draws latents of {own.channels} channels at "
            f"1/{own.scale} size, and the VAE {vae.path.name} is for {config.z} at "
            f"1/{config.scale} (of {vae.family.noun}). Load the VAE of {model.family.noun}."
        )
