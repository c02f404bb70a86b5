"""An open weight file by our names: shapes, packed formats, the type to compute in, residency.

load.py, control.py and vision.py load their models with these. The file stays open as long as the
model lives: weights are read when they are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.compute_type import best_dtype
from ...quant.storage import PackedWeight, Storage
from ..arch.dims import Shapes
from ..arch.header_view import HeaderView
from ..arch.key_maps import KeyMap, fused_parts
from ..formats.weight_reader import WeightReader
from ..memory.param_slots import WeightPolicy, dtype_name, read_weight, slots_of
from ..memory.residency import FreeMemory, Residency, free_after_asking
from ..memory.row_parts import RowPart, cut_packed, cut_shapes, row_parts

SMALL = 100_000_000  # parameters below which float32 is fast enough everywhere


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model."""

    dtype: torch.dtype | None = None  # to compute in; None = by size and device, see choose_dtype
    device: str | torch.device = "cpu"
    budget: int | None = None  # bytes for the whole process; None = what is free when needed
    wait: bool = False  # only headers are read until the model is used
    free: FreeMemory = free_after_asking  # asks the host for room
    variant: str | None = None  # the user's choice for a diffusion model; None = detect it
    int8: bool = False  # products in the blocks of a diffusion model in int8, where that is faster


AS_FOUND = LoadOptions()


@dataclass(frozen=True)
class LoadedWeights:
    """A network's weights, the type to compute in, and a line about both."""

    weights: Residency
    dtype: torch.dtype
    summary: str


@dataclass(frozen=True)
class WeightFile:
    """An open file by our names."""

    source: WeightReader
    names: Mapping[str, str]  # our name -> the file's
    packed: Mapping[str, PackedWeight]
    shapes: Shapes  # of all weights, for packed ones those of the plain matrices
    # plain matrices that are rows of a larger one in the file, see `fused_parts`
    rows: Mapping[str, RowPart] = field(default_factory=dict)

    @cached_property
    def formats(self) -> str:
        """Storage formats, most weights first: "Q4_K + Q6_K + bfloat16"."""
        counts = Counter(weight.format for weight in self.packed.values())
        parts = {part for weight in self.packed.values() for part in weight.parts}
        files = {self.names[part] for part in parts if part in self.names}
        own = (file for file in self.names.values() if file not in files)  # of several in one file
        plain = {dtype_name(self.source.entries[file].dtype) for file in own}
        if not counts:
            return "+".join(sorted(plain))
        known = [name for name, _ in counts.most_common()]
        return " + ".join(known + sorted(plain - set(known) - {"uint8"}))

    def read(self, name: str) -> Tensor | Storage:
        """One weight by our name, on the CPU: packed as it is, else as the file has it."""
        return read_weight(self.source, self.names, self.packed, name, self.rows)

    def load_into(
        self, network: nn.Module, blocks: nn.ModuleList, options: LoadOptions
    ) -> LoadedWeights:
        """Connects a network on the meta device with its weights; `blocks` can be streamed."""
        device = torch.device(options.device)
        parameters = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        dtype, reason = choose_dtype(options.dtype, device, parameters)
        policy = WeightPolicy(dtype, narrow=parameters >= SMALL)
        slots = slots_of(network, self.source, self.names, self.packed, policy, self.rows)
        weights = Residency(network, slots, device, blocks)
        weights.free = options.free
        if not options.wait:
            weights.settle(options.budget)
            weights.fill()
        return LoadedWeights(
            weights,
            dtype,
            f"{_amount(parameters)} parameters, {self.formats} computed in {dtype_name(dtype)} "
            f"({reason})",
        )


def weight_file(
    source: WeightReader,
    view: HeaderView,
    names: KeyMap,
    within: Callable[[str], bool] = lambda name: True,
    cut: bool = True,
) -> WeightFile:
    """The file behind a view. within: which of our names belong to the network, where a file holds
    more than one; cut: matrices of several layers are cut into them, see `fused_parts`.
    """
    packed = view.packed(names)
    if packed.fault:
        raise InkstoneError(f"{source.path}: {packed.fault}.")
    weights = {name: weight for name, weight in packed.weights.items() if within(name)}
    shapes = {name: shape for name, shape in view.shapes(names).items() if within(name)}
    parts = row_parts(fused_parts(shapes) if cut else {}, shapes)
    return WeightFile(
        source,
        {ours: file for ours, file in names.table.items() if within(ours)},
        cut_packed(weights, parts),
        cut_shapes(shapes, parts),
        {name: part for name, part in parts.items() if part.whole not in weights},
    )


def choose_dtype(
    dtype: torch.dtype | None, device: torch.device, parameters: int
) -> tuple[torch.dtype, str]:
    """The type to compute in: as requested, else float32 for small networks, else the fastest."""
    if dtype is not None:
        return dtype, "as requested"
    if parameters < SMALL:
        return torch.float32, "a small model"
    return best_dtype(device.type)


def refuse_unknown(path: Path, names: Iterable[str]) -> None:
    """Raises for names of a file that its network does not have."""
    names = sorted(names)
    if names:
        raise InkstoneError(
            f"{path}: {len(names)} tensors are not part of this model, e.g. "
            f"{', '.join(names[:5])}. "
            "The file is of another model or version: check it with `inkstone inspect`."
        )


def check_table(
    part: Path, shapes: Shapes, layout: Mapping[str, tuple[int, ...]], keys: Iterable[str]
) -> None:
    """Raises for a modulation tensor that is missing or of a wrong shape. They are read when the
    first table is computed, which is too late for an error.
    """
    for key in keys:
        if shapes.get(key) != layout[key]:
            got = f"shape {list(shapes[key])}" if key in shapes else "nothing"
            raise InkstoneError(
                f"{part}: modulation tensor {key} expected shape {list(layout[key])}, got {got}. "
                "The file is damaged: download it again."
            )


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of a network's plain parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _amount(n: int) -> str:
    return f"{n / 1e9:.2f} G" if n >= 1e9 else f"{n / 1e6:.1f} M"


def short(path: Path) -> str:
    """The last two parts of a path: enough to tell files apart in a log line."""
    return "/".join(path.parts[-2:])
