"""Our models in the list of ComfyUI's memory manager, so that it can ask for their memory back.

Weights are ours (loaders/memory/residency.py): they come when a node works, as many as there is
room for. A `Guest` stands for one network in the manager's list: when core models need room, the
user presses "unload models" or the server gets /free, the manager unloads the guest, and the
weights leave; the next run reads their file again. What the flags ask for (--lowvram, --novram,
--reserve-vram, --disable-smart-memory, --cpu) comes in through the room that the manager grants.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from ..kernels.memory import free_bytes
from . import headless
from .headless import headless_host

if TYPE_CHECKING:
    import torch

    from ..loaders.memory.residency import Residency

log = logging.getLogger(__name__)

_SHARES = {"LOW_VRAM": 0.5, "NO_VRAM": 0.25}  # of free memory that weights may take, by flag
_guests: weakref.WeakKeyDictionary[Any, Guest] = weakref.WeakKeyDictionary()


class Guest:
    """What the manager asks of a model: sizes, and to leave. It never loads one by itself."""

    parent = None

    def __init__(self, weights: Residency) -> None:
        self._weights = weakref.ref(weights)
        self.model = weights.network
        self.load_device, self.offload_device = weights.device, _cpu()

    def model_size(self) -> int:
        """Bytes that it holds: what it does not hold it does not ask for."""
        weights = self._weights()
        return weights.held if weights is not None else 0

    loaded_size = model_size

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def is_clone(self, other: Any) -> bool:
        return other is self

    def is_dynamic(self) -> bool:
        return False

    def model_dtype(self) -> None:
        return None

    def model_patches_to(self, device: Any) -> None:
        """There are no patches."""

    def model_patches_models(self) -> list:
        return []

    def lowvram_patch_counter(self) -> int:
        return 0

    def partially_load(self, device: Any, extra: float = 0, force_patch_weights: bool = False):
        """Nothing: weights come in when a node of ours works."""
        return 0

    def partially_unload(self, device: Any, nbytes: float = 0, *_: Any, **__: Any) -> int:
        """All of it leaves: what was freed."""
        return self._leave()

    def detach(self, unpatch_all: bool = True) -> None:
        if unpatch_all:
            self._leave()

    def _leave(self) -> int:
        weights = self._weights()
        held = weights.held if weights is not None else 0
        if held:
            weights.park()
        return held


def guest_of(weights: Residency) -> Guest:
    """The one that stands for these weights."""
    if weights not in _guests:
        _guests[weights] = Guest(weights)
    return _guests[weights]


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def room(need: int, device: torch.device) -> int:
    """Bytes that weights may use on a device; core models leave for `need` of them.

    Called by every network of ours before it works, so here they become guests of the manager.
    """
    if headless.headless_host() is not None:
        return free_memory(need, device)
    from comfy import model_management as manager

    ours = [entry for entry in manager.current_loaded_models if isinstance(entry.model, Guest)]
    extra = _extra(manager)
    manager.free_memory(need + extra, device, keep_loaded=ours)
    _register(manager)
    free = int(manager.get_free_memory(device)) - extra
    if device.type == "cpu":  # a container's limit counts too
        return max(0, min(free, free_bytes(device)))
    return max(0, int(free * _SHARES.get(_state(manager), 1.0)))


def _extra(manager: Any) -> int:
    """Bytes that the user keeps for others (--reserve-vram)."""
    from comfy.cli_args import args

    if getattr(args, "reserve_vram", None) is None:
        return 0
    return int(getattr(manager, "extra_reserved_memory", int)())


def _state(manager: Any) -> str:
    return getattr(getattr(manager, "vram_state", None), "name", "")


def _register(manager: Any) -> None:
    """Every network of ours is in the manager's list, once; also one that is about to load."""
    from ..loaders.memory.residency import residencies

    listed = {id(entry.model) for entry in manager.current_loaded_models}
    for weights in residencies():
        guest = guest_of(weights)
        if id(guest) not in listed:
            _enter(manager, guest)


def _enter(manager: Any, guest: Guest) -> None:
    entry = manager.LoadedModel(guest)
    entry.real_model = weakref.ref(guest.model)
    entry.model_finalizer = weakref.finalize(guest.model, manager.cleanup_models)
    manager.current_loaded_models.insert(0, entry)


def torch_device() -> torch.device:
    """The device to compute on: the host's choice; headless the one asked for, else the best."""
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
    """Asks the host to make room (it unloads its own models); returns the bytes now free there."""
    if headless_host() is None:
        from comfy import model_management

        model_management.free_memory(bytes_needed, device)
        return int(model_management.get_free_memory(device))
    return free_bytes(device)
