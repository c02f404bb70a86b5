"""Runs API graphs in this process, and keeps results from run to run.

The results of nodes stay between runs: same class, inputs and ancestors means the same value,
whatever the node ids. Output nodes always run again (a saved picture may have been deleted).
Differences from ComfyUI: a fault anywhere stops the run before anything is computed; list outputs
and run-time expansion are refused; nodes run one after the other, async ones too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...errors import InkstoneError
from ...host import headless, progress
from ...host.headless import HeadlessHost
from ..node_types import Json, NodeClasses, Value
from .api_graph import Graph, Link
from .events import OnEvent, RunResult
from .graph_run import GraphRun, Outputs
from .result_cache import ResultCache


class Executor:
    """Runs graphs of these node classes and caches the results for the next run. models: see
    `ResultCache`.
    """

    def __init__(self, nodes: NodeClasses, models: int = 0) -> None:
        self.nodes = nodes
        self.cache: ResultCache[Outputs] = ResultCache(models=models)
        self._lock = threading.Lock()
        self._thread: int | None = None  # of the run under way
        progress.listen()  # as ComfyUI's start does: long work reports and can be stopped

    def clear(self) -> None:
        """Drop all results, models included."""
        self.cache.clear()

    def run(
        self,
        graph: Graph,
        host: HeadlessHost,
        on_event: OnEvent | None = None,
        extra_pnginfo: Mapping[str, Json] | None = None,
        last: bool = False,
    ) -> RunResult:
        """Check a graph and run its output nodes; results of earlier runs that it does not use are
        dropped first. last: no run comes after it, so each result leaves with its last reader.

        Raises GraphError before anything is computed, InkstoneError for an output folder that
        cannot be written to, NodeError for a failing node, Interrupted once `host.interrupt` is
        set.
        """
        with self._alone(), headless.using(host):
            emit = on_event or (lambda event: None)
            run = GraphRun(self.nodes, self.cache, graph, host, emit)
            run.hidden["EXTRA_PNGINFO"] = extra_pnginfo
            run.last = last
            return run.execute()

    def values(
        self,
        graph: Graph,
        links: Sequence[Link],
        host: HeadlessHost,
        on_event: OnEvent | None = None,
        last: bool = False,
    ) -> list[Value]:
        """Compute these outputs and all that they need; no output node runs. last: as in `run`.

        Raises as `run`, and InkstoneError if a node blocked the rest of the graph.
        """
        with self._alone(), headless.using(host):
            run = GraphRun(
                self.nodes, self.cache, graph, host, on_event or (lambda event: None), links
            )
            run.last = last
            run.execute()
            return [run.value(link) for link in links]

    def give(
        self, graph: Graph, links: Sequence[Link], host: HeadlessHost, node: str, values: Outputs
    ) -> str:
        """Keep the outputs of a node that were computed elsewhere, for runs of this graph with
        these links and host; the key to drop them by.
        """
        with self._alone(), headless.using(host):
            run = GraphRun(self.nodes, self.cache, graph, host, lambda event: None, links)
            run.identify()
            self.cache.store(run.keys[node], values, keep=True)
            return run.keys[node]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One run at a time: other threads wait; a run within a run would wait for itself."""
        if self._thread == threading.get_ident():
            raise InkstoneError(
                "This run was started from within another run of the same models, by a callback or "
                "a node. Start it after that one, or load the models once more for it."
            )
        with self._lock:
            self._thread = threading.get_ident()
            try:
                yield
            finally:
                self._thread = None
