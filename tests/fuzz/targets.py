"""The table of targets: name -> function that takes the bytes."""

from __future__ import annotations

from collections.abc import Callable

from . import graph_targets, picture_targets, score_targets, weight_targets

TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): function
    for module in (weight_targets, graph_targets, picture_targets, score_targets)
    for name, function in vars(module).items()
    if name.startswith("fuzz_")
}
