"""A control file -> a loaded branch: InstantX Union and Inpainting, told apart by their shapes.

Opened as the diffusion model is: on the meta device, in any storage format, filled when a run needs
it, its modulation read from the file into a table. Other kinds of controls are refused by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..kernels.control import ControlBranch
from ..kernels.errors import InkstoneError
from ..kernels.modulation import Modulation, modulation, modulation_keys
from ..quant.storage import Found, Storage
from .config import mmdit_config
from .detect import identify, require
from .family import Family, family_of
from .folder import config_of, part_of
from .keys import MMDIT_UNREAD, mmdit_names
from .layout import controlnet_layout
from .opening import AS_FOUND, Want, check_table, refuse_unknown, short, weight_file
from .recent import Recent
from .recognise import FileFacts
from .residency import Residency
from .safetensors_file import Weights, open_weights
from .slots import read_weight

log = logging.getLogger(__name__)

MASK = 4  # features of one token of a mask, beside the picture's
_KEPT_TABLES = 2


@dataclass
class ControlModel:
    """A loaded control branch (sampling.control.Branch)."""

    network: ControlBranch
    family: Family
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    source: Weights
    names: Mapping[str, str]  # our key -> the file's key
    path: Path
    found: Mapping[str, Found] = field(default_factory=dict, repr=False)  # packed weights
    weights: Residency | None = field(default=None, repr=False)  # None = always in memory
    _tables: Recent[Modulation] = field(default_factory=lambda: Recent(_KEPT_TABLES), repr=False)

    @property
    def masked(self) -> bool:
        """Takes the mask of what is drawn anew (Inpainting)."""
        return self.network.masked

    def modulation(self, sigmas: Tensor) -> Modulation:
        """The rows for sigmas [n]; the last tables are kept."""
        layers = self.network.config.layers
        return self._tables.get(
            tuple(sigmas.tolist()),
            lambda: modulation(
                self._read, sigmas.to(self.device), layers, self.dtype, final=False
            ),
        )

    def _read(self, name: str) -> Tensor | Storage:
        return read_weight(self.source, self.names, self.found, name).to(self.device)


def open_control(path: str | Path, want: Want = AS_FOUND) -> ControlModel:
    """A weight file, or a folder with one (`controlnet/` of a whole folder too)."""
    root, device = Path(path), torch.device(want.device)
    part = part_of(root, "controlnet")
    facts = identify(part)
    require(facts, "controlnet")
    _refuse_kind(facts, part)
    source = open_weights(part)
    names, family = mmdit_names(source.entries), family_of(source.metadata)
    file = weight_file(source, names.table)
    config = mmdit_config(file.shapes, family, config_of(part))
    condition = file.shapes["controlnet_x_embedder.weight"][1]
    if condition - config.channels not in (0, MASK):
        raise InkstoneError(
            f"{part}: its control pictures have {condition} features per token, expected "
            f"{config.channels} (Union) or {config.channels + MASK} (Inpainting, with a mask). "
            "It is a control of a kind that this version does not have."
        )
    with torch.device("meta"):
        network = ControlBranch(config, condition)
    keys = modulation_keys(config.layers, final=False)
    unread = {f"transformer_blocks.{config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = {*keys, *dict(network.named_parameters()), *unread}
    refuse_unknown(part, [n for n in file.shapes if n not in known] + list(names.others))
    check_table(part, file.shapes, controlnet_layout(config, condition), keys)
    held = file.hold(network, network.transformer_blocks, want)
    log.info(
        "control %s: InstantX %s, %d blocks, %s",
        short(root), facts.variant, config.layers, held.said,
    )  # fmt: skip
    return ControlModel(
        network.eval(), family, held.dtype, device, file.form, source, names.table, root,
        file.found, held.weights,
    )  # fmt: skip


def _refuse_kind(facts: FileFacts, part: Path) -> None:
    if facts.variant == "blockwise":
        raise InkstoneError(
            f"{part}: it is a DiffSynth blockwise control, which this version does not have yet. "
            "Use the InstantX Union or Inpainting control."
        )
