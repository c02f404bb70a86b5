"""The networks of diffusion models, one record each: a family names its own by a key, and loading,
LoRAs and the modulation table know no other difference between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kernels.mmdit import MMDiT
from ...kernels.modulation import Branches, Modulation, Weights, modulation, modulation_keys
from ...kernels.shared_modulation import SharedModulation, shared_keys, shared_modulation
from ...kernels.single_stream import SingleStream
from ..arch.config import mmdit_config, single_stream_config
from ..arch.expected_tensors import mmdit_layout, single_stream_layout
from ..arch.key_maps import MMDIT_UNREAD, KeyMap, mmdit_names

NetworkConfig = Any  # a record of kernels/configs.py, which only its own functions read


@dataclass(frozen=True)
class TableOptions:
    """Settings of a modulation table beside weights and sigmas."""

    dtype: torch.dtype
    layered: bool = False  # the variant that has an embedding more
    apart: bool = False  # references have a time of their own, 0
    branches: Branches = field(default_factory=dict)  # of LoRAs


@dataclass(frozen=True)
class Architecture:
    """One network: names and shapes of its file, and how it is built and given its timestep."""

    names: Callable[[Iterable[str]], KeyMap]  # of a file -> ours
    config: Callable[..., NetworkConfig]  # (shapes, family, config.json)
    build: Callable[[NetworkConfig], Any]
    layout: Callable[[NetworkConfig, bool], dict[str, tuple[int, ...]]]  # (config, layered)
    table_keys: Callable[[int, bool], list[str]]  # (layers, layered): the network has none of them
    unread: Callable[[NetworkConfig], set[str]]  # names of the file that reach no output
    table: Callable[[Weights, Tensor, NetworkConfig, TableOptions], Any]  # sigmas on the device


def _mmdit_unread(config: NetworkConfig) -> set[str]:
    return {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}


def _mmdit_table(
    weights: Weights, sigmas: Tensor, config: NetworkConfig, options: TableOptions
) -> Modulation:
    levels = torch.cat([sigmas, sigmas.new_zeros(1)]) if options.apart else sigmas
    addition = 0 if options.layered else None
    rows = modulation(weights, levels, config.layers, options.dtype, addition, options.branches)
    return rows.with_references() if options.apart else rows


def _shared_table(
    weights: Weights, sigmas: Tensor, config: NetworkConfig, options: TableOptions
) -> SharedModulation:
    return shared_modulation(weights, sigmas, options.dtype, options.branches)


ARCHITECTURES = {
    "mmdit": Architecture(
        names=mmdit_names,
        config=mmdit_config,
        build=MMDiT,
        layout=mmdit_layout,
        table_keys=modulation_keys,
        unread=_mmdit_unread,
        table=_mmdit_table,
    ),
    "single-stream": Architecture(
        names=mmdit_names,
        config=single_stream_config,
        build=SingleStream,
        layout=lambda config, layered: single_stream_layout(config),
        table_keys=lambda layers, layered: shared_keys(),
        unread=lambda config: set(),
        table=_shared_table,
    ),
}
