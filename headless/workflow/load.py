"""Graph files: API or UI JSON, or a picture that contains one.

A PNG of ComfyUI or of `inkstone run` has up to two chunks: `prompt`, the graph that ran, and
`workflow`, the graph that the page showed. To run, the first takes precedence; to convert or check,
the second, because it holds more: notes, titles, where models come from.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.json_text import TooDeep, parse_json
from ...files.paths import check_given, kind_of, open_regular
from ...files.png import read_text_chunks
from ..graph.api_graph import Graph, parse_graph
from ..node_types import Json, NodeClasses
from .node_info import Interface, interface_of
from .parse_ui import is_ui_graph, parse_workflow
from .to_api import Flattener, UnknownClasses

SHIPPED = Path(__file__).resolve().parents[2] / "workflows"  # package data, in a wheel too
_MAX_BYTES = 64 << 20  # of a graph file; the largest seen in the wild are below 5 MB
ADVICE = 'Save one in ComfyUI with "Save" or "Export (API)", or give a PNG that it saved.'


def find_graph(path: Path) -> Path:
    """The file at `path`, or the shipped workflow of that name, bare or below `workflows/`: its
    title in the page's list, or the name of its API form. Raises CallError.
    """
    if kind_of(path) == "a file":
        return path
    titles = {file.stem: file for file in sorted(SHIPPED.glob("*.json"))}
    names = sorted(file.stem for file in (SHIPPED / "api").glob("*.json"))
    name = path.name.removesuffix(".json")
    ours = path.parent in (Path(), Path(SHIPPED.name)) or path.parent.absolute() == SHIPPED
    if ours and name in titles:
        return titles[name]
    if ours and name in names:
        return next(file for file in titles.values() if _name(file) == name)
    if kind_of(path) not in ("", "a folder"):
        check_given(path, kinds=("graph file",))
    near = difflib.get_close_matches(name, names, 3, 0.5) or ["text_to_image_embedded"]
    raise CallError(
        f"{path}: no such graph file. Check the path, or name a shipped workflow, such as "
        f"{', '.join(near)}."
    )


def _name(file: Path) -> str:
    """The name of a shipped workflow's API form."""
    name: str = json.loads(file.read_text("utf-8"))["extra"]["inkstone"]["name"]
    return name


@dataclass(frozen=True)
class GraphFile:
    """The forms in a file: `api`, `ui`, or only the `call` of an older `inkstone draw`."""

    path: Path
    api: dict[str, Json] | None = None
    ui: dict[str, Json] | None = None
    call: dict[str, Json] | None = None

    def as_api(self, classes: Mapping[str, Interface], ran: bool = True) -> dict[str, Json]:
        """The API graph. If the file has both forms: the one that ran (`ran`), or else the one
        that the page showed. Raises InkstoneError, UnknownClasses.
        """
        if self.ui is not None and not (ran and self.api is not None):
            return Flattener(parse_workflow(self.ui), classes).api()
        if self.api is None:
            raise InkstoneError(self.absence())
        return self.api

    def absence(self) -> str:
        """A sentence for a file without a graph."""
        if self.call is None:
            return f"{self.path} carries no graph: no `prompt` and no `workflow`. {ADVICE}"
        return (
            f"{self.path} was made by `inkstone draw`, not by a graph: "
            f"{json.dumps(self.call, ensure_ascii=False)[:400]}. Run `inkstone draw` with these "
            "values to make it again."
        )


def read_graph_file(path: Path) -> GraphFile:
    """Read a file and detect its form. Raises InkstoneError with a sentence for any fault."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InkstoneError(f"Cannot read {path}: {error.strerror or error}.") from error
    if data.startswith(b"\x89PNG"):
        return _from_png(path)
    if len(data) > _MAX_BYTES:
        raise InkstoneError(
            f"{path} is too large for a graph: expected at most {_MAX_BYTES >> 20} MiB. {ADVICE}"
        )
    if not data.strip():
        raise InkstoneError(f"{path} is empty. {ADVICE}")
    return _from_json(path, _parse(data, str(path)))


def _parse(data: bytes | str, label: str) -> Json:
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return parse_json(text, parse_constant=lambda name: None)
    except UnicodeDecodeError as error:
        raise InkstoneError(f"{label} is neither a PNG nor JSON text. {ADVICE}") from error
    except ValueError as error:
        wrong = "is" if isinstance(error, TooDeep) else "is not JSON:"
        raise InkstoneError(f"{label} {wrong} {error}. {ADVICE}") from error


def _from_png(path: Path) -> GraphFile:
    chunks = read_text_chunks(path)
    parsed = {
        key: _parse(chunks[key], f"The `{key}` chunk of {path}")
        for key in ("prompt", "workflow", "inkstone")
        if key in chunks
    }
    prompt, workflow, call = (parsed.get(key) for key in ("prompt", "workflow", "inkstone"))
    file = GraphFile(
        path,
        api=prompt if isinstance(prompt, dict) else None,
        ui=workflow if is_ui_graph(workflow) else None,
        call=call if isinstance(call, dict) else None,
    )
    if file.api is None and file.ui is None:
        raise InkstoneError(file.absence())
    return file


def _from_json(path: Path, data: Json) -> GraphFile:
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


def interfaces(nodes: NodeClasses) -> dict[str, Interface]:
    """The interfaces of classes that run here."""
    return {name: interface_of(node) for name, node in nodes.items()}


def runnable(file: GraphFile, nodes: NodeClasses) -> Graph:
    """The Graph of a file whose classes all run here. Raises InkstoneError."""
    classes = interfaces(nodes) if file.api is None else {}  # an API graph needs none
    try:
        return parse_graph(file.as_api(classes))
    except UnknownClasses as error:
        raise InkstoneError(
            f"{error} These run in ComfyUI only; what runs here: Inkstone's nodes and the basic "
            "core nodes."
        ) from error
