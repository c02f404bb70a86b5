"""Variety as people choose it: what makes seeds differ, and how much; without torch.

Every method is off at 0. What the usual amounts do on the embedded model, and what they cost, is
measured (bench/variety.py, bench/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InkstoneError

TEXT_NOISE, NO_EARLY_CFG, REWRITE = "text-noise", "no-early-cfg", "rewrite"
USUAL_NOISE_STEPS = 0.5  # of the steps, in which the words are noisy


@dataclass(frozen=True)
class VarietyMethod:
    """A method and its amount."""

    name: str
    usual: float
    amount: str  # what its amount is, for messages
    most: float


_ALL = (
    VarietyMethod(TEXT_NOISE, 2.0, "the strength of the noise on the words", 10.0),
    VarietyMethod(NO_EARLY_CFG, 0.2, "the fraction of the steps without CFG", 1.0),
    VarietyMethod(REWRITE, 1.0, "the temperature of the language model", 2.0),
)
METHODS = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class Variety:
    """Variety of a model. text_noise: of the words' states, relative to their own size, in the
    first noise_steps of the steps; no_early_cfg: the first fraction of the steps without CFG.
    """

    text_noise: float = 0.0
    noise_steps: float = USUAL_NOISE_STEPS
    no_early_cfg: float = 0.0

    def __post_init__(self) -> None:
        _check_amount(METHODS[TEXT_NOISE], self.text_noise)
        _check_amount(METHODS[NO_EARLY_CFG], self.no_early_cfg)
        if not 0 < self.noise_steps <= 1:
            raise InkstoneError(
                f"The words are noisy in {self.noise_steps:g} of the steps: expected a fraction "
                f"above 0, up to 1. {USUAL_NOISE_STEPS:g} is usual; to turn it off, set the "
                "strength of the noise to 0."
            )

    def __bool__(self) -> bool:
        return bool(self.text_noise or self.no_early_cfg)

    def noisy(self, step: int, steps: int) -> bool:
        """True in the steps with noise on the words."""
        return self.text_noise > 0 and _within(self.noise_steps, step, steps)

    def guided(self, step: int, steps: int) -> bool:
        """True in the steps that have CFG, where a run has it."""
        return not _within(self.no_early_cfg, step, steps)

    def words(self) -> str:
        """As the command line writes it."""
        parts = []
        if self.text_noise:
            parts.append(f"{TEXT_NOISE}:{self.text_noise:g}:{self.noise_steps:g}")
        if self.no_early_cfg:
            parts.append(f"{NO_EARLY_CFG}:{self.no_early_cfg:g}")
        return " and ".join(parts) or "off"


def _within(fraction: float, step: int, steps: int) -> bool:
    """Whether a step lies within the first fraction of the steps as a whole."""
    return (step + 1) / steps <= fraction


def _check_amount(method: VarietyMethod, amount: float) -> None:
    if not (math.isfinite(amount) and 0 <= amount <= method.most):
        raise InkstoneError(
            f"The amount of the variety {method.name} is {amount:g}: expected 0 (off) to "
            f"{method.most:g}. It is {method.amount}; {method.usual:g} is usual."
        )


@dataclass(frozen=True)
class VarietyOption:
    """One --variety. steps: of the method text-noise."""

    method: str
    amount: float
    steps: float = USUAL_NOISE_STEPS

    def words(self) -> str:
        """As the command line writes it."""
        steps = f":{self.steps:g}" if self.method == TEXT_NOISE else ""
        return f"{self.method}:{self.amount:g}{steps}"


def parse_variety(text: str) -> VarietyOption:
    """NAME[:AMOUNT], of text-noise NAME[:AMOUNT[:STEPS]] -> the option. Raises InkstoneError."""
    name, *rest = text.strip().split(":")
    method = METHODS.get(name)
    if method is None:
        raise InkstoneError(f"There is no variety {name!r}: expected one of {', '.join(METHODS)}.")
    try:
        numbers = [float(number) for number in rest]
    except ValueError:
        numbers = [math.nan]
    if any(map(math.isnan, numbers)) or len(numbers) > 1 + (name == TEXT_NOISE):
        form = "NAME, NAME:AMOUNT" + (" or NAME:AMOUNT:STEPS" if name == TEXT_NOISE else "")
        raise InkstoneError(
            f"{text!r} is no variety: expected {form}, for example {name}:{method.usual:g}."
        )
    option = VarietyOption(name, *[*numbers, method.usual][: max(1, len(numbers))])
    _check_amount(method, option.amount)
    variety_of([option])
    return option


def variety_of(options: Sequence[VarietyOption]) -> Variety:
    """What these options set on a model; rewriting is done before. Raises InkstoneError."""
    by = {option.method: option for option in options}
    if len(by) < len(options):
        raise InkstoneError(
            f"Variety {', '.join(option.words() for option in options)}: expected each name once. "
            "Keep one amount of each."
        )
    noise, early = by.get(TEXT_NOISE), by.get(NO_EARLY_CFG)
    return Variety(
        text_noise=noise.amount if noise else 0.0,
        noise_steps=noise.steps if noise else USUAL_NOISE_STEPS,
        no_early_cfg=early.amount if early else 0.0,
    )
