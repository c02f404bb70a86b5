"""Checkpoints of a training stage: everything needed to resume bit for bit after a stop.

Data comes from a generator seeded by (seed, stage, step), so no generator state needs saving: a
checkpoint is weights, their moving average, optimiser moments and the step, as safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CallError, InkstoneError
from ..files.atomic import write_text
from ..files.json_text import parse_json
from ..loaders.formats.safetensors import SafetensorsFile, save_safetensors

RUN = "run.json"  # the arguments of the run that a folder's checkpoints belong to


def require_same_run(folder: Path, arguments: Mapping[str, str | int | None]) -> None:
    """Remembers the arguments of a run in the folder of its checkpoints. Raises CallError where
    those that are there come from other arguments: they would be continued with the wrong data.
    """
    path = folder / RUN
    try:
        old = parse_json(path.read_text("utf-8")) if path.exists() else arguments
        if not isinstance(old, dict):
            raise ValueError(f"it holds {type(old).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise InkstoneError(
            f"{path}: cannot be read: {error}. Remove {folder} to start over."
        ) from None
    if old != arguments and any(folder.glob("*.safetensors")):
        before, now = (_as_options(each) for each in (old, arguments))
        raise CallError(
            f"{folder} has checkpoints of a run with {before}; this run has {now}. Give the same "
            "arguments to resume it, or choose another --out."
        )
    write_text(path, json.dumps(arguments, indent=2) + "\n")


def _as_options(arguments: Mapping[str, str | int | None]) -> str:
    given = [f"--{name} {value}" for name, value in arguments.items() if value is not None]
    return " ".join(given) or "no options"


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The generator for the data of one step."""
    return np.random.default_rng([seed, *stage.encode(), step])


class EMA:
    """Moving average of a module's parameters (decay .999, shorter while young)."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.shadow = {k: p.detach().clone() for k, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """One step: shadow += (p - shadow) * (1 - decay)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        names, params = zip(*module.named_parameters())
        torch._foreach_lerp_([self.shadow[n] for n in names], list(params), weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Sets a module's parameters to the averaged ones."""
        for name, p in module.named_parameters():
            p.copy_(self.shadow[name])


def warm_constant_linear(step: int, total: int, warm: int = 80, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, constant for half, linear to `floor`."""
    if step < warm:
        return (step + 1) / warm
    half = total / 2
    return 1.0 if step < half else max(floor, 1 - (1 - floor) * (step - half) / (total - half))


class Checkpoint:
    """Saves and restores (module, EMA, AdamW, step) under one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self, module: nn.Module, ema: EMA, optimiser: torch.optim.Optimizer, step: int
    ) -> None:
        """Writes the file; it is replaced whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for name, p in module.named_parameters():
            tensors["model." + name] = p.detach()
            tensors["ema." + name] = ema.shadow[name]
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value).detach()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(self.path, tensors, {"step": json.dumps(step)})

    def finished(self, steps: int) -> bool:
        """True if the file holds at least `steps` steps."""
        if not self.path.exists():
            return False
        with SafetensorsFile(self.path) as file:
            return self._step(file) >= steps

    def restore(self, module: nn.Module, ema: EMA, optimiser: torch.optim.Optimizer | None) -> int:
        """Fills all three and returns the next step (0 without a file)."""
        if not self.path.exists():
            return 0
        with SafetensorsFile(self.path) as file, torch.no_grad():
            step = self._step(file)
            for name, p in module.named_parameters():
                p.copy_(self._read(file, "model." + name, p))
                ema.shadow[name].copy_(self._read(file, "ema." + name, p))
                if optimiser is not None and f"adam.step.{name}" in file.entries:
                    like = {"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p}
                    optimiser.state[p] = {
                        k: self._read(file, f"adam.{k}.{name}", x) for k, x in like.items()
                    }
        return step

    def _step(self, file: SafetensorsFile) -> int:
        text = file.metadata.get("step", "")
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise self._fault(f"its number of steps is {text[:20]!r}, expected a whole number")
        return int(text)

    def _read(self, file: SafetensorsFile, name: str, like: Tensor) -> Tensor:
        entry = file.entries.get(name)
        if entry is None or entry.shape != tuple(like.shape) or not entry.dtype.is_floating_point:
            got = f"{list(entry.shape)} of {entry.type_name}" if entry is not None else "nothing"
            raise self._fault(f"{name} is {got}, expected floats {list(like.shape)}")
        return file.read(name)

    def _fault(self, problem: str) -> InkstoneError:
        return InkstoneError(
            f"{self.path}: {problem}. It is damaged, or of another version: remove "
            f"{self.path.parent} to start over."
        )
