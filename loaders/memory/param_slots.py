"""The parameters of a network as places that are filled from a file, emptied, and filled again.

A network is built on the meta device; every parameter is one slot that knows how to read its own
value. Loading is filling all slots; a model that leaves memory is emptied; streaming fills the
slots of one block while another is at work. What is read is a float tensor, or a weight kept in the
form of its file (quant/).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.interrupt import beat, waited
from ...kernels.linear import Linear
from ...quant.storage import PackedWeight, PlainStorage, Storage
from ..formats.file_reader import scratch
from ..formats.weight_reader import WeightReader

_READERS = 2  # threads that fill: reading waits for copies, and one core does not fill the bus
_MANY = 1 << 28  # bytes from which a second reader pays


@dataclass(frozen=True)
class ParamSlot:
    """One parameter: its place, its bytes in memory, and how it is read (to the CPU)."""

    module: nn.Module
    leaf: str
    nbytes: int
    read: Callable[[], Tensor | Storage]
    blank: nn.Parameter  # on the meta device: what is there while the slot is empty

    def put(self, value: Tensor | Storage) -> None:
        """Takes a value that is already on its device."""
        if isinstance(value, Storage):
            self.module.hold(value)
        else:
            self.module._parameters[self.leaf] = nn.Parameter(value, requires_grad=False)

    def fill(self, device: torch.device) -> None:
        """Reads the value and puts it in place."""
        self.put(self.read().to(device))

    def empty(self) -> None:
        """Lets go of the value."""
        if self.leaf == "weight" and getattr(self.module, "storage", None) is not None:
            self.module.hold(None)
        self.module._parameters[self.leaf] = self.blank


def fill_all(slots: Iterable[ParamSlot], device: torch.device) -> None:
    """Fills every slot; large amounts with two readers."""
    slots = list(slots)
    total, done = sum(slot.nbytes for slot in slots), 0
    if total < _MANY:
        for slot in slots:
            beat()
            slot.fill(device)
        return
    pool = ThreadPoolExecutor(_READERS, "inkstone-read")
    try:
        coming = deque(pool.submit(_value, slot, device) for slot in slots)
        for slot in slots:
            slot.put(waited(coming.popleft()))
            done += slot.nbytes
            beat("weights, GB", done / 1e9, total / 1e9)
    finally:  # a stop does not wait for a tensor of gigabytes: nobody takes it
        pool.shutdown(wait=False, cancel_futures=True)


def _value(slot: ParamSlot, device: torch.device) -> Tensor | Storage:
    return slot.read().to(device)


@dataclass(frozen=True)
class WeightPolicy:
    """How weights are kept: the type that is computed in, and whether floats of half that size stay
    as they are in the file (a model too large to be widened)."""

    dtype: torch.dtype
    narrow: bool = False


def slots_of(
    network: nn.Module,
    source: WeightReader,
    table: Mapping[str, str],
    found: Mapping[str, PackedWeight],
    kept: WeightPolicy,
) -> list[ParamSlot]:
    """A slot for every parameter of a network on the meta device.

    table: our name -> the file's; found: weights in packed formats. Raises InkstoneError for what
    is missing and for integers that no known format explains. Nothing is read.
    """
    params = dict(network.named_parameters())
    biases = biases_of(found)
    _refuse_missing(source, [n for n in params if n not in {**table, **found, **biases}])
    slots = []
    for name, blank in params.items():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        if name in found and hasattr(module, "hold"):
            nbytes, read = found[name].nbytes, found[name].load
        elif name in biases:
            nbytes = blank.numel() * kept.dtype.itemsize
            read = partial(_bias, biases[name], kept.dtype)
        else:
            nbytes, read = _plain(source, name, table, found, blank, module, kept)
        slots.append(ParamSlot(module, leaf, nbytes, read, blank))
    return slots


def biases_of(found: Mapping[str, PackedWeight]) -> dict[str, Callable[[], Tensor]]:
    """Our name -> reader of every bias that a packed format has in another form."""
    return {
        f"{name.removesuffix('.weight')}.bias": weight.bias
        for name, weight in found.items()
        if weight.bias is not None
    }


def _bias(read: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    return read().to(dtype)


def _plain(
    source: WeightReader,
    name: str,
    table: Mapping[str, str],
    found: Mapping[str, PackedWeight],
    blank: nn.Parameter,
    module: nn.Module,
    kept: WeightPolicy,
) -> tuple[int, Callable[[], Tensor | Storage]]:
    """Bytes and reader of a parameter that is a float tensor in memory."""
    shape = tuple(blank.shape)
    if name in found:  # a packed weight where the network needs floats
        load, dtype = found[name].load, kept.dtype
        return blank.numel() * dtype.itemsize, lambda: load().dequantize(dtype)
    entry = source.entries[table[name]]
    if not entry.dtype.is_floating_point and getattr(entry, "kind", None) is None:
        raise InkstoneError(
            f"{source.path}: tensor {table[name]} holds {dtype_name(entry.dtype)}, expected "
            "floats. The file is quantized in a form that this version does not read: use the file "
            "in bf16."
        )
    half = entry.dtype in (torch.bfloat16, torch.float16) and kept.dtype == torch.float32
    matrix = isinstance(module, Linear) and len(shape) == 2 and entry.shape == shape
    if kept.narrow and half and matrix:
        return blank.numel() * 2, lambda: PlainStorage(source.read(table[name]))
    return (
        blank.numel() * kept.dtype.itemsize,
        lambda: read_shaped(source, table[name], shape, kept.dtype),
    )


def read_weight(
    source: WeightReader, table: Mapping[str, str], found: Mapping[str, PackedWeight], name: str
) -> Tensor | Storage:
    """One tensor by our name, on the CPU: packed as it is, else as the file has it."""
    if name in found:
        return found[name].load()
    beside = found.get(f"{name.removesuffix('.bias')}.weight")
    if name.endswith(".bias") and beside is not None and beside.bias is not None:
        return beside.bias()
    return source.read(table[name])


def read_shaped(
    source: WeightReader, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """One tensor in the network's shape: a 3-D kernel's last slice, gammas without empty axes."""
    stored = source.entries[name].shape
    if stored == shape:
        return source.read(name, dtype=dtype)
    if len(stored) == 5 and len(shape) == 4 and (*stored[:2], *stored[3:]) == shape:
        # one frame of a causal 3-D convolution sees only the last temporal slice
        whole = source.read(name, out=scratch(stored, dtype))
        return whole[:, :, -1].contiguous(memory_format=torch.channels_last)
    if tuple(s for s in stored if s != 1) == tuple(s for s in shape if s != 1):
        return source.read(name, dtype=dtype).reshape(shape)
    raise InkstoneError(
        f"{source.path}: tensor {name} has shape {list(stored)}, expected {list(shape)}. "
        "The file mixes models or is damaged: download it again."
    )


def _refuse_missing(source: WeightReader, missing: list[str]) -> None:
    if missing:
        raise InkstoneError(
            f"{source.path}: {len(missing)} tensors are missing, e.g. {', '.join(missing[:5])}. "
            "The file is incomplete or of another model: check it with `inkstone inspect`, "
            "download it again."
        )


def dtype_name(dtype: torch.dtype) -> str:
    """E.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")
