"""Loads a control file as a branch: InstantX Union and Inpainting, DiffSynth's blockwise controls,
VideoX-Fun's Unions of both families. Names and shapes show which one it is.

It is loaded as the diffusion model is: on the meta device, in any storage format, filled when a run
needs it, its modulation (where it has some) read from the file into a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import InkstoneError
from ...kernels.configs import (
    QWEN_IMAGE,
    QWEN_IMAGE_21,
    BlockwiseConfig,
    MMDiTConfig,
    SingleStreamConfig,
)
from ...kernels.control_blockwise import BlockwiseBranch
from ...kernels.control_fun import FunBranch
from ...kernels.control_instantx import ControlBranch
from ...kernels.control_union import UnionBranch
from ...kernels.modulation import Modulation, modulation, modulation_keys, rows_of
from ...quant.storage import Storage
from ..arch.config import Config, mmdit_config, rope_axes
from ..arch.dims import BLOCKWISE_SIZES, FUN_SIZES, UNION_SIZES, Shapes, count, sizes
from ..arch.expected_tensors import Layout, controlnet_layout, fun_layout
from ..arch.family import Family, family_of
from ..arch.folder_config import ModelFolder
from ..arch.identify import open_as
from ..arch.key_maps import MMDIT_UNREAD, KeyMap, fun_names, mmdit_names
from ..formats.weight_reader import WeightReader
from ..lora.file import Lora, load_lora
from ..memory.lru import Recent
from ..memory.residency import Residency
from .weight_file import (
    AS_FOUND,
    LoadOptions,
    WeightFile,
    check_table,
    refuse_unknown,
    short,
    weight_file,
)

log = logging.getLogger(__name__)

MASK = 4  # features of one token of a mask, in addition to the picture's
Network = ControlBranch | BlockwiseBranch | FunBranch | UnionBranch
_KEPT_TABLES = 2
Time = Callable[[Tensor], Tensor]  # sigmas [n] -> embedded timesteps [n,D] float32


@dataclass(kw_only=True)
class ControlModel:
    """A loaded control branch (sampling.request.Branch)."""

    network: Network = field(repr=False)
    family: Family
    dtype: torch.dtype
    device: torch.device
    path: Path = field(repr=False)  # not for the page: ComfyUI shows what a wire carries
    file: WeightFile = field(repr=False)
    weights: Residency = field(repr=False)
    _tables: Recent[Modulation] = field(default_factory=lambda: Recent(_KEPT_TABLES), repr=False)

    @property
    def masked(self) -> bool:
        """Takes the mask of the inpainted area (Inpainting)."""
        return self.network.masked

    @property
    def weights_format(self) -> str:
        """Storage formats of the file, for people."""
        return self.file.formats

    def modulation(self, sigmas: Tensor, time: Time | None = None) -> Modulation:
        """Modulation rows for sigmas [n]; the last tables are kept.

        time: the diffusion model's embedding of timesteps, for a branch that has none. The table
        depends on it (another model, a LoRA on it), so it is kept by its values.
        """
        layers = self.network.config.layers
        if not self.network.borrows:
            return self._tables.get(
                tuple(sigmas.tolist()),
                lambda: modulation(
                    self._read, sigmas.to(self.device), layers, self.dtype, final=False
                ),
            )
        if time is None:
            raise InkstoneError(
                f"{self.path}: this control has no embedding of timesteps. Run it with a diffusion "
                "model."
            )
        embedded = time(sigmas).to(self.device)
        return self._tables.get(
            embedded.cpu().numpy().tobytes(),
            lambda: rows_of(self._read, embedded, layers, self.dtype, final=False),
        )

    def _read(self, name: str) -> Tensor | Storage:
        return self.file.read(name).to(self.device)


def load_control(path: str | Path, options: LoadOptions = AS_FOUND) -> ControlModel | Lora:
    """Loads a weight file, or a folder with one (`controlnet/` of a whole folder too). The
    in-context control is a LoRA.
    """
    folder = ModelFolder(path, "controlnet")
    source, view, facts = open_as(folder.part, folder.config, "controlnet", "lora")
    if facts.role == "lora":
        with source:
            return _in_context(folder.part, source)
    kind = _KINDS.get(facts.variant.split()[0], _INSTANTX)
    names, family = view.names(kind.names), family_of(source.metadata, facts.family)
    file = weight_file(source, view, names)
    with torch.device("meta"):
        built = kind.build(_Header(folder.part, folder.config, file.shapes, family))
    network, layers = built.network, built.network.config.layers
    unread = {f"transformer_blocks.{layers - 1}.{tail}" for tail in MMDIT_UNREAD}
    known = {*built.table_keys, *dict(network.named_parameters()), *unread}
    refuse_unknown(folder.part, [*(n for n in file.shapes if n not in known), *names.others])
    check_table(folder.part, file.shapes, built.layout, built.table_keys)
    loaded = file.load_into(network, built.blocks, options)
    log.info(
        "control %s: %s %s, %d blocks, %s",
        short(folder.root),
        kind.maker,
        facts.variant,
        layers,
        loaded.summary,
    )
    return ControlModel(
        network=network.eval(),
        family=family,
        dtype=loaded.dtype,
        device=torch.device(options.device),
        path=folder.root,
        file=file,
        weights=loaded.weights,
    )


def _in_context(part: Path, source: WeightReader) -> Lora:
    lora = load_lora(part, source)
    modulated = sum(name.endswith("_mod.1") for name in lora.model)
    if lora.distilled or not modulated:
        why = "is made for few steps" if lora.distilled else "does not reach the modulation"
        raise InkstoneError(
            f"{part}: it is a LoRA that {why}, so not the in-context control union. Load it with "
            "Inkstone Load LoRA (--lora), or choose a control file."
        )
    log.info(
        "control %s: in-context LoRA, %d modules; the file does not name its purpose, its prompts "
        "should begin with 'Context_Control. '",
        short(part),
        len(lora.model),
    )
    return lora


@dataclass(frozen=True)
class _Header:
    """The part of a control file that its network is built from."""

    part: Path
    config: Config
    shapes: Shapes
    family: Family


@dataclass(frozen=True)
class _Built:
    """A branch on the meta device, its blocks, and its modulation tensors in the file."""

    network: Network
    blocks: nn.ModuleList
    table_keys: Sequence[str] = ()
    layout: Layout = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """The differences between kinds of control files."""

    maker: str
    names: Callable[[Iterable[str]], KeyMap]
    build: Callable[[_Header], _Built]


def _instantx(header: _Header) -> _Built:
    config = mmdit_config(header.shapes, header.family, header.config)
    condition = header.shapes["controlnet_x_embedder.weight"][1]
    _check_condition(header.part, condition, config.channels)
    network = ControlBranch(config, condition)
    return _Built(
        network,
        network.transformer_blocks,
        modulation_keys(config.layers, final=False),
        controlnet_layout(config, condition),
    )


def _blockwise(header: _Header) -> _Built:
    numbers, channels = sizes(header.shapes, BLOCKWISE_SIZES), QWEN_IMAGE.channels
    _check_condition(header.part, numbers["condition"], channels)
    layers = count(header.shapes, "controlnet_blocks.")
    config = BlockwiseConfig(layers, numbers["width"], channels)
    network = BlockwiseBranch(config, numbers["condition"])
    return _Built(network, network.controlnet_blocks)


def _check_condition(part: Path, condition: int, channels: int) -> None:
    if condition - channels not in (0, MASK):
        raise InkstoneError(
            f"{part}: its control pictures have {condition} features per token, expected "
            f"{channels} (a map) or {channels + MASK} (inpainting, with a mask). "
            "It is a control of a kind that this version does not have."
        )


def _fun(header: _Header) -> _Built:
    if UNION_SIZES["ff"][0] in header.shapes:
        return _union(header)
    numbers, channels = sizes(header.shapes, FUN_SIZES), QWEN_IMAGE.channels
    condition, width, head = _fun_sizes(header, numbers, 2 * channels + MASK)
    config = MMDiTConfig(
        layers=count(header.shapes, "transformer_blocks."),
        heads=width // head,
        head_dim=head,
        channels=channels,
        joint=numbers["joint"],
        ff=numbers["ff"],
        axes=rope_axes(header.config, header.family, head),
    )
    network = FunBranch(config, condition)
    keys = modulation_keys(config.layers, final=False)
    own = [key for key in keys if not key.startswith("time_text_embed.")]  # the base model has it
    return _Built(network, network.transformer_blocks, own, fun_layout(config, condition))


def _union(header: _Header) -> _Built:
    numbers, channels = sizes(header.shapes, UNION_SIZES), QWEN_IMAGE_21.channels
    condition, width, head = _fun_sizes(header, numbers, 2 * channels + 1)
    config = SingleStreamConfig(
        layers=count(header.shapes, "transformer_blocks."),
        heads=width // head,
        head_dim=head,
        channels=channels,
        joint=numbers["joint"],
        ff=numbers["ff"],
        axes=rope_axes(header.config, header.family, head),
    )
    network = UnionBranch(config, condition)  # its modulation is the base model's
    return _Built(network, network.transformer_blocks)


def _fun_sizes(header: _Header, numbers: Mapping[str, int], expected: int) -> tuple[int, int, int]:
    """(features of its pictures, width, head size) of a control by VideoX-Fun."""
    condition, width, head = numbers["channels"], numbers["width"], numbers["head_dim"]
    if condition != expected:
        raise InkstoneError(
            f"{header.part}: its pictures have {condition} features per token, expected "
            f"{expected} (a map, a mask, a picture). It is a VideoX-Fun control for another "
            "model: use the one for Qwen-Image-2512, or for Qwen-Image-2.1."
        )
    if not head or width % head:
        raise InkstoneError(
            f"{header.part}: its width {width} is not a multiple of its head size {head}. The "
            "file is damaged: download it again."
        )
    return condition, width, head


_INSTANTX = _Kind("InstantX", mmdit_names, _instantx)
_KINDS = {
    "blockwise": _Kind("DiffSynth", mmdit_names, _blockwise),
    "fun": _Kind("VideoX-Fun", fun_names, _fun),
}
