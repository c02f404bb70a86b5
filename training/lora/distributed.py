"""Data parallel training: each process takes its share of a step's batches, gradients are summed.

Processes are started by torchrun, which names them in the environment. The batches of a step and
all that is random in them are those of one process with as many times the accumulation, so the loss
curve is the same up to the rounding of sums. Only the first process writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import CallError, InkstoneError

_PATIENCE = timedelta(hours=12)  # while the first process encodes pictures or draws samples


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them."""

    rank: int = 0
    size: int = 1
    place: int = 0  # of this process on its machine

    @property
    def first(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one type and device by their sums over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise InkstoneError(
                "Another process of this run ended or cannot be reached "
                f"({str(error).splitlines()[0]}). Its own output says why; the same command "
                "resumes."
            ) from error
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Waits for all processes to come here."""
        self.sum([torch.zeros(1, device=self._device())])

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process runs the block, then the others: what it made is there for them."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def _device(self) -> torch.device:
        return torch.device("cuda", self.place) if _uses_nccl() else torch.device("cpu")


def _uses_nccl() -> bool:
    return dist.is_initialized() and dist.get_backend() == "nccl"


def group_in_environment() -> Group:
    """This process among those that torchrun started; alone without it. Raises CallError."""
    values = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not values[1]:
        return Group()
    try:
        rank, size, place = (int(value or 0) for value in values)
    except ValueError:
        raise CallError(
            "RANK, WORLD_SIZE and LOCAL_RANK in the environment are "
            f"{', '.join(map(repr, values))}: expected numbers, as torchrun sets them."
        ) from None
    return Group(rank, size, place)


def own_device(group: Group, device: torch.device) -> torch.device:
    """The device of this process: of several on one machine each has a card of its own."""
    if group.size == 1 or device.type != "cuda" or device.index is not None:
        return device
    count = torch.cuda.device_count()
    if group.place >= count:
        raise CallError(
            f"torchrun starts process {group.place + 1} on this machine, which has {count} cards. "
            f"Use --nproc-per-node {count}, or --device cpu."
        )
    return torch.device("cuda", group.place)


@contextmanager
def joined(group: Group, device: torch.device) -> Iterator[Group]:
    """Connects the processes while the block runs: over nccl on CUDA, else over gloo."""
    if group.size == 1:
        yield group
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InkstoneError(
            f"The {group.size} processes of this run cannot connect: "
            f"{str(error).splitlines()[0]}. Start them with torchrun."
        ) from error
    try:
        yield group
    finally:
        dist.destroy_process_group()
