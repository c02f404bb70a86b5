"""The vision tower as a loaded model: located with its text encoder, read at the first edit.

In safetensors it lies next to the language model under `visual.`, for GGUF it is a file of its own
(vision_gguf.py). A `TowerPlace` knows which, or why there is none. Encoded pictures are kept by
their content: a new prompt, seed or number of steps encodes none of them again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import VisionConfig
from ...kernels.vision import VisionTower, activation_bytes
from ...sampling.geometry import CELL, encoder_sizes, vision_patches
from ..arch.dims import VISION_SIZES, Shapes, vision_sizes
from ..arch.expected_tensors import vision_layout
from ..arch.header_view import HeaderView
from ..arch.key_maps import KeyMap
from ..formats.weight_reader import WeightReader
from ..memory.lru import Recent
from ..memory.residency import FreeMemory, Residency, free_after_asking
from .image_processor import Sizes, digest, rgb_bytes, tower_pixels
from .vision_gguf import VisionFile, find_mmproj
from .weight_file import LoadOptions, WeightFile, weight_file

log = logging.getLogger(__name__)

START = "visual."
HEAD = 80  # head size of the published towers, whose tensors do not show it
PERIOD = 8  # every eighth block sees the whole picture
_KEPT_PICTURES = 8
# Keys of an mmproj header.
HEADS, PATTERN = "clip.vision.attention.head_count", "clip.vision.n_wa_pattern"


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the language model reads it: rows [n,W] and the (rows, columns) they form."""

    rows: Tensor
    grid: tuple[int, int]
    digest: str  # of the picture and of the size at which it was encoded


def with_pictures(ids: Sequence[int], pad: int, grids: Sequence[tuple[int, int]]) -> list[int]:
    """Repeats each picture's one `pad` once for every cell of its grid."""
    grid, out = iter(grids), []
    for token in ids:
        out += [pad] * math.prod(next(grid)) if token == pad else [token]
    return out


@dataclass
class VisionModel:
    """A loaded tower; its weights are read when a picture is encoded."""

    network: VisionTower
    dtype: torch.dtype
    device: torch.device
    path: Path
    weights: Residency = field(repr=False)
    budget: int | None = None  # bytes for the whole process; None = what is free
    _kept: Recent[EncodedPicture] = field(
        default_factory=lambda: Recent(_KEPT_PICTURES), repr=False
    )

    @property
    def cell(self) -> int:
        """Pixels on a side of what becomes one token."""
        return self.network.config.patch * self.network.config.merge

    def encode(self, picture: Tensor, area: int, sizes: Sizes = encoder_sizes) -> EncodedPicture:
        """One picture [H,W,C] or [1,H,W,C] in 0..1 of any size; area: pixels of its copy, of which
        `sizes` makes the size at which it is read."""
        pixels = rgb_bytes(picture)
        copy, size = sizes(pixels.shape[1], pixels.shape[0], area)
        name = f"{digest(pixels)} {copy} {size}"
        return self._kept.get(name, lambda: self._encode(tower_pixels(pixels, area, sizes), name))

    def _encode(self, pixels: Tensor, name: str) -> EncodedPicture:
        c = self.network.config
        patches = vision_patches(pixels, c.patch, c.merge)
        rows, columns = pixels.shape[1] // c.patch, pixels.shape[2] // c.patch
        self.weights.settle(self.budget, activation_bytes(c, len(patches), self.dtype))
        with torch.inference_mode():
            states = self.network(patches.to(self.device), (rows, columns))
        return EncodedPicture(states, (rows // c.merge, columns // c.merge), name)


@dataclass
class TowerPlace:
    """The vision tower of a text encoder, opened lazily, or the reason why there is none."""

    summary: str  # for the log line of the text encoder
    missing: str = ""  # the reason that an edit is refused with
    make: Callable[[], VisionModel] | None = field(default=None, repr=False)
    _model: VisionModel | None = field(default=None, repr=False)

    def open(self, purpose: str = "edits") -> VisionModel:
        """The tower: headers are read at the first call, weights when a picture is encoded."""
        if self._model is None:
            if self.make is None:
                raise InkstoneError(
                    f"The vision tower is missing, {purpose} need it: {self.missing}."
                )
            self._model = self.make()
        return self._model


@dataclass(frozen=True)
class TowerOptions:
    """Settings that a text encoder gives its tower."""

    width: int  # of the language model
    dtype: torch.dtype
    device: torch.device
    budget: int | None = None
    free: FreeMemory = free_after_asking


def tower_place(
    source: WeightReader, view: HeaderView, names: KeyMap, options: TowerOptions
) -> TowerPlace:
    """Locates the tower of an open text encoder. Reads no weights."""
    if any(ours.startswith(START) for ours in names.table):
        config = view.config.get("vision_config")

        def make() -> VisionModel:
            file = weight_file(source, view, names, lambda name: name.startswith(START))
            return open_tower(file, config if isinstance(config, Mapping) else {}, options)

        return TowerPlace("with its vision tower", make=make)
    if names.layout == "gguf":
        mmproj = find_mmproj(source.path, options.width)
        path = mmproj.path
        return TowerPlace(
            mmproj.words,
            f"{source.path}: {mmproj.words}",
            None if path is None else lambda: _open_mmproj(path, options),
        )
    return TowerPlace(
        "no vision tower (text-to-image only)",
        f"{source.path} has only the language model. Use a text encoder file with its `visual.` "
        "tensors: qwen_2.5_vl_7b.safetensors, or the folder text_encoder of Qwen-Image-Edit",
    )


def _open_mmproj(path: Path, options: TowerOptions) -> VisionModel:
    source = VisionFile(path)
    view = HeaderView(source.entries, source.metadata, {}, source)
    file = weight_file(source, view, KeyMap({name: name for name in source.entries}))
    return open_tower(file, _settings(source.metadata), options)


def _settings(metadata: Mapping[str, str]) -> dict[str, object]:
    """Numbers of an mmproj header, by the keys of vision_config."""
    keys = ((HEADS, "num_heads"), (PATTERN, "period"))
    values = {ours: metadata.get(theirs, "") for theirs, ours in keys}
    numbers = {ours: int(value) for ours, value in values.items() if value.isdigit()}
    return {ours: n for ours, n in numbers.items() if n or ours == "num_heads"}


def open_tower(
    file: WeightFile, settings: Mapping[str, object], options: TowerOptions
) -> VisionModel:
    """The tower of a file by our names with `visual.`; settings: vision_config, {} = as
    published."""
    path = Path(file.source.path)
    config = vision_config(file.shapes, settings, path)
    _check(file.shapes, path, options.width)
    with torch.device("meta"):
        network = VisionTower(config)
    inner = WeightFile(
        file.source,
        {name.removeprefix(START): theirs for name, theirs in file.names.items()},
        {name.removeprefix(START): weight for name, weight in file.packed.items()},
        {name.removeprefix(START): shape for name, shape in file.shapes.items()},
    )
    loaded = inner.load_into(
        network,
        network.blocks,
        LoadOptions(options.dtype, options.device, wait=True, free=options.free),
    )
    log.info(
        "vision tower %s: %d blocks, width %d, %.2f GB when it is used",
        path.name,
        config.depth,
        config.width,
        loaded.weights.nbytes / 1e9,
    )
    return VisionModel(
        network=network.eval(),
        dtype=options.dtype,
        device=options.device,
        path=path,
        weights=loaded.weights,
        budget=options.budget,
    )


def _check(shapes: Shapes, path: Path, width: int) -> None:
    """Raises where tensors are missing, unknown, of another shape, or of another model's width."""
    sizes = vision_sizes(shapes)
    layout = vision_layout(sizes) if sizes else {}
    wrong = [n for n in sorted(layout.keys() | shapes.keys()) if layout.get(n) != shapes.get(n)]
    if wrong:
        name = wrong[0]
        want, got = (list(s[name]) if name in s else "nothing" for s in (layout, shapes))
        raise InkstoneError(
            f"{path}: {len(wrong)} tensors do not fit a vision tower of Qwen2.5-VL; {name} has "
            f"shape {got}, expected {want}. The file mixes models or is damaged: download it again."
        )
    if sizes is not None and sizes.out != width:
        raise InkstoneError(
            f"{path}: the vision tower is for text encoders of width {sizes.out}, this one has "
            f"{width}. Use the tower that came with the text encoder."
        )


def vision_config(shapes: Shapes, settings: Mapping[str, object], path: Path) -> VisionConfig:
    """From tensor shapes; heads, window and full blocks from the settings, else as published."""
    sizes = vision_sizes(shapes)
    numbers = {name: getattr(sizes, name, 0) for name in VISION_SIZES}
    if sizes is None or 0 in numbers.values():
        raise InkstoneError(
            f"{path}: the vision tower cannot be built, its tensors give {numbers}. The file is "
            "incomplete or of another model: check it with `inkstone inspect`."
        )
    heads = settings.get("num_heads") or sizes.width // HEAD
    full, period = settings.get("fullatt_block_indexes"), settings.get("period", PERIOD)
    window = settings.get("window_size", 112)
    if full is None and isinstance(period, int) and period > 0:
        full = list(range(period - 1, sizes.depth, period))
    if isinstance(heads, int) and isinstance(window, int) and isinstance(full, list | tuple):
        config = replace(sizes, heads=heads, window=window, full=tuple(full))
        if (
            config.side >= 1
            and sizes.width % (4 * heads) == 0
            and sizes.patch * sizes.merge == CELL
        ):
            return config
    raise InkstoneError(
        f"{path}: {heads!r} heads, windows of {window!r} pixels, full blocks {full!r} and "
        f"patches of {sizes.patch} pixels, {sizes.merge} to a cell, make no vision tower of "
        f"width {sizes.width}. Put the publisher's config.json next to the file."
    )
