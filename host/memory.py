"""Our models in the list of ComfyUI's memory manager, so that it can ask for their memory back.

Weights are ours (loaders/memory/residency.py): they are loaded when a node works, as many as fit. A
`Guest` represents one network in the manager's list. When core models need memory, the user presses
"unload models" or the server gets /free, the manager unloads the guest and the weights are freed;
the next run reads their file again. What the flags ask for (--lowvram, --novram, --reserve-vram,
--disable-smart-memory, --cpu) arrives through the memory that the manager grants.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

from ..kernels.memory import free_bytes, used_bytes
from .headless import headless_host
from .settings import memory_limit

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from ..loaders.memory.residency import Residency

log = logging.getLogger(__name__)

_SHARES = {"LOW_VRAM": 0.5, "NO_VRAM": 0.25}  # of free memory that weights may take, by flag
_guests: weakref.WeakKeyDictionary[Residency, Guest] = weakref.WeakKeyDictionary()


class Guest:
    """The interface that the manager needs of a model: its sizes, and to unload it. The manager
    never loads one by itself.
    """

    parent = None

    def __init__(self, weights: Residency) -> None:
        self._weights = weakref.ref(weights)
        self.model = weights.network
        self.load_device, self.offload_device = weights.device, _cpu()

    def model_size(self) -> int:
        """Bytes that are in memory now: the manager makes no room for the others."""
        weights = self._weights()
        return weights.reserved if weights is not None else 0

    loaded_size = model_size

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def is_clone(self, other: object) -> bool:
        return other is self

    def is_dynamic(self) -> bool:
        return False

    def model_dtype(self) -> None:
        return None

    def model_patches_to(self, device: object) -> None:
        """There are no patches."""

    def model_patches_models(self) -> list[object]:
        return []

    def lowvram_patch_counter(self) -> int:
        return 0

    def partially_load(
        self, device: object, extra: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Does nothing: weights are loaded when a node of ours works."""
        return 0

    def partially_unload(self, device: object, nbytes: float = 0, *_: object, **__: object) -> int:
        """Unloads all of it; returns the bytes freed."""
        return self._unload()

    def detach(self, unpatch_all: bool = True) -> None:
        if unpatch_all:
            self._unload()

    def _unload(self) -> int:
        weights = self._weights()
        size = weights.reserved if weights is not None else 0
        if weights is not None and size:
            weights.park()
        return size


def guest_of(weights: Residency) -> Guest:
    """The one guest that represents these weights."""
    if weights not in _guests:
        _guests[weights] = Guest(weights)
    return _guests[weights]


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def make_room(need: int, device: torch.device, ask: bool = True) -> int:
    """Unloads core models for `need` bytes; returns the bytes that our weights may use there.
    Without `ask` nothing is unloaded: the bytes that there would be without core models.

    Every network of ours calls this before it works, so here it becomes a guest of the manager.
    """
    if headless_host() is not None:
        return free_memory(need, device)
    from comfy import model_management as manager

    listed = manager.current_loaded_models
    ours = [entry for entry in listed if isinstance(entry.model, Guest)]
    extra, left = _reserved(manager), _left_of_limit(device)
    if ask and left is not None:  # core models count within the limit, so more of them may go
        need += max(0, int(manager.get_free_memory(device)) - left)
    if ask:
        manager.free_memory(need + extra, device, keep_loaded=ours)
        _register(manager)
    core = [] if ask else [e.model for e in listed if e not in ours and e.device == device]
    held = sum(int(model.loaded_size()) for model in core if model is not None)
    free = int(manager.get_free_memory(device)) - extra + held
    if left is not None:
        free = min(free, (_left_of_limit(device) or 0) + held)
    if device.type == "cpu":  # a container's limit counts too
        return max(0, min(free, free_bytes(device) + held))
    return max(0, int(free * _SHARES.get(_state(manager), 1.0)))


_limit_in_log: int | None = None  # the limit that the log has named


def _left_of_limit(device: torch.device) -> int | None:
    """Bytes that the user's memory limit leaves on a device; None without a limit."""
    global _limit_in_log
    limit = memory_limit()
    if limit != _limit_in_log:
        _limit_in_log = limit
        if limit is None:
            log.info("the memory limit of the settings is lifted")
        else:
            log.info("the memory limit of the settings is %.2f GB", limit / 1e9)
    return None if limit is None else max(0, limit - used_bytes(device))


def _reserved(manager: ModuleType) -> int:
    """Bytes that the user reserves for other programs (--reserve-vram)."""
    from comfy.cli_args import args

    if getattr(args, "reserve_vram", None) is None:
        return 0
    return int(getattr(manager, "extra_reserved_memory", int)())


def _state(manager: ModuleType) -> str:
    return getattr(getattr(manager, "vram_state", None), "name", "")


def _register(manager: ModuleType) -> None:
    """Adds every network of ours to the manager's list, once; also one that is about to load."""
    from ..loaders.memory.residency import residencies

    listed = {id(entry.model) for entry in manager.current_loaded_models}
    for weights in residencies():
        guest = guest_of(weights)
        if id(guest) not in listed:
            _enter(manager, guest)


def _enter(manager: ModuleType, guest: Guest) -> None:
    entry = manager.LoadedModel(guest)
    entry.real_model = weakref.ref(guest.model)
    entry.model_finalizer = weakref.finalize(guest.model, manager.cleanup_models)
    manager.current_loaded_models.insert(0, entry)


def torch_device() -> torch.device:
    """The device to compute on: the host's choice; headless the chosen one, else the best."""
    import torch

    headless = headless_host()
    if headless is None:
        from comfy import model_management

        return model_management.get_torch_device()
    if headless.device:
        return torch.device(headless.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_memory(bytes_needed: int, device: torch.device) -> int:
    """Asks the host to unload its own models; returns the bytes now free on the device."""
    if headless_host() is None:
        from comfy import model_management

        model_management.free_memory(bytes_needed, device)
        return int(model_management.get_free_memory(device))
    return free_bytes(device)
