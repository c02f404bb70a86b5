"""The choice of a token: scores against transformers' processors, draws by seed."""

from __future__ import annotations

import math

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.sampling.next_token import Decoding, changed_scores, generator, next_token

from ..support.oracle import library

CASES = [
    Decoding(temperature=0.7, repetition_penalty=1.0),
    Decoding(temperature=1.3, top_k=5),
    Decoding(temperature=0.9, top_p=0.8),
    Decoding(temperature=0.5, top_p=0.3, top_k=20, repetition_penalty=1.4),
    Decoding(temperature=1.0, top_p=1e-6),
    Decoding(temperature=2.0, top_k=10**6, repetition_penalty=0.8),
]


FIXED = [12, 13, 20, 11, 40, 38, 49, 48]


def reference(decoding: Decoding):
    t = library("transformers.generation.logits_process")
    steps = [t.RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty)]
    steps.append(t.TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        steps.append(t.TopKLogitsWarper(top_k=decoding.top_k))
    if decoding.top_p < 1:
        steps.append(t.TopPLogitsWarper(top_p=decoding.top_p))
    return t.LogitsProcessorList(steps)


@pytest.mark.parametrize("decoding", CASES, ids=range(len(CASES)))
def test_scores_equal_the_reference(decoding):
    for seed in range(5):
        scores = torch.randn(400, generator=torch.Generator().manual_seed(seed)) * 4
        seen = [3, 7, 7, 250]
        want = reference(decoding)(torch.tensor([seen]), scores[None].clone())[0]
        got = changed_scores(scores, seen, decoding)
        assert torch.equal(got, want)
        assert torch.isfinite(got).any()


def test_greedy_takes_the_best_after_the_penalty():
    scores = torch.tensor([1.0, 3.0, 2.9, -1.0])
    source = torch.Generator()
    assert next_token(scores, [], Decoding(), source) == 1
    assert next_token(scores, [1], Decoding(repetition_penalty=1.1), source) == 2
    assert next_token(scores.bfloat16(), [1], Decoding(repetition_penalty=1.0), source) == 1


def test_draws_follow_the_probabilities():
    scores = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2]))
    decoding = Decoding(temperature=1.0, repetition_penalty=1.0)
    source = generator(decoding)
    counts = torch.bincount(
        torch.tensor([next_token(scores, [], decoding, source) for _ in range(4000)]), minlength=4
    )
    assert counts[1] == 0
    for count, share in zip(counts.tolist(), (0.5, 0.0, 0.3, 0.2)):
        assert abs(count / 4000 - share) < 4 * math.sqrt(0.25 / 4000)


def test_a_seed_gives_these_tokens():
    """Fixed numbers: another machine or a later version must give the same."""
    scores = torch.linspace(0, 3, 50)
    decoding = Decoding(temperature=1.0, seed=42)
    source = generator(decoding)
    assert [next_token(scores, [], decoding, source) for _ in range(8)] == FIXED
    other = generator(Decoding(temperature=1.0, seed=41), row=1)
    assert [next_token(scores, [], decoding, other) for _ in range(8)] == FIXED


@pytest.mark.parametrize("name, value", [("max_tokens", 0), ("top_k", -1), ("seed", -1)])
def test_numbers_out_of_range(name, value):
    with pytest.raises(InkstoneError, match=f"{name} is {value}: expected a number from"):
        Decoding(**{name: value}).check()
