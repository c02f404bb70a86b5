"""Noise on encoded captions: what it is, and that the network gets it."""

from __future__ import annotations

import pytest
import torch

from inkstone.training.dataset.example import Example
from inkstone.training.lora.objective import Draws, Objective, noise_of, text_of

STATES = torch.randn(40, 96, generator=torch.Generator().manual_seed(3)) * 7
EMPTY = torch.randn(25, 96, generator=torch.Generator().manual_seed(4))
for states in (STATES, EMPTY):
    states[:, 0] *= 100  # as language models have some
EXAMPLE = Example("a.png", torch.zeros(30, 64), ((1, 5, 6),), STATES, EMPTY)
ONE, OTHER = Draws(0.5, 11, False), Draws(0.5, 12, False)


def test_without_it_the_states_are_those_of_the_encoder():
    assert text_of(Objective(), EXAMPLE, ONE) is STATES
    assert text_of(Objective(), EXAMPLE, Draws(0.5, 11, True)) is EMPTY


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("dropped", [False, True])
def test_its_size_is_a_share_of_the_states(share, dropped):
    text = EMPTY if dropped else STATES
    noise = text_of(Objective(caption_noise=share), EXAMPLE, Draws(0.5, 11, dropped)) - text
    usual = text.abs().median(dim=0).values
    got = (noise / usual).square().mean().sqrt().item()
    assert abs(got / share - 1) < 0.1, f"{got:.3f} of {share}"
    assert noise[:, 0].abs().mean() > 10 * noise[:, 1].abs().mean(), "of each channel its own"
    assert abs((noise / usual).mean() / share) < 0.1


def test_it_is_that_of_the_picture_in_its_step():
    objective = Objective(caption_noise=0.5)
    first = text_of(objective, EXAMPLE, ONE)
    assert torch.equal(first, text_of(objective, EXAMPLE, ONE)), "a resumed run repeats it"
    assert not torch.equal(first, text_of(objective, EXAMPLE, OTHER))
    image = noise_of(EXAMPLE, ONE).flatten()[:1500]
    text = (first - STATES).flatten()[:1500]
    alike = torch.corrcoef(torch.stack([image, text]))[0, 1].abs().item()
    assert alike < 0.1, f"the noise of the picture again: {alike:.2f}"
