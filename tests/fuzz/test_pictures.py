"""Mutants of pictures in every format end as a picture or a sentence, within bounds. Where a format
is fragile, Pillow's plugins raise whatever they like: the one door must catch it.
"""

from __future__ import annotations

import os
import warnings
from random import Random

import pytest

from .judge import judge
from .mutants import mutant
from .picture_seeds import FORMATS, of_format
from .targets import TARGETS

MANY, FEW = 200, 25


def wrong(form: str, count: int) -> list[str]:
    """The findings among seeded mutants of a format; headers are hit more often than pixels."""
    seeds, findings = of_format(form), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(count):
            rng, seed = Random(f"{form}{n}"), seeds[n % len(seeds)]
            data = mutant(seed, rng)
            if n % 2:
                data = mutant(seed[:200], rng) + seed[200:]
            finding = judge(TARGETS["picture"], data, 5.0)
            findings += [f"{form} {n}: {finding.text}"] if finding else []
    return findings


@pytest.mark.parametrize("form", FORMATS)
def test_some_mutants(form):
    assert not wrong(form, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_many_mutants(form):
    count = int(os.environ.get("INKSTONE_PICTURE_MUTANTS", MANY))
    assert not wrong(form, count)
