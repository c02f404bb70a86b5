"""What opening any weight file needs: shapes by our names, packed formats, the type to compute in,
and what a caller wants of it. load.py and control.py open models with these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import InkstoneError
from ...kernels.linear import best_dtype
from ...quant.storage import PackedWeight
from ..formats.hf_folder import config_of
from ..formats.open import Weights
from ..memory.param_slots import WeightPolicy, biases_of, dtype_name, slots_of
from ..memory.residency import Residency, free_after_asking

SMALL = 100_000_000  # parameters below which float32 is fast enough everywhere


def choose_dtype(
    dtype: torch.dtype | None, device: torch.device, parameters: int
) -> tuple[torch.dtype, str]:
    """The compute type: as asked, else float32 for small networks, else the fastest measured."""
    if dtype is not None:
        return dtype, "as asked"
    if parameters < SMALL:
        return torch.float32, "a small model"
    return best_dtype(device.type)


def refuse_unknown(path: Path, others: Iterable[str]) -> None:
    """Raises for names of a file that its network does not have."""
    others = sorted(others)
    if others:
        raise InkstoneError(
            f"{path}: {len(others)} tensors are not part of this model, e.g. "
            f"{', '.join(others[:5])}. "
            "The file is of another model or version: check it with `inkstone inspect`."
        )


def shapes_of(source: Weights, table: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shapes by our names, as the file has them."""
    return {ours: source.entries[name].shape for ours, name in table.items()}


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(s).numel() for s in shapes.values())


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of a network's plain parameters."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _amount(n: int) -> str:
    return f"{n / 1e9:.2f} G" if n >= 1e9 else f"{n / 1e6:.1f} M"


def short(path: Path) -> str:
    """The last two parts of a path: enough to tell files apart in a log line."""
    return "/".join(path.parts[-2:])


def _format(source: Weights) -> str:
    return "+".join(sorted({dtype_name(e.dtype) for e in source.entries.values()}))


def _find_formats(source: Weights, table: Mapping[str, str]) -> dict[str, PackedWeight]:
    """The weights of a file that are packed in some format."""
    from ...quant.registry import find_packed

    return find_packed(source, table, config_of(source.path))


def _consumed(found: Mapping[str, PackedWeight]) -> set[str]:
    """Our names of all tensors that belong to packed weights."""
    return {part for weight in found.values() for part in weight.parts}


def _all_shapes(
    source: Weights, table: Mapping[str, str], found: Mapping[str, PackedWeight]
) -> dict[str, tuple[int, ...]]:
    """Shapes by our names, of packed weights those of the plain ones, without their own parts."""
    hidden = _consumed(found)
    plain = {ours: name for ours, name in table.items() if ours not in hidden}
    shapes = shapes_of(source, plain) | {name: weight.shape for name, weight in found.items()}
    for name in biases_of(found):
        shapes[name] = (found[f"{name.removesuffix('.bias')}.weight"].shape[0],)
    return shapes


def _kept_as(source: Weights, table: Mapping[str, str], found: Mapping[str, PackedWeight]) -> str:
    """Formats in words, most weights first: "Q4_K + Q6_K + bfloat16"."""
    counts = Counter(weight.format for weight in found.values())
    packed = {table[part] for part in _consumed(found) if part in table}
    plain = {dtype_name(e.dtype) for n, e in source.entries.items() if n not in packed}
    known = [name for name, _ in counts.most_common()]
    return " + ".join(known + sorted(plain - set(known) - {"uint8"})) if known else _format(source)


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. budget: bytes for the whole process, None = what is free when needed;
    wait: nothing but headers is read until the model is used;
    free: asks the host for room, see residency;
    variant: what the user says that a diffusion model is (variant.VARIANTS), None = what it says.
    """

    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"
    budget: int | None = None
    wait: bool = False
    free: Callable[[int, torch.device], int] = free_after_asking
    variant: str | None = None


AS_FOUND = LoadOptions()


@dataclass(frozen=True)
class LoadedWeights:
    """A network's weights, the type that is computed in, and a line about both."""

    weights: Residency
    dtype: torch.dtype
    said: str


@dataclass(frozen=True)
class WeightFile:
    """An open file by our names: its packed weights, and the shapes of all of its weights."""

    source: Weights
    table: Mapping[str, str]  # our name -> the file's
    found: Mapping[str, PackedWeight]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def form(self) -> str:
        """Storage formats in words."""
        return _kept_as(self.source, self.table, self.found)

    def hold(self, network: nn.Module, blocks: nn.ModuleList, want: LoadOptions) -> LoadedWeights:
        """The file's weights for a network on the meta device; `blocks` can be streamed."""
        device, count = torch.device(want.device), _parameters(self.shapes)
        dtype, reason = choose_dtype(want.dtype, device, count)
        kept = WeightPolicy(dtype, narrow=count >= SMALL)
        slots = slots_of(network, self.source, self.table, self.found, kept)
        weights = Residency(network, slots, device, blocks)
        weights.free = want.free
        if not want.wait:
            weights.settle(want.budget)
            weights.fill()
        said = f"{_amount(count)} parameters, {self.form} computed in {dtype_name(dtype)}"
        return LoadedWeights(weights, dtype, f"{said} ({reason})")


def weight_file(source: Weights, table: Mapping[str, str]) -> WeightFile:
    """An open file, with the packed weights that its headers tell."""
    found = _find_formats(source, table)
    return WeightFile(source, table, found, _all_shapes(source, table, found))


def check_table(
    part: Path,
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    keys: Iterable[str],
) -> None:
    """Raises for a modulation tensor that is missing or of a wrong shape: they are read when a
    table is asked for, too late for a complaint.
    """
    for key in keys:
        if shapes.get(key) != wanted[key]:
            got = f"shape {list(shapes[key])}" if key in shapes else "nothing"
            raise InkstoneError(
                f"{part}: modulation tensor {key} expected shape {list(wanted[key])}, got {got}. "
                "The file is damaged: download it again."
            )
