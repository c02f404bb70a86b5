"""Measures of a queue: one JSON line per job in `metrics.jsonl`, and all of them in
`metrics.prom`, in the text format that Prometheus reads (node_exporter's textfile collector, or
any web server).

Totals and the histogram count every record of the journal, so they go on over restarts; images per
hour, peak memory, prompts and models are those of this run.
"""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files.atomic import replacement
from ...kernels.memory import process_bytes

LINES, EXPOSITION = "metrics.jsonl", "metrics.prom"
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)  # seconds
_PREFIX = "inkstone_batch_"
_OFTEN = 2.0  # seconds between two writes of the exposition


def peak_memory() -> dict[str, int]:
    """The most bytes that this process held, by device."""
    found = {"cpu": _peak_ram()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.max_memory_allocated(index)
    return found


def _peak_ram() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return process_bytes()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Histogram:
    """Seconds, counted in BUCKETS and one for all that is above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, how many are not above it), the last bound +Inf."""
        bounds, sums, so_far = [*map(_number, BUCKETS), "+Inf"], [], 0
        for count in self.counts:
            so_far += count
            sums.append(so_far)
        return list(zip(bounds, sums))

    def quantile(self, q: float) -> float | None:
        """The bound of the bucket that holds this quantile; above all bounds the last of them (as
        Prometheus has it, and JSON knows no infinity). None without values.
        """
        wanted = q * sum(self.counts)
        for bound, count in self.cumulative():
            if count and count >= wanted:
                return min(float(bound), float(BUCKETS[-1]))
        return None


class Metrics:
    """Counts records. `add` is for those of this run, `count` for all."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started, self._written = folder, time.monotonic(), 0.0
        self._jobs: Counter[str] = Counter()
        self._stages: Counter[str] = Counter()
        self._latency = Histogram()
        self._images = self._here = self.left = self.retries = 0
        self._peak: dict[tuple[str, str], int] = {}
        self._kept: dict[str, tuple[int, int]] = {}  # worker -> prompts, models

    def count(self, record: Mapping[str, Any]) -> None:
        """A record of this run or an earlier one."""
        self._jobs[str(record["status"])] += 1
        self._images += _pictures(record)
        if record.get("total_seconds") is not None:  # a job that lost its workers has none
            self._latency.add(float(record["total_seconds"]))
        for stage, seconds in (record.get("seconds") or {}).items():
            self._stages[stage] += seconds

    def add(self, record: Mapping[str, Any]) -> None:
        """A record that was just made: its line, and now and then the exposition."""
        self._here += _pictures(record)
        worker = str(record.get("worker", "0"))
        for device, most in (record.get("peak_memory_bytes") or {}).items():
            self._peak[worker, device] = max(most, self._peak.get((worker, device), 0))
        counts = (record.get("prompts_encoded") or 0, record.get("models_opened") or 0)
        self._kept[worker] = counts
        self._say("job", _line(record) | {"images_per_hour": self.images_per_hour})
        if time.monotonic() - self._written > _OFTEN:
            self.write()

    @property
    def images_per_hour(self) -> float:
        """Of this run."""
        return round(self._here / max(time.monotonic() - self._started, 1e-3) * 3600, 1)

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
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
            "prompts_encoded": sum(p for p, _ in self._kept.values()),
            "models_opened": sum(m for _, m in self._kept.values()),
        }

    def close(self) -> None:
        """The end of a run."""
        self._say("run", self.facts())
        self.write()

    def write(self) -> None:
        """The exposition, replaced in one step."""
        self._written = time.monotonic()
        with replacement(self._folder / EXPOSITION) as file:
            file.write(self.exposition().encode("utf-8"))

    def _say(self, event: str, facts: Mapping[str, Any]) -> None:
        """One line. A line that a kill cut off is ended first."""
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

    def exposition(self) -> str:
        """Prometheus text format 0.0.4."""
        jobs = [({"status": s}, self._jobs[s]) for s in ("done", "failed")]
        peak = [({"worker": w, "device": d}, n) for (w, d), n in sorted(self._peak.items())]
        stages = [({"stage": s}, n) for s, n in sorted(self._stages.items())]
        facts = self.facts()
        return "".join(
            (
                _family("jobs_total", "counter", "Jobs that were run, by how they ended.", jobs),
                _family("images_total", "counter", "Pictures that were made.", _one(self._images)),
                _family(
                    "retries_total",
                    "counter",
                    "Jobs that were begun again because a worker was lost.",
                    _one(self.retries),
                ),
                self._buckets(),
                _family("stage_seconds_total", "counter", "Seconds by stage of the work.", stages),
                _family(
                    "prompts_encoded_total",
                    "counter",
                    "Prompts encoded in this run.",
                    _one(facts["prompts_encoded"]),
                ),
                _family(
                    "models_opened_total",
                    "counter",
                    "Models opened in this run.",
                    _one(facts["models_opened"]),
                ),
                _family("jobs_left", "gauge", "Jobs that wait.", _one(self.left)),
                _family(
                    "images_per_hour",
                    "gauge",
                    "Pictures per hour in this run.",
                    _one(self.images_per_hour),
                ),
                _family(
                    "peak_memory_bytes", "gauge", "The most memory a worker held in this run.", peak
                ),
            )
        )

    def _buckets(self) -> str:
        found = self._latency.cumulative()
        rows = [f'{_PREFIX}job_seconds_bucket{{le="{bound}"}} {count}' for bound, count in found]
        rows += [f"{_PREFIX}job_seconds_sum {_number(self._latency.total)}"]
        rows += [f"{_PREFIX}job_seconds_count {found[-1][1]}"]
        return _head("job_seconds", "histogram", "Seconds from a job's begin to its end.") + (
            "\n".join(rows) + "\n"
        )


def _pictures(record: Mapping[str, Any]) -> int:
    return sum(str(name).lower().endswith(".png") for name in record.get("files") or ())


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the prompt log says of a job."""
    call = record.get("call") or {}
    names = (
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
    said = {name: record[name] for name in names if name in record}
    return said | {"call": call, "resident_bytes": record.get("resident_bytes")}


def _one(value: float) -> list[tuple[dict[str, str], float]]:
    return [({}, value)]


def _family(
    name: str, kind: str, text: str, rows: Sequence[tuple[Mapping[str, str], float]]
) -> str:
    lines = [f"{_PREFIX}{name}{_labels(labels)} {_number(value)}\n" for labels, value in rows]
    return _head(name, kind, text) + "".join(lines)


def _head(name: str, kind: str, text: str) -> str:
    said = text.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {_PREFIX}{name} {said}\n# TYPE {_PREFIX}{name} {kind}\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    parts = [f'{name}="{escaped(value)}"' for name, value in labels.items()]
    return "{" + ",".join(parts) + "}"


def escaped(value: str) -> str:
    """A label's value as the format writes it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(float(value), 6))
