"""The parameters of a network as slots that are filled from a file, emptied, and filled again.

A network is built on the meta device; every parameter is one slot that reads its own value. Loading
fills all slots, evicting empties them, and streaming fills the slots of one block while another
computes. The value is a float tensor, or a weight that stays packed (quant/).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.interrupt import beat, waited
from ...kernels.linear import Linear
from ...quant.storage import PackedWeight, PlainStorage, Storage
from ..formats.file_reader import scratch
from ..formats.weight_reader import WeightReader
from .row_parts import RowPart

_READERS = 2  # threads that fill: reading waits for copies, and one core does not fill the bus
_MANY = 1 << 28  # bytes from which a second reader pays


@runtime_checkable
class _StorageHolder(Protocol):
    """A layer whose weight may stay packed."""

    def hold(self, storage: Storage | None) -> None: ...


@dataclass(frozen=True)
class ParamSlot:
    """One parameter: its module and name, its bytes in memory, and its reader (to the CPU)."""

    module: nn.Module
    leaf: str
    nbytes: int
    read: Callable[[], Tensor | Storage]
    blank: nn.Parameter  # on the meta device: the value of an empty slot

    def put(self, value: Tensor | Storage) -> None:
        """Sets a value that is already on its device."""
        if isinstance(value, Storage):
            assert isinstance(self.module, _StorageHolder)  # slots_of reads only those packed
            self.module.hold(value)
        else:
            self.module._parameters[self.leaf] = nn.Parameter(value, requires_grad=False)

    def fill(self, device: torch.device) -> None:
        """Reads the value and sets it."""
        self.put(self.read().to(device))

    def empty(self) -> None:
        """Frees the value."""
        if self.leaf == "weight" and isinstance(self.module, _StorageHolder):
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
        values = deque(pool.submit(_value, slot, device) for slot in slots)
        for slot in slots:
            slot.put(waited(values.popleft()))
            done += slot.nbytes
            beat("weights, GB", done / 1e9, total / 1e9)
    finally:  # after a stop nobody waits for a tensor of gigabytes
        pool.shutdown(wait=False, cancel_futures=True)


def _value(slot: ParamSlot, device: torch.device) -> Tensor | Storage:
    return slot.read().to(device)


@dataclass(frozen=True)
class WeightPolicy:
    """The dtype of the computation, and whether floats of half its size stay as they are in the
    file (a model too large to be widened)."""

    dtype: torch.dtype
    narrow: bool = False


def slots_of(
    network: nn.Module,
    source: WeightReader,
    table: Mapping[str, str],
    packed: Mapping[str, PackedWeight],
    policy: WeightPolicy,
    rows: Mapping[str, RowPart] = {},
) -> list[ParamSlot]:
    """A slot for every parameter of a network on the meta device. Reads no data.

    table: our name -> the file's; packed: weights in packed formats; rows: plain matrices that are
    rows of a larger one in the file. Raises InkstoneError for
    missing tensors and for integers of no known format.
    """
    params = dict(network.named_parameters())
    biases = biases_of(packed)
    _refuse_missing(source, [n for n in params if n not in {**table, **packed, **biases, **rows}])
    slots = []
    for name, blank in params.items():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        read: Callable[[], Tensor | Storage]
        if name in packed and isinstance(module, _StorageHolder):
            nbytes, read = packed[name].nbytes, packed[name].load
        elif name in packed:  # the network needs floats
            nbytes = blank.numel() * policy.dtype.itemsize
            read = _FirstRead(source, name, partial(_dequantized, packed[name].load, policy.dtype))
        elif name in biases:
            nbytes = blank.numel() * policy.dtype.itemsize
            read = _FirstRead(source, name, partial(_bias, biases[name], policy.dtype))
        elif name in rows:
            nbytes, read = _plain_rows(source, table[rows[name].whole], rows[name], policy)
        else:
            nbytes, read = _plain(source, table[name], blank, module, policy)
        slots.append(ParamSlot(module=module, leaf=leaf, nbytes=nbytes, read=read, blank=blank))
    return slots


def biases_of(packed: Mapping[str, PackedWeight]) -> dict[str, Callable[[], Tensor]]:
    """Our name -> reader of every bias that a packed format stores in another form."""
    return {
        f"{name.removesuffix('.weight')}.bias": weight.bias
        for name, weight in packed.items()
        if weight.bias is not None
    }


class _FirstRead:
    """A reader of floats whose first value is checked: streaming reads each weight many times."""

    def __init__(self, source: WeightReader, name: str, read: Callable[[], Tensor]) -> None:
        self.source, self.name, self.read, self.checked = source, name, read, False

    def __call__(self) -> Tensor:
        value = self.read()
        if not self.checked:
            require_finite(self.source, self.name, value)
            self.checked = True
        return value


def require_finite(source: WeightReader, name: str, value: Tensor) -> None:
    """Raises for NaN or infinity in a weight. A check of what a network gives is not enough:
    attention on a CPU can lose the NaN of a key.
    """
    if value.is_meta or not value.is_floating_point() or value.dtype.itemsize == 1:
        return  # packed formats check their codes and scales
    if not value.numel() or all(bool(end.isfinite()) for end in value.aminmax()):
        return  # one pass without a copy; NaN reaches both ends
    bad = ~value.isfinite()
    count = int(bad.sum())
    if count:
        at = bad.nonzero()[0].tolist()
        raise InkstoneError(
            f"{source.path}: tensor {name}: {count} of {value.numel()} values are not finite (the "
            f"first at {at}), so no picture was saved. The file is damaged or was made by a faulty "
            "tool: compare its hash and download it again."
        )


def _bias(read: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    return read().to(dtype)


def _dequantized(load: Callable[[], Storage], dtype: torch.dtype) -> Tensor:
    return load().dequantize(dtype)


def _plain(
    source: WeightReader, name: str, blank: nn.Parameter, module: nn.Module, policy: WeightPolicy
) -> tuple[int, Callable[[], Tensor | Storage]]:
    """Bytes and reader of a parameter by the file's name of a tensor that is not packed."""
    shape = tuple(blank.shape)
    entry = source.entries[name]
    if not entry.dtype.is_floating_point and getattr(entry, "kind", None) is None:
        raise InkstoneError(
            f"{source.path}: tensor {name} has dtype {dtype_name(entry.dtype)}, expected "
            "floats. The file is quantized in a format that this version does not read: use the "
            "file in bf16."
        )
    half = entry.dtype in (torch.bfloat16, torch.float16) and policy.dtype == torch.float32
    matrix = isinstance(module, Linear) and len(shape) == 2 and entry.shape == shape
    if policy.narrow and half and matrix:
        checked = _FirstRead(source, name, partial(source.read, name))
        return blank.numel() * 2, lambda: PlainStorage(checked())
    read = partial(read_shaped, source, name, shape, policy.dtype)
    return blank.numel() * policy.dtype.itemsize, _FirstRead(source, name, read)


def _plain_rows(
    source: WeightReader, name: str, part: RowPart, policy: WeightPolicy
) -> tuple[int, Callable[[], Tensor | Storage]]:
    """Bytes and reader of the rows of a plain matrix, by the file's name of that."""
    entry = source.entries[name]
    count = entry.numel // entry.shape[0] * (part.stop - part.start)
    half = entry.dtype in (torch.bfloat16, torch.float16) and policy.dtype == torch.float32
    narrow = policy.narrow and half
    dtype = None if narrow else policy.dtype
    read = _FirstRead(source, name, partial(source.read_rows, name, part.start, part.stop, dtype))
    if narrow:
        return count * 2, lambda: PlainStorage(read())
    return count * policy.dtype.itemsize, read


def read_weight(
    source: WeightReader,
    table: Mapping[str, str],
    packed: Mapping[str, PackedWeight],
    name: str,
    rows: Mapping[str, RowPart] = {},
) -> Tensor | Storage:
    """One tensor by our name, on the CPU: packed where it is, else with the dtype of the file."""
    if name in packed:
        return packed[name].load()
    if name in rows:
        whole = table[rows[name].whole]
        value = source.read_rows(whole, rows[name].start, rows[name].stop)
        require_finite(source, whole, value)
        return value
    weight = packed.get(f"{name.removesuffix('.bias')}.weight")
    if name.endswith(".bias") and weight is not None and weight.bias is not None:
        value, name_there = weight.bias(), name
    else:
        name_there = table[name]
        value = source.read(name_there)
    require_finite(source, name_there, value)
    return value


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
