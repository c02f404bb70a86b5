"""The JSON files of a model folder: config, schedule, pipeline, latent statistics, previews.

One `ModelFolder` lives as long as one load and reads each file once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...sampling.schedule import LAYERED, Schedule, from_config
from ..formats.hf_folder import config_of, homes, part_of, read_json
from .family import Family

log = logging.getLogger(__name__)

_LARGEST = 1e30  # of a number; float32 ends at 3e38

Config = Mapping[str, object]


class ModelFolder:
    """The folder around a weight file. `root` is the path that the user named, `part` the file or
    folder of the weights in it.
    """

    def __init__(self, root: str | Path, part: str = "") -> None:
        self.root = Path(root)
        self.part = part_of(self.root, part) if part else self.root
        self._files: dict[Path, Config] = {}

    def read(self, path: Path) -> Config:
        """A JSON object; {} where there is none."""
        if path not in self._files:
            self._files[path] = read_json(path)
        return self._files[path]

    @cached_property
    def config(self) -> Config:
        """config.json of the weights."""
        return config_of(self.part, self.read)

    @property
    def pipeline(self) -> str:
        """The pipeline class that the model_index.json above the weights names; "" without one."""
        folder = self.part if self.part.is_dir() else self.part.parent
        name = self.read(folder.parent / "model_index.json").get("_class_name")
        return name if isinstance(name, str) else ""

    def schedule(self, family: Family, layered: bool = False) -> Schedule:
        """The schedule of scheduler_config.json (merged Lightning folders ship their own).

        The layered pipeline computes mu by a rule of its own, whatever the config says of it.
        """
        for home in homes(self.root):
            config = self.read(home / "scheduler" / "scheduler_config.json")
            if config:
                return replace(from_config(dict(config)), by_root=layered)
        return LAYERED if layered else family.schedule

    def latent_statistics(self, family: Family) -> tuple[Tensor, Tensor]:
        """Mean and std [1,C,1,1] of latents: from a VAE's config.json, else the family's."""
        places = [(self.root, config_of(self.root, self.read))]
        places += [(h / "vae", self.read(h / "vae" / "config.json")) for h in homes(self.root)]
        for place, config in places:
            if "latents_mean" in config or "latents_std" in config:
                mean, std = _statistics(place, config, len(family.latent_mean))
                return _column(mean), _column(std)
        return _column(family.latent_mean), _column(family.latent_std)

    def preview_factors(self, channels: int = 16) -> Tensor | None:
        """[C+1,3]: `inkstone_preview` in a VAE's config.json (see sampling/preview.py), or None."""
        for home in homes(self.root):
            values = self.read(home / "vae" / "config.json").get("inkstone_preview")
            if values is None:
                continue
            try:
                factors = torch.tensor(values, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                factors = torch.zeros(0)
            if factors.shape == (channels + 1, 3):
                return factors
            log.warning(
                "%s: inkstone_preview in config.json is not %dx3 numbers: no previews",
                home / "vae",
                channels + 1,
            )
        return None


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _statistics(
    place: Path, config: Config, count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (
        _numbers(place, config, "latents_mean", count, -math.inf),
        _numbers(place, config, "latents_std", count, 0.0),
    )


def _numbers(place: Path, config: Config, key: str, count: int, least: float) -> tuple[float, ...]:
    """`count` finite numbers above `least`, or an error that names the file."""
    values = config.get(key)
    if (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and least < v and abs(v) < _LARGEST for v in values)
    ):
        return tuple(values)
    got = f"{len(values)} values" if isinstance(values, list) else repr(values)
    raise InkstoneError(
        f"{place}: {key} in config.json has {got}, expected {count} finite numbers"
        f"{' above 0' if least == 0 else ''}. Get the publisher's config.json again."
    )
