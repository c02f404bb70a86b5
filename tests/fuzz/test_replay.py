"""Seeds, every crash ever found, and some seeded mutants of each target, without atheris.

`scripts/fuzz` goes on from there. A crash that it finds belongs into crashes/TARGET/, named by what
went wrong, together with the mend.
"""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from random import Random

import pytest

from .judge import Finding, judge
from .mutants import mutant
from .seeds import SEEDS
from .targets import TARGETS

CRASHES = Path(__file__).parent / "crashes"
MUTANTS = 15  # of a target
_SECONDS = 5.0  # of an input here: the machine may be busy, and the first one imports


@functools.cache
def seeds(name: str) -> list[bytes]:
    return SEEDS[name]()


def wrong(name: str, inputs: list[bytes]) -> list[Finding]:
    """The findings among these inputs of a target."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = (judge(TARGETS[name], data, _SECONDS) for data in inputs)
        return [finding for finding in found if finding is not None]


def test_every_target_has_seeds_and_a_line():
    assert list(TARGETS) and set(SEEDS) == set(TARGETS)
    assert all(function.__doc__ for function in TARGETS.values())
    assert {folder.name for folder in CRASHES.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name):
    assert not wrong(name, seeds(name))


@pytest.mark.parametrize(
    "path", sorted(CRASHES.glob("*/*")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_crashes(path):
    assert path.stat().st_size < 8192, "make it smaller"
    assert not wrong(path.parent.name, [path.read_bytes()])


@pytest.mark.parametrize("name", TARGETS)
def test_mutants(name):
    """The same ones in every run."""
    inputs = [mutant(seeds(name)[n % len(seeds(name))], Random(n)) for n in range(MUTANTS)]
    assert not wrong(name, inputs)


@pytest.mark.parametrize(
    "call, kind",
    [
        (lambda data: data.index(b"x"), "ValueError-test_replay-lambda"),
        (lambda data: b"x" * (320 << 20), "memory"),  # one block: never from a free heap
        (lambda data: sum(range(6_000_000)), "slow"),
    ],
    ids=("an exception", "memory", "time"),
)
def test_a_finding_is_seen(call, kind):
    finding = judge(call, b"", 0.04 if kind == "slow" else 60)
    assert finding is not None and finding.kind == kind, finding


def test_mutants_change_what_is_read():
    """Most JSON stays JSON, and the same seed gives the same mutant."""
    data = seeds("keypoints")[0]
    mutants = [mutant(data, Random(n)) for n in range(50)]
    assert len(set(mutants)) > 25 and mutants[3] == mutant(data, Random(3))
    assert sum(_is_json(each) for each in mutants) > 25


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
