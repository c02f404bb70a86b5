"""The vision tower as a loaded model: found with its text encoder, read when an edit first asks.

In safetensors it lies beside the language model under `visual.`, for GGUF it is a file of its own
(vision_gguf.py). A `TowerPlace` knows which, or the sentence to say when there is none. Encoded
pictures are kept by their content: a new prompt, seed or number of steps encodes none again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import VisionConfig
from ...kernels.vision import VisionTower, activation_bytes
from ...sampling.geometry import CELL, vision_patches
from ..arch.dims import VISION_SIZES, Shapes, vision_sizes
from ..arch.expected_tensors import vision_layout
from ..arch.key_maps import KeyMap
from ..formats.open import Weights
from ..memory.lru import Recent
from ..memory.param_slots import WeightPolicy, slots_of
from ..memory.residency import Residency
from .image_processor import digest, rgb_bytes, tower_pixels
from .vision_gguf import VisionFile, find_mmproj

log = logging.getLogger(__name__)

START = "visual."
HEAD = 80  # head size of the published towers, whose files do not tell it
PERIOD = 8  # every eighth block sees the whole picture
SMALL = 100_000_000  # parameters from which half-type weights are not widened
STREAMS = "dfloat11_config"  # of config.json: which matrices share a stream
_KEPT_PICTURES = 8
# Keys of an mmproj header.
HEADS, PATTERN = "clip.vision.attention.head_count", "clip.vision.n_wa_pattern"


@dataclass(frozen=True)
class EncodedPicture:
    """A picture in the language model's terms: rows [n,W] and the (rows, columns) they make."""

    rows: Tensor
    grid: tuple[int, int]
    digest: str  # of the picture and of the size at which it was seen


def with_pictures(ids: Sequence[int], pad: int, grids: Sequence[tuple[int, int]]) -> list[int]:
    """ids with one `pad` for each picture -> as many as the picture has rows and columns."""
    grid, out = iter(grids), []
    for token in ids:
        out += [pad] * math.prod(next(grid)) if token == pad else [token]
    return out


@dataclass
class VisionModel:
    """A tower whose weights come into memory when a picture is encoded."""

    network: VisionTower
    dtype: torch.dtype
    device: torch.device
    path: Path
    weights: Residency = field(repr=False)
    budget: int | None = None  # bytes for the whole process; None = what is free
    _kept: Recent[EncodedPicture] = field(
        default_factory=lambda: Recent(_KEPT_PICTURES), repr=False
    )

    def encode(self, picture: Tensor, area: int) -> EncodedPicture:
        """One picture [H,W,C] or [1,H,W,C] in 0..1 of any size; area: pixels of its copy."""
        pixels = rgb_bytes(picture)
        name = f"{digest(pixels)} {area}"
        return self._kept.get(name, lambda: self._encode(tower_pixels(pixels, area), name))

    def _encode(self, pixels: Tensor, name: str) -> EncodedPicture:
        c = self.network.config
        patches = vision_patches(pixels, c.patch, c.merge)
        rows, columns = pixels.shape[1] // c.patch, pixels.shape[2] // c.patch
        self.weights.settle(self.budget, activation_bytes(c, len(patches), self.dtype))
        with torch.inference_mode():
            found = self.network(patches.to(self.device), (rows, columns))
        return EncodedPicture(found, (rows // c.merge, columns // c.merge), name)


@dataclass
class TowerPlace:
    """Where the tower of a text encoder is, or why there is none."""

    words: str  # for the log line of the text encoder
    missing: str = ""  # what an edit is told where there is none
    make: Callable[[], VisionModel] | None = field(default=None, repr=False)
    _made: VisionModel | None = field(default=None, repr=False)

    def open(self) -> VisionModel:
        """Headers are read at the first call, weights when a picture is encoded."""
        if self._made is None:
            if self.make is None:
                raise InkstoneError(f"The vision tower is missing, edits need it: {self.missing}.")
            self._made = self.make()
        return self._made


@dataclass(frozen=True)
class TowerWant:
    """What the text encoder says of its tower."""

    width: int  # of the language model
    dtype: torch.dtype
    device: torch.device
    budget: int | None = None
    free: Callable[[int, torch.device], int] | None = None


def tower_place(
    source: Weights, names: KeyMap, config: Mapping[str, object], want: TowerWant
) -> TowerPlace:
    """Looks beside an open text encoder; `config` is its config.json. Reads no weights."""
    table = {ours: name for ours, name in names.table.items() if ours.startswith(START)}
    if table:
        told = config.get("vision_config")
        told = dict(told) if isinstance(told, Mapping) else {}
        told |= {key: config[key] for key in (STREAMS,) if key in config}
        return TowerPlace(
            "with its vision tower", make=lambda: open_tower(source, table, told, want)
        )
    if names.layout == "gguf":
        found = find_mmproj(source.path, want.width)
        make = (lambda: _open_mmproj(found.path, want)) if found.path else None
        return TowerPlace(found.words, f"{source.path}: {found.words}", make)
    return TowerPlace(
        "no vision tower (text-to-image only)",
        f"{source.path} has only the language model. Use a text encoder file with its `visual.` "
        "tensors: qwen_2.5_vl_7b.safetensors, or the folder text_encoder of Qwen-Image-Edit",
    )


def _open_mmproj(path: Path, want: TowerWant) -> VisionModel:
    file = VisionFile(path)
    return open_tower(file, {name: name for name in file.entries}, _settings(file.metadata), want)


def _settings(metadata: Mapping[str, str]) -> dict[str, object]:
    """What an mmproj header says, by the keys of vision_config."""
    told = {key: metadata.get(key, "") for key in (HEADS, PATTERN)}
    number = {key: int(value) for key, value in told.items() if value.isdigit()}
    found: dict[str, object] = {"num_heads": number[HEADS]} if HEADS in number else {}
    return found | ({"period": number[PATTERN]} if number.get(PATTERN) else {})


def open_tower(
    source: Weights, table: Mapping[str, str], told: Mapping[str, object], want: TowerWant
) -> VisionModel:
    """table: our name with `visual.` -> the file's; told: vision_config (and what config.json says
    of DFloat11's streams), {} = as published."""
    from ...quant.registry import find_packed

    found = find_packed(source, table, told)
    hidden = {part for weight in found.values() for part in weight.parts}
    shapes = {n: source.entries[t].shape for n, t in table.items() if n not in hidden}
    shapes |= {name: weight.shape for name, weight in found.items()}
    config = vision_config(shapes, told, source.path)
    _check(shapes, source.path, want.width)
    with torch.device("meta"):
        network = VisionTower(config)
    inner = {name.removeprefix(START): theirs for name, theirs in table.items()}
    packed = {name.removeprefix(START): weight for name, weight in found.items()}
    large = sum(torch.Size(shape).numel() for shape in shapes.values()) >= SMALL
    slots = slots_of(network, source, inner, packed, WeightPolicy(want.dtype, narrow=large))
    weights = Residency(network, slots, want.device, network.blocks)
    weights.free = want.free or weights.free
    log.info(
        "vision tower %s: %d blocks, width %d, %.2f GB when it is used",
        source.path.name,
        config.depth,
        config.width,
        weights.nbytes / 1e9,
    )
    return VisionModel(
        network.eval(), want.dtype, want.device, Path(source.path), weights, want.budget
    )


def _check(shapes: Shapes, path: Path, width: int) -> None:
    """Raises where tensors are missing, unknown, of another shape, or of another model's width."""
    sizes = vision_sizes(shapes)
    wanted = vision_layout(sizes)
    wrong = [n for n in sorted(wanted.keys() | shapes.keys()) if wanted.get(n) != shapes.get(n)]
    if wrong:
        name = wrong[0]
        want, got = (list(s[name]) if name in s else "nothing" for s in (wanted, shapes))
        raise InkstoneError(
            f"{path}: {len(wrong)} tensors do not fit a vision tower of Qwen2.5-VL; {name} has "
            f"shape {got}, expected {want}. The file mixes models or is damaged: download it again."
        )
    if sizes.out != width:
        raise InkstoneError(
            f"{path}: the vision tower is for text encoders of width {sizes.out}, this one has "
            f"{width}. Use the tower that came with the text encoder."
        )


def vision_config(shapes: Shapes, told: Mapping[str, object], path: Path) -> VisionConfig:
    """From tensor shapes; head count, window and full blocks as told, else as published."""
    sizes = vision_sizes(shapes)
    numbers = {name: getattr(sizes, name, 0) for name in VISION_SIZES}
    if sizes is None or 0 in numbers.values():
        raise InkstoneError(
            f"{path}: the vision tower cannot be built, its tensors tell {numbers}. The file is "
            "incomplete or of another model: check it with `inkstone inspect`."
        )
    heads, full = told.get("num_heads") or sizes.width // HEAD, told.get("fullatt_block_indexes")
    window, period = told.get("window_size", 112), told.get("period", PERIOD)
    try:
        if full is None:
            full = range(period - 1, sizes.depth, period)
        config = VisionConfig(
            sizes.depth,
            sizes.width,
            heads,
            sizes.ff,
            sizes.patch,
            sizes.frames,
            sizes.merge,
            sizes.channels,
            sizes.out,
            window,
            tuple(full),
        )
        sound = config.side >= 1 and sizes.width % (4 * heads) == 0
        sound = sound and sizes.patch * sizes.merge == CELL
    except (TypeError, ValueError, ZeroDivisionError):
        sound = False
    if not sound:
        raise InkstoneError(
            f"{path}: {heads!r} heads, windows of {window!r} pixels, full blocks {full!r} and "
            f"patches of {sizes.patch} pixels, {sizes.merge} to a cell, make no vision tower of "
            f"width {sizes.width}. Put the publisher's config.json beside the file."
        )
    return config
