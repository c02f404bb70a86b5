"""The choice of the next token from its scores: pure functions, on the CPU.

Scores are changed in the reference's order (transformers: repetition penalty, then temperature,
top-k, top-p), in float32. The draw is our own, so that a seed gives the same text on every machine:
one float64 number of torch's CPU generator (Mersenne Twister) for each token, looked up in the
cumulative float64 probabilities in order of the tokens' numbers. Temperature 0 takes the best score
and draws nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InkstoneError
from .next_token_limits import MOST_TOKENS, USUAL_PENALTY, USUAL_TOKENS


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is chosen. Row k of a batch draws with seed + k."""

    max_tokens: int = USUAL_TOKENS
    temperature: float = 0.0  # 0 = the best token always
    top_p: float = 1.0  # 1 = off
    top_k: int = 0  # 0 = off
    repetition_penalty: float = USUAL_PENALTY  # 1 = off
    seed: int = 0

    def check(self) -> None:
        """Raises for a number out of its range."""
        ranges: tuple[tuple[str, float, float], ...] = (
            ("max_tokens", 1, MOST_TOKENS),
            ("temperature", 0, 100),
            ("top_p", 1e-6, 1),
            ("top_k", 0, 1 << 20),
            ("repetition_penalty", 0.01, 100),
            ("seed", 0, 2**64 - 1),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InkstoneError(
                    f"{name} is {value}: expected a number from {low:g} to {high:g}."
                )


GREEDY = Decoding()


def generator(decoding: Decoding, row: int = 0) -> torch.Generator:
    """The source of the draws of one row."""
    return torch.Generator().manual_seed((decoding.seed + row) % 2**64)


def changed_scores(scores: Tensor, tokens: Collection[int], decoding: Decoding) -> Tensor:
    """scores [V] float32 of the next token -> the same after penalty, temperature, top-k and top-p;
    excluded tokens have -inf. tokens: all so far, of the prompt too.
    """
    if decoding.repetition_penalty != 1 and tokens:
        index = torch.tensor(sorted(set(tokens)))
        old = scores[index]
        penalty = decoding.repetition_penalty
        scores = scores.index_copy(0, index, torch.where(old < 0, old * penalty, old / penalty))
    if decoding.temperature == 0:
        return scores
    scores = scores / decoding.temperature
    if 0 < decoding.top_k < len(scores):
        least = scores.topk(decoding.top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if decoding.top_p < 1:
        ascending, order = scores.sort()
        below = ascending.softmax(-1).cumsum(-1) <= 1 - decoding.top_p
        below[-1] = False  # the best token always stays
        scores = scores.index_fill(0, order[below], -torch.inf)
    return scores


def next_token(
    scores: Tensor, tokens: Collection[int], decoding: Decoding, source: torch.Generator
) -> int:
    """The number of the next token. scores: [V] on any device, in any float type."""
    scores = changed_scores(scores.to("cpu", torch.float32), tokens, decoding)
    if decoding.temperature == 0:
        return int(scores.argmax())
    total = scores.double().softmax(-1).cumsum(-1)
    draw = torch.rand((), generator=source, dtype=torch.float64) * total[-1]
    return min(
        int(torch.searchsorted(total, draw, right=True)), int(scores.isfinite().nonzero()[-1])
    )
