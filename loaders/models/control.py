"""A control file -> a loaded branch: InstantX Union and Inpainting, DiffSynth's blockwise controls,
VideoX-Fun's Union, told apart by names and shapes.

Opened as the diffusion model is: on the meta device, in any storage format, filled when a run needs
it, its modulation (where it has some) read from the file into a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.configs import BlockwiseConfig, MMDiTConfig
from ...kernels.control_blockwise import BlockwiseBranch
from ...kernels.control_fun import FunBranch
from ...kernels.control_instantx import ControlBranch
from ...kernels.modulation import Modulation, modulation, modulation_keys, rows_of
from ...quant.storage import PackedWeight, Storage
from ..arch.config import mmdit_config
from ..arch.dims import BLOCKWISE_SIZES, FUN_SIZES, Shapes, count, sizes
from ..arch.expected_tensors import Layout, controlnet_layout, fun_layout
from ..arch.family import Family, family_of
from ..arch.identify import identify, require
from ..arch.key_maps import MMDIT_UNREAD, KeyMap, fun_names, mmdit_names
from ..formats.hf_folder import config_of, part_of
from ..formats.open import Weights, open_weights
from ..lora.file import Lora, load_lora
from ..memory.lru import Recent
from ..memory.param_slots import read_weight
from ..memory.residency import Residency
from .weight_file import AS_FOUND, LoadOptions, check_table, refuse_unknown, short, weight_file

log = logging.getLogger(__name__)

MASK = 4  # features of one token of a mask, beside the picture's
Network = ControlBranch | BlockwiseBranch | FunBranch
_TIME = "time_text_embed."
_KEPT_TABLES = 2
Time = Callable[[Tensor], Tensor]  # sigmas [n] -> embedded timesteps [n,D] float32


@dataclass
class ControlModel:
    """A loaded control branch (sampling.control.Branch)."""

    network: Network
    family: Family
    dtype: torch.dtype
    device: torch.device
    weights_format: str
    source: Weights
    names: Mapping[str, str]  # our key -> the file's key
    path: Path
    found: Mapping[str, PackedWeight] = field(default_factory=dict, repr=False)  # packed weights
    weights: Residency | None = field(default=None, repr=False)  # None = always in memory
    _tables: Recent[Modulation] = field(default_factory=lambda: Recent(_KEPT_TABLES), repr=False)

    @property
    def masked(self) -> bool:
        """Takes the mask of what is drawn anew (Inpainting)."""
        return self.network.masked

    def modulation(self, sigmas: Tensor, time: Time | None = None) -> Modulation:
        """The rows for sigmas [n]; the last tables are kept. time: the diffusion model's embedding
        of timesteps, which serves a branch that has none: with another model, or a LoRA on it,
        the table is another.
        """
        layers = self.network.config.layers
        if not self.network.borrows:
            return self._tables.get(
                tuple(sigmas.tolist()),
                lambda: modulation(
                    self._read, sigmas.to(self.device), layers, self.dtype, final=False
                ),
            )
        embedded = time(sigmas).to(self.device)
        return self._tables.get(
            embedded.cpu().numpy().tobytes(),
            lambda: rows_of(self._read, embedded, layers, self.dtype, final=False),
        )

    def _read(self, name: str) -> Tensor | Storage:
        return read_weight(self.source, self.names, self.found, name).to(self.device)


def load_control(path: str | Path, want: LoadOptions = AS_FOUND) -> ControlModel | Lora:
    """A weight file, or a folder with one (`controlnet/` of a whole folder too). The in-context
    control is a LoRA.
    """
    root, device = Path(path), torch.device(want.device)
    part = part_of(root, "controlnet")
    facts = identify(part)
    if facts.role == "lora" and not facts.problem:
        return _in_context(part)
    require(facts, "controlnet")
    source = open_weights(part)
    kind = _KINDS.get(facts.variant.split()[0], _INSTANTX)
    names, family = kind.names(source.entries), family_of(source.metadata)
    file = weight_file(source, names.table)
    with torch.device("meta"):
        network = kind.build(part, file.shapes, family)
    keys = kind.keys(network)
    unread = {f"transformer_blocks.{network.config.layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = {*keys, *dict(network.named_parameters()), *unread}
    refuse_unknown(part, [n for n in file.shapes if n not in known] + list(names.others))
    check_table(part, file.shapes, kind.layout(network), keys)
    held = file.hold(network, kind.blocks(network), want)
    log.info(
        "control %s: %s %s, %d blocks, %s",
        short(root),
        kind.maker,
        facts.variant,
        network.config.layers,
        held.said,
    )
    return ControlModel(
        network.eval(),
        family,
        held.dtype,
        device,
        file.form,
        source,
        names.table,
        root,
        file.found,
        held.weights,
    )


def _in_context(part: Path) -> Lora:
    lora = load_lora(part)
    modulated = sum(name.endswith("_mod.1") for name in lora.model)
    if lora.distilled or not modulated:
        why = "is made for few steps" if lora.distilled else "does not reach the modulation"
        raise InkstoneError(
            f"{part}: it is a LoRA that {why}, so not the in-context control union. Load it with "
            "Inkstone Load LoRA (--lora), or choose a control file."
        )
    log.info(
        "control %s: in-context LoRA, %d modules; nothing in the file says what it is for, its "
        "prompts should begin with 'Context_Control. '",
        short(part),
        len(lora.model),
    )
    return lora


@dataclass(frozen=True)
class _Kind:
    """What is special of a kind of control file."""

    maker: str
    names: Callable[[Iterable[str]], KeyMap]
    build: Callable[[Path, Shapes, Family], Network]
    keys: Callable[[Network], list[str]]  # of its modulation
    layout: Callable[[Network], Layout]
    blocks: Callable[[Network], nn.ModuleList]


def _instantx(part: Path, shapes: Shapes, family: Family) -> ControlBranch:
    config = mmdit_config(shapes, family, config_of(part))
    condition = shapes["controlnet_x_embedder.weight"][1]
    _check_condition(part, condition, config.channels)
    return ControlBranch(config, condition)


def _blockwise(part: Path, shapes: Shapes, family: Family) -> BlockwiseBranch:
    told, channels = sizes(shapes, BLOCKWISE_SIZES), MMDiTConfig().channels
    _check_condition(part, told["condition"], channels)
    layers = count(shapes, "controlnet_blocks.")
    config = BlockwiseConfig(layers, told["width"], channels)
    return BlockwiseBranch(config, told["condition"])


def _check_condition(part: Path, condition: int, channels: int) -> None:
    if condition - channels not in (0, MASK):
        raise InkstoneError(
            f"{part}: its control pictures have {condition} features per token, expected "
            f"{channels} (a map) or {channels + MASK} (inpainting, with a mask). "
            "It is a control of a kind that this version does not have."
        )


def _fun(part: Path, shapes: Shapes, family: Family) -> FunBranch:
    told, channels = sizes(shapes, FUN_SIZES), MMDiTConfig().channels
    condition, head = told["channels"], told["head_dim"]
    if condition != 2 * channels + MASK:
        raise InkstoneError(
            f"{part}: its pictures have {condition} features per token, expected "
            f"{2 * channels + MASK} (a map, a mask, a picture). It is a VideoX-Fun control for "
            "another model: use the one for Qwen-Image-2512."
        )
    if not head or told["width"] % head:
        raise InkstoneError(
            f"{part}: its width {told['width']} is not a multiple of its head size {head}. The "
            "file is damaged: download it again."
        )
    axes = config_of(part).get("axes_dims_rope") or family.axes(head)
    config = MMDiTConfig(
        count(shapes, "transformer_blocks."),
        told["width"] // head,
        head,
        channels,
        told["joint"],
        told["ff"],
        tuple(axes),
    )
    return FunBranch(config, condition)


def _block_keys(network: Network) -> list[str]:
    keys = modulation_keys(network.config.layers, final=False)
    return [key for key in keys if not (network.borrows and key.startswith(_TIME))]


_INSTANTX = _Kind(
    "InstantX",
    mmdit_names,
    _instantx,
    _block_keys,
    lambda network: controlnet_layout(network.config, network.condition),
    lambda network: network.transformer_blocks,
)
_KINDS = {
    "blockwise": _Kind(
        "DiffSynth",
        mmdit_names,
        _blockwise,
        lambda network: [],
        lambda network: {},
        lambda network: network.controlnet_blocks,
    ),
    "fun": _Kind(
        "VideoX-Fun",
        fun_names,
        _fun,
        _block_keys,
        lambda network: fun_layout(network.config, network.condition),
        lambda network: network.transformer_blocks,
    ),
}
