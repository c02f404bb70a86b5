"""The words of a memory plan: what is resident, what is streamed, what is unloaded for what.

Placements give their own words (`Placement.words`); this puts them into one sentence.
"""

from __future__ import annotations

from ..loaders.memory.placement import Placement, PlannedWeights
from .plan_stages import PlannedRun

ALL_RESIDENT = "all resident"


def verdict(run: PlannedRun, alone: Placement, only: bool) -> str:
    """The sentence of a run. alone: the MMDiT's placement with nothing else in memory; only:
    nothing but the MMDiT is planned.
    """
    mine = [(run.planned[one], run.placement(one)) for one in run.mine]
    main, main_placement = mine[-1]
    followers = {gone.who: gone.before or main for gone in run.memory.unloadings}
    whole = not any(placement.streamed for _, placement in mine)
    if whole and not any(weights in followers for weights, _ in mine):
        parts = [f"{main.name} alone: {ALL_RESIDENT}" if only else ALL_RESIDENT]
    else:
        parts = [
            f"{weights.name}: {placement.words()}{_end(followers.get(weights), ', ')}"
            for weights, placement in mine
        ]
    if alone != main_placement:
        parts.append(f"{main.name} alone: {alone.words()}")
    for one, weights in run.planned.items():
        if one not in run.mine:
            size = f"{weights.name} in memory now ({one.reserved / 1e9:.2f} GB)"
            parts.append(size + (_end(followers.get(weights), " ") or " stays"))
    return "; ".join(parts)


def _end(before: PlannedWeights | None, joint: str) -> str:
    """When weights are unloaded; "" where they stay."""
    return "" if before is None else f"{joint}is unloaded before the {before.name} is loaded"
