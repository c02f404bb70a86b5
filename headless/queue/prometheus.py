"""Metrics of a queue in the text format of Prometheus, by its own client library.

For node_exporter's textfile collector, or any web server. The library is the extra `metrics`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX = "inkstone_batch_"
Values = dict[tuple[str, ...], float]  # by the values of the labels


@dataclass(frozen=True)
class Snapshot:
    """The numbers of one moment."""

    jobs: Mapping[str, int]  # by status
    images: int
    retries: int
    buckets: Sequence[tuple[str, int]]  # of job seconds, cumulative
    job_seconds: float
    stages: Mapping[str, float]  # seconds by stage
    prompts: int
    models: int
    left: int
    images_per_hour: float
    peak_memory: Mapping[tuple[str, str], int]  # bytes by worker and device
    stage_buckets: Mapping[str, tuple[Sequence[tuple[str, int]], float]]  # as buckets, and seconds


def is_available() -> bool:
    """True if the client library is installed."""
    return importlib.util.find_spec("prometheus_client") is not None


def exposition(snapshot: Snapshot) -> bytes:
    """Text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    """Gives the registry the families of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families."""
        from prometheus_client.core import HistogramMetricFamily

        s = self._snapshot
        jobs: Values = {(status,): s.jobs.get(status, 0) for status in ("done", "failed")}
        stages: Values = {(stage,): seconds for stage, seconds in sorted(s.stages.items())}
        yield counter("jobs", "Jobs that ran, by status.", jobs, ["status"])
        yield counter("images", "Pictures made.", {(): s.images})
        yield counter("retries", "Jobs retried because a worker was lost.", {(): s.retries})
        seconds = HistogramMetricFamily(f"{PREFIX}job_seconds", "Seconds per job.")
        seconds.add_metric([], buckets=list(s.buckets), sum_value=s.job_seconds)
        yield seconds
        yield counter("stage_seconds", "Seconds by stage of the work.", stages, ["stage"])
        times = HistogramMetricFamily(
            f"{PREFIX}stage_duration_seconds", "Seconds of a job by stage.", labels=["stage"]
        )
        for stage, (buckets, total) in sorted(s.stage_buckets.items()):
            times.add_metric([stage], buckets=list(buckets), sum_value=total)
        if s.stage_buckets:
            yield times
        yield counter("prompts_encoded", "Prompts encoded in this run.", {(): s.prompts})
        yield counter("models_opened", "Models opened in this run.", {(): s.models})
        yield gauge("jobs_left", "Jobs left to run.", {(): s.left})
        yield gauge("images_per_hour", "Pictures per hour in this run.", {(): s.images_per_hour})
        peak: Values = {key: s.peak_memory[key] for key in sorted(s.peak_memory)}
        text = "The most memory a worker used in this run."
        yield gauge("peak_memory_bytes", text, peak, ["worker", "device"])


def counter(name: str, text: str, values: Values, labels: Sequence[str] = ()) -> Metric:
    """A family of totals; by the values of its labels."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, values: Values, labels: Sequence[str] = ()) -> Metric:
    """A family of current values; by the values of its labels."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
