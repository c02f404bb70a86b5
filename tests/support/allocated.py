"""The bytes that torch allocates in a call, to the byte."""

from __future__ import annotations

from collections.abc import Callable

import torch


def allocated(call: Callable[[], object]) -> int:
    """The most bytes that tensors of a call hold at once."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top
