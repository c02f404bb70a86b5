"""What the JSON files of a model folder say: schedule, pipeline, latent statistics."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...sampling.schedule import LAYERED, Schedule, from_config
from ..formats.hf_folder import _homes, config_of, read_json
from .family import Family

log = logging.getLogger(__name__)


def schedule_of(root: Path, family: Family, layered: bool = False) -> Schedule:
    """What the folder's scheduler_config.json says (merged Lightning folders ship their own).

    The layered pipeline computes mu by a rule of its own, whatever the config says of it.
    """
    for home in _homes(root):
        config = read_json(home / "scheduler" / "scheduler_config.json")
        if config:
            return replace(from_config(config), by_root=layered)
    return LAYERED if layered else family.schedule


def pipeline_of(part: Path) -> str:
    """The pipeline class that the model_index.json above a weight folder names; "" without one."""
    folder = part if part.is_dir() else part.parent
    name = read_json(folder.parent / "model_index.json").get("_class_name")
    return name if isinstance(name, str) else ""


def latent_statistics(root: Path, family: Family) -> tuple[Tensor, Tensor]:
    """Mean and std [1,16,1,1] of latents: a VAE's config.json, else the family's."""
    found = [(root, config_of(root))]
    found += [(h / "vae", read_json(h / "vae" / "config.json")) for h in _homes(root)]
    for place, config in found:
        if "latents_mean" in config or "latents_std" in config:
            pair = _statistics(place, config, len(family.latent_mean))
            break
    else:
        pair = family.latent_mean, family.latent_std
    return tuple(torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in pair)


def preview_factors(root: Path) -> Tensor | None:
    """[17,3]: `inkstone_preview` in a VAE's config.json (see sampling/preview.py), or None."""
    for home in _homes(root):
        values = read_json(home / "vae" / "config.json").get("inkstone_preview")
        if values is None:
            continue
        try:
            factors = torch.tensor(values, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            factors = torch.zeros(0)
        if factors.shape == (17, 3):
            return factors
        log.warning("%s: inkstone_preview is no 17x3 numbers: no previews", home / "vae")
    return None


def _statistics(place: Path, config: dict, count: int) -> tuple[list[float], list[float]]:
    pair = []
    for key, least in (("latents_mean", -math.inf), ("latents_std", 0.0)):
        values = config.get(key)
        sound = isinstance(values, list) and len(values) == count
        if not sound or not all(type(v) in (int, float) and least < v < math.inf for v in values):
            what = f"{len(values)} values" if isinstance(values, list) else repr(values)
            raise InkstoneError(
                f"{place}: {key} in config.json has {what}, expected {count} finite numbers"
                f"{' above 0' if least == 0 else ''}. Get the publisher's config.json again."
            )
        pair.append(values)
    return tuple(pair)
