"""The vision tower as a loaded model: located with its text encoder, read at the first edit.

In safetensors it lies next to the language model under `visual.`, for GGUF it is a file of its own
(vision_gguf.py). A `TowerPlace` knows which, or why there is none. Encoded pictures are kept by
their content: a new prompt, seed or number of steps encodes none of them again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InkstoneError
from ...kernels.configs import DeepVisionConfig, VisionConfig
from ...kernels.vision import VisionTower
from ...kernels.vision_deep import DeepVisionTower
from ...sampling.vision_sizes import QWEN3_SIGHT, QWEN25_SIGHT, Sight, encoder_sizes, vision_patches
from ..arch.dims import Shapes, vision_sizes
from ..arch.encoder_models import QWEN25_VL, EncoderModel, tower_model
from ..arch.expected_tensors import vision_layout
from ..arch.header_view import HeaderView
from ..arch.key_maps import KeyMap
from ..arch.vision_config import vision_config
from ..formats.weight_reader import WeightReader
from ..memory.lru import Recent
from ..memory.residency import FreeMemory, Residency, free_after_asking
from .image_processor import Sizes, digest, rgb_bytes, tower_pixels
from .vision_gguf import VisionFile, find_mmproj
from .weight_file import LoadOptions, WeightFile, weight_file

log = logging.getLogger(__name__)

START = "visual."
_KEPT_PICTURES = 8
# Keys of an mmproj header.
HEADS, PATTERN = "clip.vision.attention.head_count", "clip.vision.n_wa_pattern"


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the language model reads it: rows [n,W] and the (rows, columns) they form."""

    rows: Tensor
    grid: tuple[int, int]
    digest: str  # of the picture and of the size at which it was encoded
    deep: tuple[Tensor, ...] = ()  # rows of deeper levels [n,W], see DeepRows


@dataclass
class VisionModel:
    """A loaded tower; its weights are read when a picture is encoded."""

    network: VisionTower | DeepVisionTower
    dtype: torch.dtype
    device: torch.device
    path: Path
    weights: Residency = field(repr=False)
    budget: int | None = None  # bytes for the whole process; None = what is free
    sight: Sight = QWEN25_SIGHT  # what it asks of pictures
    _kept: Recent[EncodedPicture] = field(
        default_factory=lambda: Recent(_KEPT_PICTURES), repr=False
    )

    @property
    def cell(self) -> int:
        """Pixels on a side of what becomes one token."""
        return self.network.config.patch * self.network.config.merge

    def row_bytes(self, rows: int) -> int:
        """Bytes of this number of rows at all levels."""
        return rows * self.network.row_numbers * self.dtype.itemsize

    def encode(self, picture: Tensor, area: int, sizes: Sizes = encoder_sizes) -> EncodedPicture:
        """One picture [H,W,C] or [1,H,W,C] in 0..1 of any size; area: pixels of its copy, of which
        `sizes` makes the size at which it is read."""
        pixels = rgb_bytes(picture, self.sight.over_white)
        copy, size = sizes(pixels.shape[1], pixels.shape[0], area, self.sight)
        name = f"{digest(pixels)} {copy} {size}"
        return self._kept.get(
            name, lambda: self._encode(tower_pixels(pixels, area, sizes, self.sight), name)
        )

    def _encode(self, pixels: Tensor, name: str) -> EncodedPicture:
        c = self.network.config
        patches = vision_patches(pixels, c.patch, c.merge)
        rows, columns = pixels.shape[1] // c.patch, pixels.shape[2] // c.patch
        self.weights.settle(self.budget, self.network.activation_bytes(len(patches), self.dtype))
        with torch.inference_mode():
            levels = self.network.levels(patches.to(self.device), (rows, columns))
        states, *deep = (level.cpu() for level in levels)  # they are kept: not on the card
        return EncodedPicture(states, (rows // c.merge, columns // c.merge), name, tuple(deep))


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
    model: EncoderModel = QWEN25_VL


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
        mmproj = find_mmproj(source.path, options.width, options.model)
        path = mmproj.path
        return TowerPlace(
            mmproj.words,
            f"{source.path}: {mmproj.words}",
            None if path is None else lambda: _open_mmproj(path, options),
        )
    return TowerPlace(
        "no vision tower (text-to-image only)",
        f"{source.path} has only the language model. Use a text encoder file with its `visual.` "
        f"tensors: {options.model.file}, or {options.model.folder}",
    )


def _open_mmproj(path: Path, options: TowerOptions) -> VisionModel:
    source = VisionFile(path)
    view = HeaderView(source.entries, source.metadata, {}, source)
    file = weight_file(source, view, KeyMap({name: name for name in source.entries}))
    settings = _settings(source.metadata) | {"deepstack_visual_indexes": source.tapped}
    return open_tower(file, settings, options)


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
    network, sight = _built(config)
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
        sight=sight,
        dtype=options.dtype,
        device=options.device,
        path=path,
        weights=loaded.weights,
        budget=options.budget,
    )


def _built(config: VisionConfig | DeepVisionConfig) -> tuple[VisionTower | DeepVisionTower, Sight]:
    """The network of a config on the meta device, and what it asks of pictures."""
    with torch.device("meta"):
        if isinstance(config, DeepVisionConfig):
            return DeepVisionTower(config), QWEN3_SIGHT
        return VisionTower(config), QWEN25_SIGHT


def _check(shapes: Shapes, path: Path, width: int) -> None:
    """Raises where tensors are missing, unknown, of another shape, or of another model's width."""
    sizes = vision_sizes(shapes)
    layout = vision_layout(sizes) if sizes else {}
    wrong = [n for n in sorted(layout.keys() | shapes.keys()) if layout.get(n) != shapes.get(n)]
    if wrong:
        name = wrong[0]
        want, got = (list(s[name]) if name in s else "nothing" for s in (layout, shapes))
        title = tower_model(sizes).title
        raise InkstoneError(
            f"{path}: {len(wrong)} tensors do not fit a vision tower of {title}; {name} has "
            f"shape {got}, expected {want}. The file mixes models or is damaged: download it again."
        )
    if sizes is not None and sizes.out != width:
        raise InkstoneError(
            f"{path}: the vision tower is for text encoders of width {sizes.out}, this one has "
            f"{width}. Use the tower that came with the text encoder."
        )
