"""Sigma schedules as pure functions of numbers: descending float32 sigmas that end in 0.

Closed forms of diffusers' `FlowMatchEulerDiscreteScheduler` as the Qwen-Image repositories
configure it. A schedule record (`Schedule`) is what a model folder's scheduler_config.json says.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InkstoneError

log = logging.getLogger(__name__)

LIGHTNING_MU = math.log(3.0)  # ModelTC's Lightning card: fixed shift 3 at every size, no terminal


@dataclass(frozen=True)
class Schedule:
    """The shift of the sigmas. Defaults: Qwen-Image's published scheduler config.

    `kind` is "exponential" (e^mu), "linear" (mu itself) or "none" (plain). With `dynamic` mu grows
    with the number of target tokens between (base_tokens, base_shift) and (max_tokens, max_shift);
    otherwise `shift` is the fixed factor. `terminal` stretches the last non-zero sigma to it.
    """

    kind: str = "exponential"
    dynamic: bool = True
    base_tokens: int = 256
    max_tokens: int = 8192
    base_shift: float = 0.5
    max_shift: float = 0.9
    terminal: float | None = 0.02
    shift: float = 1.0
    levels: tuple[float, ...] = ()  # fixed sigmas of a distilled model, without the last, 0
    by_root: bool = False  # mu = sqrt(tokens / 256) of one layer: the layered pipeline's rule

    def mu(self, tokens: int) -> float:
        """The shift parameter for a canvas of `tokens` tokens (not clamped, as the reference)."""
        if self.by_root:
            return math.sqrt(tokens / 256)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + (tokens - self.base_tokens) * slope


MOST_SHIFT = 1000.0  # beyond it every sigma of a run is 1 or 0

QWEN = Schedule()
LIGHTNING = Schedule(base_shift=LIGHTNING_MU, max_shift=LIGHTNING_MU, terminal=None)
LIGHTNING_21 = Schedule(terminal=None)  # of 2.1's Lightning: shift by size, no terminal
TURBO_21 = Schedule(
    levels=(1, 0.978453, 0.954180, 0.926626, 0.895080, 0.845148, 0.704534, 0.414568)
)
CORE_21 = Schedule(base_shift=0.69, max_shift=0.69, terminal=None)  # of ComfyUI, at every size
LINEAR = Schedule(kind="none", dynamic=False, terminal=None)
LAYERED = Schedule(kind="linear", terminal=None, by_root=True)


def sigmas(schedule: Schedule, steps: int, tokens: int) -> Tensor:
    """[steps + 1] float32, from 1 down to 0.

    One step is [1, 0] (the reference's terminal stretch would divide 0 by 0 there).
    """
    check_steps(steps)
    if schedule.levels:
        return _fixed(schedule.levels, steps)
    s = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64)
    factor = _factor(schedule, tokens)
    s = factor / (factor + 1 / s - 1)
    if schedule.terminal is not None and steps > 1:
        s = 1 - (1 - s) * (1 - schedule.terminal) / (1 - s[-1])
    return torch.cat([s, torch.zeros(1, dtype=torch.float64)]).float()


def shifted(schedule: Schedule, level: float, tokens: int, shift: float | None = None) -> float:
    """A noise level in 0..1 as a schedule shifts it for a canvas of `tokens` tokens, without its
    stretch to a terminal. shift: a factor of one's own."""
    factor = _factor(schedule, tokens) if shift is None else shift
    return factor * level / (1 + (factor - 1) * level)


def _fixed(levels: tuple[float, ...], steps: int) -> Tensor:
    """Fixed sigmas; for another number of steps than theirs, points of the line through them."""
    line = torch.tensor([*levels, 0.0], dtype=torch.float64)
    if steps == len(levels):
        return line.float()
    log.warning(
        "the model was trained for the %d steps of its own sigmas: %d steps take sigmas between "
        "them",
        len(levels),
        steps,
    )
    at = torch.linspace(0, len(levels), steps + 1, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(levels) - 1)
    return (line[low] + (at - low) * (line[low + 1] - line[low])).float()


def tail(levels: Tensor, strength: float) -> Tensor:
    """The last steps of a schedule, for a run from a picture; `strength` = fraction of the steps.

    levels [N + 1]. The reference's rounding: int(N - N * strength) steps are skipped, so one more
    step runs where the product is not whole.
    """
    steps = len(levels) - 1
    if not 0 < strength <= 1:
        raise InkstoneError(
            f"Denoising strength is {strength:g}: expected more than 0, up to 1. 0.6 is usual; "
            "lower keeps more of the picture."
        )
    skipped = int(max(steps - min(steps * strength, steps), 0))
    if skipped >= steps:
        raise InkstoneError(
            f"Denoising strength {strength:g} of {steps} steps leaves no step to run. Raise the "
            "strength or the number of steps."
        )
    return levels[skipped:]


def _factor(schedule: Schedule, tokens: int) -> float:
    """The a of s' = a / (a + 1/s - 1)."""
    if schedule.kind == "none":
        return 1.0
    if not schedule.dynamic:
        return schedule.shift
    mu = schedule.mu(tokens)
    factor = math.exp(min(mu, 700.0)) if schedule.kind == "exponential" else mu
    if not 0 < factor <= MOST_SHIFT:
        raise InkstoneError(
            f"The schedule shifts the sigmas of {tokens} tokens by {factor:g}: expected above 0 "
            f"and at most {MOST_SHIFT:g}. Use the scheduler folder of the original Qwen-Image "
            "repository."
        )
    return factor


def check_steps(steps: int) -> None:
    """Raises unless 1 <= steps <= 1000."""
    if not 1 <= steps <= 1000:
        raise InkstoneError(
            f"Steps is {steps}: expected 1 to 1000. Use 50, or 8 with a Lightning model."
        )


def check_sigmas(levels: Tensor) -> None:
    """Raises unless `levels` are two or more numbers in 0..1 that never rise."""
    remedy = "Use the Inkstone Schedule node."
    if levels.dim() != 1 or len(levels) < 2:
        raise InkstoneError(
            f"The schedule has {levels.numel()} sigmas: expected at least 2, for one step. {remedy}"
        )
    wrong = [s for s in levels.tolist() if not 0 <= s <= 1]  # NaN is wrong too
    if wrong:
        raise InkstoneError(
            f"The schedule contains sigma {wrong[0]:g}: Qwen-Image takes noise levels from 1 down "
            f"to 0, this schedule is for another kind of model. {remedy}"
        )
    if (levels.diff() > 0).any():
        raise InkstoneError(f"The schedule's sigmas rise: expected a falling order. {remedy}")


_OTHER_SAMPLERS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


def from_config(config: dict) -> Schedule:
    """A folder's scheduler_config.json -> Schedule. Unknown scheduler classes raise."""
    name = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    if name != "FlowMatchEulerDiscreteScheduler":
        raise InkstoneError(
            f"scheduler_config.json names {name}: expected FlowMatchEulerDiscreteScheduler. Use "
            "the scheduler folder of the original Qwen-Image repository."
        )
    for key in _OTHER_SAMPLERS:
        if config.get(key):
            raise InkstoneError(
                f"scheduler_config.json sets {key}, which no Qwen-Image model uses. Remove it."
            )
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise InkstoneError(
            f"scheduler_config.json sets time_shift_type to {kind!r}: expected exponential or "
            "linear. Use the scheduler folder of the original Qwen-Image repository."
        )
    dynamic = config.get("use_dynamic_shifting", False)
    if not isinstance(dynamic, bool):
        raise _wrong("use_dynamic_shifting", dynamic, "true or false")
    base, most = (
        int(_number(config, f"{key}_image_seq_len", usual, (1, 2**20)))
        for key, usual in (("base", 256), ("max", 4096))
    )
    if base == most:
        raise _wrong("max_image_seq_len", most, "another number than base_image_seq_len")
    return Schedule(
        kind=kind,
        dynamic=dynamic,
        base_tokens=base,
        max_tokens=most,
        base_shift=_number(config, "base_shift", 0.5, (-20, 20)),
        max_shift=_number(config, "max_shift", 1.15, (-20, 20)),
        terminal=_number(config, "shift_terminal", 0.0, (0, 0.99)) or None,
        shift=_number(config, "shift", 1.0, (1e-3, MOST_SHIFT)),
    )


def _number(config: dict, key: str, usual: float, limits: tuple[float, float]) -> float:
    """A number of the config within limits; the usual one where it is absent or null."""
    value, (low, high) = config.get(key), limits
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(key, value, f"a number from {low:g} to {high:g}")
    return float(value)


def _wrong(key: str, value: object, expected: str) -> InkstoneError:
    return InkstoneError(
        f"scheduler_config.json sets {key} to {str(value)[:40]!r}: expected {expected}. Use the "
        "scheduler folder of the original Qwen-Image repository."
    )
