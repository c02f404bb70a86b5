"""The three loaded models of a drawing."""

from __future__ import annotations

from dataclasses import dataclass

from .diffusion_model import DiffusionModel
from .text_encoder import TextEncoderModel
from .vae import VAEModel


@dataclass
class Bundle:
    """The three models of one folder. A memory plan needs only the first."""

    model: DiffusionModel
    text_encoder: TextEncoderModel | None
    vae: VAEModel | None
