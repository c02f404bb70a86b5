"""Marks single cases of a parametrized test as slow; whole tests have `@pytest.mark.slow`."""

from collections.abc import Callable, Iterable

import pytest


def slow_where(is_slow: Callable[[object], bool], values: Iterable) -> list:
    """The values, those for which `is_slow` holds with the marker `slow`."""
    return [pytest.param(v, marks=pytest.mark.slow) if is_slow(v) else v for v in values]
