"""`inkstone run`: a graph file, executed without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..nodes.host import HeadlessHost
from .core_nodes import CORE_NODES
from .executor import Event, Executor
from .graph import apply_set, read_graph


def node_classes() -> dict[str, type]:
    """Every node that runs headless: ours and our stand-ins of basic core nodes."""
    from ..nodes import NODES

    return {**CORE_NODES, **{node.define_schema().node_id: node for node in NODES}}


def run_file(path: Path, settings: list[str], host: HeadlessHost, progress: Callable[[int, int], None]) -> dict:
    """Runs a graph file with `NODE.INPUT=VALUE` settings; returns files, outputs and seconds."""
    nodes = node_classes()
    graph = read_graph(path)
    for setting in settings:
        graph = apply_set(graph, setting, nodes)

    def on_event(event: Event) -> None:
        if event.kind == "progress":
            progress(event.data["value"], event.data["max"])

    result = Executor(nodes).run(graph, host, on_event)
    files = [
        str(Path(host.output if entry.get("type") == "output" else host.temp) / entry.get("subfolder", "") / entry["filename"])
        for ui in result.outputs.values()
        for entry in ui.get("images", [])
    ]
    return {"files": files, "outputs": result.outputs, "seconds": round(result.seconds, 3)}
