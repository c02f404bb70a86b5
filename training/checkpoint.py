"""Checkpoints of a training stage: everything needed to resume bit for bit after a stop.

Data comes from a generator seeded by (seed, stage, step), so no generator state needs saving: a
checkpoint is weights, their moving average, optimiser moments and the step, as safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CallError, InkstoneError
from ..files.atomic import write_text
from ..files.json_text import parse_json
from ..loaders.formats.safetensors import SafetensorsFile, TensorEntry, save_safetensors

RUN = "run.json"  # the arguments of the run that a folder's checkpoints belong to
Argument: TypeAlias = "str | int | float | None"
_MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2")  # AdamW's, and its 8-bit form's
_FEW = 3  # arguments that a message repeats whole


def require_same_run(
    folder: Path,
    arguments: Mapping[str, Argument],
    option: str = "--out",
    why: Callable[[Mapping[str, Argument]], str] = lambda _: "",
) -> None:
    """Remembers the arguments of a run in the folder of its checkpoints. Raises CallError where
    those that are there come from other arguments: they would be continued with the wrong data.
    option: that of the run's result; why: of the arguments that are there, a sentence that says
    more than the two lists, or "".
    """
    path = folder / RUN
    try:
        old = parse_json(path.read_text("utf-8")) if path.exists() else dict(arguments)
        if not isinstance(old, dict):
            raise ValueError(f"it holds {type(old).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise InkstoneError(
            f"{path}: cannot be read: {error}. Remove {folder} to start over."
        ) from None
    if old != arguments and any(folder.glob("*.safetensors")):
        if sentence := why(old):
            raise CallError(sentence)
        names = list(dict.fromkeys((*old, *arguments)))
        if len(names) > _FEW:  # those that differ
            names = [name for name in names if old.get(name) != arguments.get(name)]
        before, now = (_as_options(each, names) for each in (old, arguments))
        raise CallError(
            f"{folder} has checkpoints of a run with {before}; this run has {now}. Give the same "
            f"arguments to resume it, or choose another {option}."
        )
    write_text(path, json.dumps(arguments, indent=2) + "\n")


def _as_options(arguments: Mapping[str, Argument], names: Sequence[str]) -> str:
    values = {name: arguments.get(name) for name in names}
    given = [f"--{name} {value}" for name, value in values.items() if value is not None]
    return " ".join(given) or "no " + (" ".join(f"--{n}" for n in names) if names else "options")


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
    """Saves and restores (module, EMA, optimiser, step) under one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self, module: nn.Module, ema: EMA | None, optimiser: torch.optim.Optimizer, step: int
    ) -> None:
        """Writes the file; it is replaced whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for name, p in module.named_parameters():
            tensors["model." + name] = p.detach()
            if ema is not None:
                tensors["ema." + name] = ema.shadow[name]
            for key, value in optimiser.state.get(p, {}).items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value).detach()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(self.path, tensors, {"step": json.dumps(step)})

    def step(self) -> int:
        """The steps that the file holds (0 without one)."""
        if not self.path.exists():
            return 0
        with self._opened() as file:
            return self._step(file)

    def finished(self, steps: int) -> bool:
        """True if the file holds at least `steps` steps."""
        return self.path.exists() and self.step() >= steps

    def restore(
        self, module: nn.Module, ema: EMA | None, optimiser: torch.optim.Optimizer | None
    ) -> int:
        """Fills all three and returns the next step (0 without a file)."""
        if not self.path.exists():
            return 0
        with self._opened() as file, torch.no_grad():
            step = self._step(file)
            for name, p in module.named_parameters():
                p.copy_(self._read(file, "model." + name, p))
                if ema is not None:
                    ema.shadow[name].copy_(self._read(file, "ema." + name, p))
            if optimiser is not None:
                self._restore_moments(file, dict(module.named_parameters()), optimiser)
        return step

    def _restore_moments(
        self,
        file: SafetensorsFile,
        parameters: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """The optimiser's state as it was, on the devices of the parameters."""
        keys: dict[str, list[str]] = {}
        for entry in file.entries:
            parts = entry.split(".", 2)
            if len(parts) == 3 and parts[0] == "adam":
                keys.setdefault(parts[2], []).append(parts[1])
        for name, p in parameters.items():
            like = {"step": torch.zeros(()), **dict.fromkeys(_MOMENTS, p)}
            own = keys.get(name, [])
            own += [] if "state1" in own or "step" not in own else ["exp_avg", "exp_avg_sq"]
            state = {
                key: self._read(file, f"adam.{key}.{name}", like.get(key)).to(p.device)
                for key in own
            }
            if "step" in state:
                optimiser.state[p] = state | {"step": _count(state["step"], optimiser)}

    def _step(self, file: SafetensorsFile) -> int:
        text = file.metadata.get("step", "")
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise self._fault(f"its number of steps is {text[:20]!r}, expected a whole number")
        return int(text)

    def _read(self, file: SafetensorsFile, name: str, like: Tensor | None) -> Tensor:
        """A tensor of the shape of `like`; of any without one, and floats or 8-bit codes."""
        entry = file.entries.get(name)
        shape = None if like is None else tuple(like.shape)
        fit = entry is not None and shape in (None, entry.shape)
        if (
            entry is None
            or not fit
            or not (entry.dtype.is_floating_point or _is_coded(name, entry))
        ):
            got = f"{list(entry.shape)} of {entry.type_name}" if entry is not None else "nothing"
            wanted = "" if shape is None else f" {list(shape)}"
            raise self._fault(f"{name} is {got}, expected floats{wanted}")
        return file.read(name)

    def _opened(self) -> SafetensorsFile:
        try:
            return SafetensorsFile(self.path)
        except InkstoneError as error:
            raise self._fault("it is no whole .safetensors file") from error

    def _fault(self, problem: str) -> InkstoneError:
        return InkstoneError(
            f"{self.path}: {problem}. It is damaged, or of another version: remove "
            f"{self.path.parent} to start over."
        )


def _count(step: Tensor, optimiser: torch.optim.Optimizer) -> Tensor | int:
    """The step as an optimiser keeps it: bitsandbytes as a number, a fused one on the device."""
    if not step.is_floating_point():
        return int(step)
    return step if optimiser.defaults.get("fused") else step.cpu()


def _is_coded(name: str, entry: TensorEntry) -> bool:
    """True for what an 8-bit optimiser keeps in whole numbers."""
    codes = entry.dtype == torch.uint8 and name.startswith(("adam.state1.", "adam.state2."))
    return codes or (entry.dtype == torch.int64 and name.startswith("adam.step."))
