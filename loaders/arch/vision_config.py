"""The shape of a vision tower from its tensors, and from settings for what they do not show.

Settings are the vision_config of a config.json, or the numbers of an mmproj header by its keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import InkstoneError
from ...kernels.configs import QWEN3_VL_VISION, DeepVisionConfig, VisionConfig
from ...sampling.vision_sizes import QWEN3_SIGHT, QWEN25_SIGHT
from .dims import VISION_SIZES, Shapes, vision_sizes

HEAD, DEEP_HEAD = 80, 72  # head sizes of the published towers, whose tensors do not show them
PERIOD = 8  # of Qwen2.5-VL every eighth block sees the whole picture


def vision_config(
    shapes: Shapes, settings: Mapping[str, object], path: Path
) -> VisionConfig | DeepVisionConfig:
    """From tensor shapes; heads, windows and the blocks that matter from the settings, else as
    published.
    """
    sizes = vision_sizes(shapes)
    numbers = {name: getattr(sizes, name, 0) for name in VISION_SIZES}
    if sizes is None or 0 in numbers.values():
        raise InkstoneError(
            f"{path}: the vision tower cannot be built, its tensors give {numbers}. The file is "
            "incomplete or of another model: check it with `inkstone inspect`."
        )
    if isinstance(sizes, DeepVisionConfig):
        return _deep(sizes, settings, path)
    return _windowed(sizes, settings, path)


def _windowed(sizes: VisionConfig, settings: Mapping[str, object], path: Path) -> VisionConfig:
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
            and sizes.patch * sizes.merge == QWEN25_SIGHT.cell
        ):
            return config
    raise InkstoneError(
        f"{path}: {heads!r} heads, windows of {window!r} pixels, full blocks {full!r} and "
        f"patches of {sizes.patch} pixels, {sizes.merge} to a cell, make no vision tower of "
        f"width {sizes.width}. Put the publisher's config.json next to the file."
    )


def _deep(sizes: DeepVisionConfig, settings: Mapping[str, object], path: Path) -> DeepVisionConfig:
    heads = settings.get("num_heads") or sizes.width // DEEP_HEAD
    taps = settings.get("deepstack_visual_indexes")
    if taps is None and sizes.depth == QWEN3_VL_VISION.depth:
        taps = QWEN3_VL_VISION.taps
    if isinstance(heads, int) and heads > 0 and isinstance(taps, list | tuple):
        blocks = tuple(n for n in taps if type(n) is int and 0 <= n < sizes.depth)
        if (
            len(taps) == len(set(blocks)) == len(sizes.taps)
            and sizes.width % (4 * heads) == 0
            and sizes.patch * sizes.merge == QWEN3_SIGHT.cell
            and math.isqrt(sizes.places) ** 2 == sizes.places
        ):
            return replace(sizes, heads=heads, taps=blocks)
    raise InkstoneError(
        f"{path}: {heads!r} heads, deeper levels from the blocks {taps!r} of {sizes.depth}, "
        f"{sizes.places} places and patches of {sizes.patch} pixels, {sizes.merge} to a cell, make "
        f"no vision tower of width {sizes.width} with {len(sizes.taps)} deeper levels. Put the "
        "publisher's config.json next to the file."
    )
