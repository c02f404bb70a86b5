"""Metrics of a queue: a JSON line per job in `metrics.jsonl`, and totals in `metrics.prom`.

Totals and the histogram count every record of the journal, so that they continue after a restart;
images per hour, peak memory, prompts and models are those of this run. `metrics.prom` needs the
extra `metrics` (see prometheus.py); without it, only the JSON lines are written.
"""

from __future__ import annotations

import bisect
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...files.atomic import replacement
from ...kernels.memory import process_bytes
from ..node_types import Json
from . import prometheus

log = logging.getLogger(__name__)

LINES, EXPOSITION = "metrics.jsonl", "metrics.prom"
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)  # seconds
_INTERVAL = 2.0  # seconds between two writes of the exposition
_JOB_FIELDS = (
    "id",
    "status",
    "error",
    "worker",
    "attempts",
    "files",
    "total_seconds",
    "seconds",
    "peak_memory_bytes",
)


def peak_memory() -> dict[str, int]:
    """The most bytes that this process used, by device."""
    peaks = {"cpu": _peak_ram()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            peaks[f"cuda:{index}"] = torch.cuda.max_memory_allocated(index)
    return peaks


def _peak_ram() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return process_bytes()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Histogram:
    """Counts of seconds in BUCKETS, and one for all above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, count of values up to it), the last bound +Inf."""
        bounds, sums, so_far = [*map(str, BUCKETS), "+Inf"], [], 0
        for count in self.counts:
            so_far += count
            sums.append(so_far)
        return list(zip(bounds, sums))

    def quantile(self, q: float) -> float | None:
        """The bound of the bucket with this quantile, at most the last bound (as in Prometheus;
        JSON has no infinity). None without values.
        """
        rank = q * sum(self.counts)
        for bound, count in self.cumulative():
            if count and count >= rank:
                return min(float(bound), float(BUCKETS[-1]))
        return None


class Metrics:
    """Counts records: `count` all of the journal, `add` those of this run."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started, self._written = folder, time.monotonic(), 0.0
        self._jobs: Counter[str] = Counter()
        self._stages: dict[str, float] = {}
        self._stage_times: dict[str, Histogram] = {}
        self._latency = Histogram()
        self._images = self._images_here = self.left = self.retries = 0
        self._peak: dict[tuple[str, str], int] = {}
        self._workers: dict[str, tuple[int, int]] = {}  # worker -> prompts, models
        self._exposes = prometheus.is_available()
        if not self._exposes:
            log.info(
                "%s is not written: install prometheus_client with pip install "
                "'inkstone[metrics]'. %s has the same numbers.",
                EXPOSITION,
                LINES,
            )

    def count(self, record: Mapping[str, Json]) -> None:
        """Count a record of this run or an earlier one."""
        self._jobs[str(record["status"])] += 1
        self._images += _count_pictures(record)
        if record.get("total_seconds") is not None:  # a job that lost its workers has none
            self._latency.add(float(record["total_seconds"]))
        for stage, seconds in (record.get("seconds") or {}).items():
            self._stages[stage] = self._stages.get(stage, 0) + seconds
            self._stage_times.setdefault(stage, Histogram()).add(seconds)

    def tally(self, record: Mapping[str, Json]) -> None:
        """Count a new record, which `count` has counted, in the numbers of this run."""
        self._images_here += _count_pictures(record)
        self.retries += (record.get("attempts") or 1) - 1  # its worker was lost
        worker = str(record.get("worker", "0"))
        for device, peak in (record.get("peak_memory_bytes") or {}).items():
            self._peak[worker, device] = max(peak, self._peak.get((worker, device), 0))
        if "prompts_encoded" in record:  # a job that was cancelled says nothing of its worker
            counts = (record["prompts_encoded"] or 0, record.get("models_opened") or 0)
            self._workers[worker] = counts

    def add(self, record: Mapping[str, Json]) -> None:
        """Count a new record, write its line, and from time to time the exposition."""
        self.tally(record)
        self._write_line("job", _job_facts(record) | {"images_per_hour": self.images_per_hour})
        if time.monotonic() - self._written > _INTERVAL:
            self.write()

    @property
    def images_per_hour(self) -> float:
        """Pictures per hour in this run."""
        return round(self._images_here / max(time.monotonic() - self._started, 1e-3) * 3600, 1)

    def facts(self) -> dict[str, Json]:
        """All metrics, for JSON."""
        return {
            "jobs": dict(self._jobs),
            "left": self.left,
            "retries": self.retries,
            "images": self._images,
            "images_per_hour": self.images_per_hour,
            "seconds": round(time.monotonic() - self._started, 3),
            "latency": dict(self._latency.cumulative()),
            "latency_p50": self._latency.quantile(0.5),
            "latency_p95": self._latency.quantile(0.95),
            "stage_seconds": {k: round(v, 3) for k, v in self._stages.items()},
            "peak_memory_bytes": {f"{w}/{d}": n for (w, d), n in self._peak.items()},
            "prompts_encoded": sum(prompts for prompts, _ in self._workers.values()),
            "models_opened": sum(models for _, models in self._workers.values()),
        }

    def close(self) -> None:
        """Write the line of the run and the final exposition."""
        self._write_line("run", self.facts())
        self.write()

    def write(self) -> None:
        """Write the exposition in one step, if its library is installed."""
        self._written = time.monotonic()
        if not self._exposes:
            return
        with replacement(self._folder / EXPOSITION) as file:
            file.write(prometheus.exposition(self.snapshot()))

    def snapshot(self, by_stage: bool = False) -> prometheus.Snapshot:
        """All numbers of this moment. by_stage: with a histogram of each stage."""
        times = self._stage_times if by_stage else {}
        return prometheus.Snapshot(
            jobs=self._jobs,
            images=self._images,
            retries=self.retries,
            buckets=self._latency.cumulative(),
            job_seconds=self._latency.total,
            stages=self._stages,
            prompts=sum(prompts for prompts, _ in self._workers.values()),
            models=sum(models for _, models in self._workers.values()),
            left=self.left,
            images_per_hour=self.images_per_hour,
            peak_memory=self._peak,
            stage_buckets={k: (h.cumulative(), h.total) for k, h in times.items()},
        )

    def _write_line(self, event: str, facts: Mapping[str, Json]) -> None:
        """Append a line; a line that a kill cut off is ended first."""
        path = self._folder / LINES
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
            cut = end and file.read(1) != b"\n"
            line = json.dumps(
                {"event": event, "time": round(time.time(), 3), **facts}, ensure_ascii=False
            )
            data = line.encode("utf-8", "backslashreplace")  # half a character of a prompt
            file.write(b"\n" * bool(cut) + data + b"\n")


def _count_pictures(record: Mapping[str, Json]) -> int:
    return sum(str(name).lower().endswith(".png") for name in record.get("files") or ())


def _job_facts(record: Mapping[str, Json]) -> dict[str, Json]:
    """The fields of a job's line."""
    facts = {name: record[name] for name in _JOB_FIELDS if name in record}
    return facts | {
        "call": record.get("call") or {},
        "resident_bytes": record.get("resident_bytes"),
    }
