"""What the menu of ComfyUI's page asks: loaders exchanged, and whether the open graph runs here.

The functions are those of `inkstone convert --to-inkstone` and `inkstone check`. An answer names
only files that the graph names, and no folder of this machine.
"""

from __future__ import annotations

from ...errors import InkstoneError
from ...host import model_folders, routes
from ..node_types import Json

EXCHANGE, CHECK = "/inkstone/exchange", "/inkstone/check"


def serve_page() -> None:
    """Registers both routes with the running ComfyUI."""
    routes.serve(EXCHANGE, exchange)
    routes.serve(CHECK, check)


def exchange(body: Json) -> dict[str, Json]:
    """{"workflow": UI graph} -> the graph with our loaders, and a line for each loader."""
    from .to_inkstone import to_inkstone

    graph = _part(body, "workflow")
    if not isinstance(graph.get("nodes"), list):
        raise InkstoneError(
            "The workflow has no list `nodes`: expected a graph as the page has it."
        )
    changed, lines = to_inkstone(graph)
    return {"workflow": changed, "lines": lines}


def check(body: Json) -> dict[str, Json]:
    """{"workflow": UI graph, "output": API graph} -> whether it runs here, with the reasons."""
    from ..graph.api_graph import parse_graph
    from .check import check_graph
    from .memory_estimate import memory_lines

    ui, api = _part(body, "workflow"), _part(body, "output")
    if not api:
        return {"runs": False, "lines": ["The graph is empty."]}
    known = {key: node for key, node in api.items() if not _is_unknown(node)}
    graph = parse_graph(known) if known else {}
    verdict = check_graph(graph, ui)
    if absent := len(api) - len(known):
        nodes = "1 node is of a class" if absent == 1 else f"{absent} nodes are of classes"
        verdict.faults.append(f"{nodes} that this ComfyUI does not have.")
    if not verdict.missing and not verdict.faults:
        try:
            verdict.memory = memory_lines(graph)
        except InkstoneError as error:
            verdict.faults.append(str(error))
    lines = [*verdict.faults, *(str(entry["said"]) for entry in verdict.missing)]
    lines += [f"Memory at {line}" for line in verdict.memory]
    return {"runs": verdict.runs(), "lines": [_without_folders(line) for line in lines]}


def _is_unknown(node: Json) -> bool:
    """True for what the page writes where it does not know a node's class."""
    return isinstance(node, dict) and "class_type" not in node and "inputs" in node


def _part(body: Json, name: str) -> dict[str, Json]:
    part = body.get(name) if isinstance(body, dict) else None
    if not isinstance(part, dict):
        raise InkstoneError(
            f"{name} is {type(part).__name__}: expected an object, the open graph as the page has "
            "it."
        )
    return part


def _without_folders(line: str) -> str:
    """The line without the paths of this machine's model folders."""
    folders = {str(f) for kind in model_folders.KINDS for f in model_folders.model_folders(kind)}
    for folder in sorted(folders, key=len, reverse=True):
        line = line.replace(f"{folder}/", "").replace(f"{folder}\\", "").replace(folder, "models")
    return line
