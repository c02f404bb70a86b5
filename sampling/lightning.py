"""Distilled (few-step) models: the settings they need, and a check of a run against them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .schedule import LIGHTNING, LIGHTNING_21, TURBO_21, Schedule, sigmas

NAMES = {LIGHTNING: "Lightning", LIGHTNING_21: "Lightning 2.1", TURBO_21: "2.1 Turbo"}
MOST_STEPS = 8  # of any published Lightning file
_CLOSE = 0.02  # sigmas of ComfyUI's "simple" at shift 3.1 are 0.0082 from the fixed shift 3


@dataclass(frozen=True)
class Distilled:
    """A model trained for few steps without CFG. `steps` None = the file does not say (4 or 8)."""

    steps: int | None
    why: str  # how it was recognized
    schedule: Schedule = LIGHTNING
    what: str = "this LoRA"

    @property
    def name(self) -> str:
        """The name of its schedule, for people."""
        return NAMES[self.schedule]

    def words(self) -> str:
        """For messages: "a distilled Lightning one (8 steps)"."""
        return f"a distilled {self.name} one ({self.steps or '4 or 8'} steps)"


def misfit(distilled: Distilled, levels: Tensor, cfg: float, tokens: int = 1) -> str | None:
    """The sentence about settings of a run that do not fit a distilled model, or None."""
    steps, trained = len(levels) - 1, distilled.steps
    wrong = []
    whole = levels[0] >= 1  # a run from a picture starts inside the schedule, with fewer steps
    if (steps != trained) if trained and whole else steps > (trained or MOST_STEPS):
        wrong.append(f"{steps} steps")
    if cfg > 1:
        wrong.append(f"CFG {cfg:g}")
    if whole and steps > 1:
        apart = (
            (levels.cpu().float() - sigmas(distilled.schedule, steps, tokens)).abs().max().item()
        )
        if apart > _CLOSE:
            wrong.append("another schedule")
    if not wrong:
        return None
    return (
        f"{distilled.what} is {distilled.words()}: use {trained or '4 or 8'} steps, CFG 1, "
        f"schedule {distilled.name}; this run has {', '.join(wrong)}"
    )
