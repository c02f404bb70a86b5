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
    gone = {(u.who, u.worked): _before(u.before) for u in run.memory.unloadings}
    whole = not any(placement.streamed for _, placement in mine)
    if whole and not any((weights, True) in gone for weights, _ in mine):
        parts = [f"{main.name} alone: {ALL_RESIDENT}" if only else ALL_RESIDENT]
    else:
        parts = []
        for weights, placement in mine:
            again = gone.get((weights, False))
            part = f"{weights.name}: {placement.words()}"
            part += f", loaded again since it is unloaded {again}" if again else ""
            end = gone.get((weights, True))
            parts.append(part + (f", is unloaded {end}" if end else ""))
    if alone != main_placement:
        parts.append(f"{main.name} alone: {alone.words()}")
    for one, weights in run.planned.items():
        if one not in run.mine:
            end = gone.get((weights, False))
            size = f"{weights.name} in memory now ({one.reserved / 1e9:.2f} GB)"
            parts.append(f"{size} is unloaded {end}" if end else f"{size} stays")
    return "; ".join(parts)


def _before(weights: PlannedWeights | None) -> str:
    """When something is unloaded."""
    return "when its work is done" if weights is None else f"before the {weights.name} is loaded"
