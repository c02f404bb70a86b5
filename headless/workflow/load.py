"""What a user hands over as a graph: API or UI JSON, or a picture that carries one.

A PNG of ComfyUI or of `inkstone run` has up to two chunks: `prompt`, what really ran, and
`workflow`, what the page showed. To run, the first counts; to convert or check, the second, because
it holds what a graph does not: notes, titles, where models come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InkstoneError
from ...files.png import read_text_chunks
from ..graph.api_graph import apply_set, parse_graph
from .node_info import Interface, interface_of
from .parse_ui import INPUT_NODE, is_ui_graph, parse_workflow
from .to_api import PRIMITIVES, Flattener, Level, UnknownClasses

_MOST = 64 << 20  # bytes of a graph file; the largest seen in the wild are below 5 MB
ADVICE = 'Save one in ComfyUI with "Save" or "Export (API)", or give a PNG that it saved.'


@dataclass(frozen=True)
class GraphFile:
    """The forms that a file holds: `api`, `ui`, or neither but the `call` of `inkstone draw`."""

    path: Path
    api: dict[str, Any] | None = None
    ui: dict[str, Any] | None = None
    call: dict[str, Any] | None = None

    def as_api(self, classes: Mapping[str, Interface], ran: bool = True) -> dict[str, Any]:
        """The API graph: of what ran (`ran`), or else of what the page showed, where both are
        there. Raises InkstoneError, UnknownClasses.
        """
        if self.ui is not None and not (ran and self.api is not None):
            return Flattener(parse_workflow(self.ui), classes).api()
        if self.api is None:
            raise InkstoneError(self._no_graph())
        return self.api

    def _no_graph(self) -> str:
        if self.call is None:
            return f"{self.path} carries no graph: no `prompt` and no `workflow`. {ADVICE}"
        return (
            f"{self.path} was made by `inkstone draw`, not by a graph: "
            f"{json.dumps(self.call, ensure_ascii=False)[:400]}. Draw it again with "
            "`inkstone draw` and these values."
        )


def read_graph_file(path: Path) -> GraphFile:
    """Reads and sorts out a file. Raises InkstoneError with a sentence for whatever is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise InkstoneError(f"Cannot read {path}: {error.strerror or error}.") from error
    if data.startswith(b"\x89PNG"):
        return _from_png(path)
    if len(data) > _MOST:
        raise InkstoneError(f"{path} is larger than {_MOST >> 20} MiB: no graph is. {ADVICE}")
    if not data.strip():
        raise InkstoneError(f"{path} is empty. {ADVICE}")
    return _sorted(path, _json(data, str(path)))


def _json(data: bytes | str, what: str) -> Any:
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(text, parse_constant=lambda name: None)
    except UnicodeDecodeError as error:
        raise InkstoneError(f"{what} is neither a PNG nor JSON text. {ADVICE}") from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InkstoneError(f"{what} is not JSON: {said}. {ADVICE}") from error


def _from_png(path: Path) -> GraphFile:
    chunks = read_text_chunks(path)
    found = {
        key: _json(chunks[key], f"The `{key}` chunk of {path}")
        for key in ("prompt", "workflow", "inkstone")
        if key in chunks
    }
    prompt, workflow = found.get("prompt"), found.get("workflow")
    ui = workflow if is_ui_graph(workflow) else None
    call = found.get("inkstone")
    made = GraphFile(
        path,
        prompt if isinstance(prompt, dict) else None,
        ui,
        call if isinstance(call, dict) else None,
    )
    if made.api is None and made.ui is None:
        raise InkstoneError(made._no_graph())
    return made


def _sorted(path: Path, data: Any) -> GraphFile:
    if is_ui_graph(data):
        return GraphFile(path, ui=data)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):  # the body of POST /prompt
        return GraphFile(path, api=data["prompt"])
    if not isinstance(data, dict) or not data:
        kind = "an empty object" if data == {} else type(data).__name__
        raise InkstoneError(
            f"{path}: expected a graph, an object with `nodes` or of node id -> node, got {kind}. "
            f"{ADVICE}"
        )
    return GraphFile(path, api=data)


def interfaces(nodes: Mapping[str, type]) -> dict[str, Interface]:
    """The interfaces of classes that run here."""
    return {name: interface_of(node) for name, node in nodes.items()}


# ---- --set on what a UI graph has and an API graph has not ---------------------------------------


def promoted(ui: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Inputs of subgraph instances, and primitives -> the inputs ("ID.NAME") that they lead to.

    Keys are (id or title in small letters, input name); a primitive's input is "value".
    """
    made: dict[tuple[str, str], list[str]] = {}
    workflow = parse_workflow(dict(ui))
    flat = Flattener(workflow, {})
    for level in _levels(flat, Level(workflow.root)):
        for node in level.sheet.nodes.values():
            titles = {level.name(node), (node.title or "").lower()} - {""}
            if node.kind in workflow.subgraphs:
                inside = flat._inside(level, node)
                titles |= {inside.sheet.title.lower()} - {""}
                for index, item in enumerate(inside.sheet.inputs):
                    goals = list(_goals(flat, inside, INPUT_NODE, index))
                    for title in titles:
                        made.setdefault((title, item.name), []).extend(goals)
            elif node.kind in PRIMITIVES:
                goals = list(_goals(flat, level, node.id, 0))
                for title in titles:
                    made.setdefault((title, "value"), []).extend(goals)
    return made


def _levels(flat: Flattener, level: Level) -> Iterator[Level]:
    yield level
    for node in level.sheet.nodes.values():
        if node.kind in flat.workflow.subgraphs:
            yield from _levels(flat, flat._inside(level, node))


def _goals(flat: Flattener, level: Level, origin: str, slot: int) -> Iterator[str]:
    """The inputs of real nodes that an origin leads to, as ID.NAME."""
    for link in level.sheet.leaving(origin, slot):
        node = level.sheet.nodes.get(link.target)
        if node is None or link.target_slot >= len(node.inputs):
            continue
        name = node.inputs[link.target_slot].name
        if node.kind in flat.workflow.subgraphs:
            inside = flat._inside(level, node)
            at = [i for i, item in enumerate(inside.sheet.inputs) if item.name == name]
            if at:
                yield from _goals(flat, inside, INPUT_NODE, at[0])
        else:
            yield f"{level.name(node)}.{name}"


def apply_settings(
    graph: dict, settings: Any, nodes: Mapping[str, type], ui: Mapping[str, Any] | None
) -> dict:
    """The graph with each NODE.INPUT=VALUE applied, NODE also a subgraph or primitive of the page.

    Raises InkstoneError that names the setting.
    """
    aliases = promoted(ui) if ui is not None and settings else {}
    for setting in settings:
        left, _, value = setting.partition("=")
        node, _, name = left.rpartition(".")
        goals = aliases.get((node, name)) or aliases.get((node.lower(), name)) or [left]
        for goal in goals:
            graph = apply_set(graph, f"{goal}={value}" if "=" in setting else setting, nodes)
    return graph


def runnable(file: GraphFile, nodes: Mapping[str, type]) -> dict:
    """The Graph of a file whose classes all run here. Raises InkstoneError."""
    classes = interfaces(nodes) if file.api is None else {}  # what ran needs none
    try:
        return parse_graph(file.as_api(classes))
    except UnknownClasses as error:
        raise InkstoneError(
            f"{error} These run in ComfyUI only; what runs here: Inkstone's nodes and the basic "
            "core nodes."
        ) from error
