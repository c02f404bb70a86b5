"""One worker of a queue: runs jobs one after the other, and keeps models from job to job.

A queue has one in its own process, or with Ray one on every GPU. Results are files in a folder of
the worker's own; whoever started it brings them to their place.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InkstoneError
from ...host.exhaustion import memory_fault
from ...host.headless import HeadlessHost, Interrupted
from ...kernels.memory import process_bytes
from ..core_nodes.registry import node_classes
from ..draw.drawer import Drawer
from ..draw.run import draw
from ..graph.executor import Executor
from ..notes import noted
from .jobs import Job, check_files
from .journal import DONE, FAILED, GOES_ON, FolderFull, Outcome, no_room
from .metrics import peak_memory

if TYPE_CHECKING:
    from ..draw.request import DrawCall
    from ..node_types import NodeClasses

log = logging.getLogger(__name__)

AHEAD = 16  # jobs whose prompts are encoded in one go

OnStep = Callable[[Job, int, int], None]  # job, steps done, steps


@dataclass(frozen=True)
class Places:
    """The folders of graphs, and the device they run on."""

    models: Path = Path("models")
    input: Path = Path("input")
    device: str | None = None

    def host(self, output: Path, stop: threading.Event) -> HeadlessHost:
        """A host for graphs that write to this folder."""
        return HeadlessHost(
            (self.models,),
            self.input,
            output,
            output / "temp",
            self.device,
            previews=False,
            interrupt=stop,
        )


class Checker:
    """Finds before anything runs what a job lacks."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._nodes: NodeClasses | None = None

    def __call__(self, job: Job) -> None:
        """Raises InkstoneError where a job cannot run."""
        check_files(job)
        if job.graph is None:
            return
        from ...host.headless import using
        from ..core_nodes.registry import node_classes
        from ..graph.validation import validate
        from ..workflow.run import graph_of

        if self._nodes is None:
            self._nodes = node_classes()
        with using(self._places.host(Path("."), threading.Event())):
            validate(graph_of(job.graph, job.settings, self._nodes), self._nodes)


class Worker:
    """Runs jobs. work: folder for their files; stop: set when the user wants an end; models: how
    many stay open that the last job did not use, since jobs come in any order.
    """

    def __init__(
        self,
        work: Path,
        places: Places,
        stop: threading.Event,
        on_step: OnStep | None = None,
        models: int = 0,
    ) -> None:
        self.work = work
        self.drawer = Drawer(executor=Executor(node_classes(), models), stop=stop)
        self._places, self._stop, self._on_step = places, stop, on_step

    def run(self, job: Job) -> Outcome:
        """The job's outcome; a fault is one too. KeyboardInterrupt once `stop` is set, FolderFull
        where the disk is full.
        """
        began, started = time.time(), time.perf_counter()
        files: list[Path] = []
        try:
            self._clear()
            with noted() as notes:
                files, facts = self._run_call(job, job.call) if job.call else self._run_graph(job)
            facts |= {"notes": notes} if notes else {}
            status = DONE
        except Interrupted:
            raise KeyboardInterrupt from None
        except InkstoneError as error:
            self._require_room(error)
            facts, status = {"error": str(error)}, FAILED
        except Exception as error:  # an unexpected fault of one job must not cost the others
            self._require_room(error)
            facts, status = {"error": self._sentence(job, error), "unexpected": True}, FAILED
        facts |= {
            "started": round(began, 3),
            "total_seconds": round(time.perf_counter() - started, 4),
            "peak_memory_bytes": peak_memory(),
            "resident_bytes": process_bytes(),
            "prompts_encoded": self.drawer.prompts_encoded,
            "models_opened": self.drawer.models_loaded,
        }
        return Outcome(job, status, files, facts)

    @staticmethod
    def _sentence(job: Job, error: Exception) -> str:
        """What the journal says of an error that is none of ours."""
        fault = memory_fault(error)
        if fault is not None:
            return str(fault)
        log.warning("job %s: unexpected error", job.name, exc_info=True)
        return f"{type(error).__name__}: {error}"

    def ahead(self, jobs: Sequence[Job]) -> None:
        """Encodes the prompts of jobs that come next."""
        for call in [job.call for job in jobs if job.call]:
            if self._stop.is_set():
                raise KeyboardInterrupt
            try:
                self.drawer.encode_ahead(call)
            except Interrupted:
                raise KeyboardInterrupt from None
            except Exception as error:  # the job itself reports it, if it happens again
                log.debug("the prompt was not encoded ahead: %s", error)

    def _require_room(self, error: Exception) -> None:
        """Raises FolderFull where the folder failed, not the job: it is full, gone, read-only."""
        if no_room(error):
            raise FolderFull(f"{self.work}: {error} {GOES_ON}") from error
        try:
            with tempfile.TemporaryFile(dir=self.work) as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise FolderFull.of(self.work, fault) from error

    def _clear(self) -> None:
        """Removes what an earlier job left: first pictures of a failed one, empty folders. The
        output folder itself is not made again if somebody removed it.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(exist_ok=True)

    def _run_call(self, job: Job, call: DrawCall) -> tuple[list[Path], dict[str, Any]]:
        latent = self.work / f"{job.name}.safetensors" if job.latent else None
        call = replace(call, out=self.work / f"{job.name}.png", save_latent=latent)
        facts = draw(call, lambda done, of: self._step(job, done, of), self.drawer)
        files = [Path(f) for f in (*facts.pop("files"), facts.pop("latent", None)) if f]
        return files, facts

    def _run_graph(self, job: Job) -> tuple[list[Path], dict[str, Any]]:
        from ..workflow.run import run_file

        assert job.graph is not None  # a job has a call or a graph
        folder = self.work / job.name
        folder.mkdir(parents=True, exist_ok=True)
        host = self._places.host(folder, self._stop)
        show = self.drawer.on_preview
        if show is not None:
            host.previews, host.on_progress = True, lambda done, of, p: show(p) if p else None
        facts = run_file(
            job.graph,
            job.settings,
            host,
            lambda done, of: self._step(job, done, of),
            self.drawer.executor,
        )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        call = {"graph": str(job.graph), "set": list(job.settings)}
        return files, {"call": call, "seconds": {"run": facts["seconds"]}}

    def _step(self, job: Job, done: int, of: int) -> None:
        if self._on_step is not None:
            self._on_step(job, done, of)
        if self._stop.is_set():
            raise KeyboardInterrupt


def _same_models(jobs: Sequence[Job]) -> list[Job]:
    """The first jobs that share models with the first of all."""
    return list(itertools.takewhile(lambda job: job.group == jobs[0].group, jobs))


def here(jobs: Sequence[Job], worker: Worker, stop: threading.Event) -> Generator[Outcome]:
    """The outcomes of jobs in this process, in their order."""
    encoded = 0
    for number, job in enumerate(jobs):
        if stop.is_set():
            raise KeyboardInterrupt
        if number >= encoded:
            near = _same_models(jobs[number : number + AHEAD])
            worker.ahead(near)
            encoded = number + len(near)
        yield worker.run(job)
