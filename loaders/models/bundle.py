"""The loaded models: what sampling, nodes and command line hold. load.py makes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .diffusion_model import DiffusionModel
from .text_encoder import TextEncoderModel
from .vae import VAEModel

log = logging.getLogger(__name__)


@dataclass
class Bundle:
    """The three models of one folder. A plan can be made of fewer: then some are None."""

    model: DiffusionModel
    text_encoder: TextEncoderModel | None
    vae: VAEModel | None
