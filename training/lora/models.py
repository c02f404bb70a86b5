"""The models of a training: which files they are, and how each is loaded when its turn comes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CallError
from ...files.paths import check_given
from ...loaders.arch.identify import BESIDE, parts_beside
from ...loaders.models.diffusion_model import DiffusionModel
from ...loaders.models.load import (
    EMBEDDED_FOLDER,
    load_diffusion_model,
    load_text_encoder,
    load_vae,
)
from ...loaders.models.text_encoder import TextEncoderModel
from ...loaders.models.vae import VAEModel
from ...loaders.models.weight_file import LoadOptions
from ...pipeline.devices import check_device
from ...pipeline.train_choices import TrainSettings
from ..dataset.cache import Encoders

log = logging.getLogger(__name__)

USUAL_SIDE = 1024  # pixels: what trainers of large models use; a small model has its own


@dataclass(frozen=True)
class ModelFiles:
    """The files of the three models, and how they are loaded."""

    model: Path
    text_encoder: Path
    vae: Path
    options: LoadOptions

    def diffusion_model(self) -> DiffusionModel:
        """The model that is trained; its weights are read when it is used."""
        model = load_diffusion_model(self.model, self.options)
        few = model.trained_for
        if few is not None:
            log.warning(
                "%s is %s, %s: a LoRA that is trained on it tends to undo that; "
                "train on the model that it was made of, and use the LoRA with this one",
                model.path.name,
                few.words(),
                few.why,
            )
        return model

    def encoders(self) -> Encoders:
        """Text encoder and VAE, not loaded yet."""
        return Encoders(self._text_encoder, self._vae)

    def _text_encoder(self) -> TextEncoderModel:
        return load_text_encoder(self.text_encoder, self.options)

    def _vae(self) -> VAEModel:
        return load_vae(self.vae, self.options)


def device_of(settings: TrainSettings) -> torch.device:
    """The device to train on: the user's, else the best. Raises CallError."""
    check_device(settings.device)
    if settings.device:
        return torch.device(settings.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def model_files(settings: TrainSettings, device: torch.device) -> ModelFiles:
    """The files of a call. Raises CallError where one is missing."""
    model = settings.model or EMBEDDED_FOLDER
    given = {"text_encoder": settings.text_encoder, "vae": settings.vae}
    for name, path in (("model", settings.model), *given.items()):
        if path is not None:
            check_given(path, "--" + name.replace("_", "-"))
    held = parts_beside(model) if model.is_file() else frozenset(BESIDE)
    absent = [role for role, path in given.items() if path is None and role not in held]
    if absent:
        options = " and ".join("--" + role.replace("_", "-") for role in absent)
        raise CallError(
            f"{model} is a single file, so {options} must be given too. Or give --model a whole "
            "model folder, or a checkpoint with all three in one file."
        )
    return ModelFiles(
        model,
        settings.text_encoder or model,
        settings.vae or model,
        LoadOptions(
            dtype=None if settings.dtype is None else getattr(torch, settings.dtype),
            device=device,
            budget=settings.memory,
            wait=True,
            variant=settings.variant,
        ),
    )


def resolution_of(settings: TrainSettings, model: DiffusionModel) -> int:
    """The side of a square bucket: as set, or the model's usual size, at most USUAL_SIDE."""
    if settings.resolution is not None:
        return settings.resolution
    side = min(math.isqrt(math.prod(model.preset().size)), USUAL_SIDE)
    return side // model.latents.step * model.latents.step
