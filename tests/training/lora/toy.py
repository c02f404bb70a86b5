"""A training without a model: the loop's parts on weights that learn the mean of some targets."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.pipeline.train_choices import TrainSettings
from inkstone.training.checkpoint import step_rng
from inkstone.training.dataset.example import Example
from inkstone.training.lora.distributed import Group
from inkstone.training.lora.loop import Loop, Task
from inkstone.training.lora.optimizer import optimizer_of
from inkstone.training.lora.order import Order
from inkstone.training.lora.state import opened

WIDTH, PICTURES = 72, 7  # a matrix of more than the 4096 numbers from which 8 bits are used
ALONE = Group()


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(WIDTH, generator=generator))
        self.b = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))


class Examples:
    """Targets; two sizes of pictures."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.targets = torch.randn(PICTURES, WIDTH, generator=generator)
        self.read: list[int] = []

    def buckets(self) -> list[list[int]]:
        return [[0, 2, 4, 6], [1, 3, 5]]

    def example(self, index: int) -> Example:
        self.read.append(index)
        target = self.targets[index]
        return Example(f"{index}.png", target[None], ((1, 1, 1),), target[None], target[None])


class Trainer:
    """Squared errors with noise; refuses choices that it was not prepared for."""

    def __init__(self, module: Toy) -> None:
        self.module, self.prepared = module, []
        self.windows: list[int] = []
        self.before = lambda examples: None  # called with the examples of each batch

    def look_ahead(self, draws) -> None:
        self.prepared = [one.noise for one in draws]
        self.windows.append(len(self.prepared))

    def backward(self, examples, draws, share: float) -> list[float]:
        self.before(examples)
        losses = []
        for example, one in zip(examples, draws, strict=True):
            assert one.noise in self.prepared
            noise = torch.from_numpy(np.random.default_rng(one.noise).standard_normal(WIDTH))
            x = example.latents[0] + 0.1 * noise.float()
            losses.append((self.module.b @ self.module.a - x).square().mean())
        (torch.stack(losses).sum() * share).backward()
        return [loss.item() for loss in losses]


def draws_of(seed: int):
    def draws(step: int, indices):
        numbers = step_rng(seed, "lora", step).integers(2**62, size=len(indices))
        return [SimpleNamespace(noise=int(number)) for number in numbers]

    return draws


def settings_of(folder: Path, **changes) -> TrainSettings:
    values = {"steps": 20, "batch": 2, "accumulate": 2, "lr": 0.05, "save_every": 6, "seed": 5}
    return TrainSettings(
        data=folder / "pictures", output=folder / "toy.safetensors", **values | changes
    )


def write_toy(module: nn.Module, settings: TrainSettings):
    def write(path: Path, step: int) -> None:
        save_safetensors(path, dict(module.named_parameters()), {"step": str(step)})

    return write


def train_toy(settings: TrainSettings, group: Group = ALONE, stop=None, prepare=None, **watch):
    """Trains; prepare(trainer, examples) may spoil something. Returns the reports."""
    module, examples, reports = Toy(), Examples(), []
    trainer = Trainer(module)
    if prepare is not None:
        prepare(trainer, examples)
    arguments = {"seed": settings.seed, "lr": settings.lr, "rank": 1, "pictures": PICTURES}
    with opened(settings, arguments, group) as folder:
        task = Task(
            settings=settings,
            steps=settings.steps,
            examples=examples,
            order=Order(examples.buckets(), settings.batch, settings.seed),
            draws=draws_of(settings.seed),
            trainer=trainer,
            adapter=module,
            optimizer=optimizer_of(settings, module.parameters()),
            folder=folder,
            write=write_toy(module, settings),
            group=group,
            **{"on_step": reports.append} | watch,
        )
        Loop(task).run(stop or threading.Event())
    return reports
