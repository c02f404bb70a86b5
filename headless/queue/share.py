"""Distributes the jobs of a queue to several workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .jobs import Job
from .worker import AHEAD


class Share:
    """Jobs for workers. Each takes several neighbours at a time, for the models that it has loaded;
    at the end an idle worker takes jobs from the others.
    """

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._waiting = deque(jobs)
        self._own: list[deque[Job]] = [deque() for _ in range(workers)]
        self._group: list[object] = [None] * workers

    def take(self, worker: int) -> tuple[Job, list[Job]] | None:
        """(next job of a worker, jobs that it took just now); None at the end."""
        own = self._own[worker]
        new: list[Job] = []
        if not own:
            new = self._neighbours(worker)
            own.extend(new)
        if own:
            self._group[worker] = own[0].group
            return own.popleft(), new
        fullest = max(self._own, key=len)
        return (fullest.pop(), []) if fullest else None

    def _neighbours(self, worker: int) -> list[Job]:
        """Waiting jobs of one group, the worker's own group first."""
        most = max(1, min(AHEAD, len(self._waiting) // (2 * len(self._own))))
        groups: list[object] = list(dict.fromkeys(job.group for job in self._waiting))
        if not groups:
            return []
        others = {group for number, group in enumerate(self._group) if number != worker}
        unclaimed = [group for group in groups if group not in others]
        group = self._group[worker]
        if group not in groups:
            group = (unclaimed or groups)[0]
        jobs = [job for job in self._waiting if job.group == group][:most]
        ids = set(map(id, jobs))
        self._waiting = deque(job for job in self._waiting if id(job) not in ids)
        return jobs

    def give_back(self, worker: int, job: Job | None) -> None:
        """Return the jobs of a lost worker to the front of the waiting ones."""
        jobs = [*([job] if job else []), *self._own[worker]]
        self._own[worker].clear()
        self._waiting.extendleft(reversed(jobs))

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._own))
