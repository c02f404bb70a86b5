"""Graphs that clients send: an API or UI graph with its pictures, checked before it waits.

Pictures get names of their own in the server's input folder, and the graph is kept in API form with
these names. Nodes that write models or read folders of this machine do not run here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from ....errors import InkstoneError
from ....host.headless import using
from ....nodes.canvas import CUSTOM, EmptyLatent, check_unused, size_given
from ....nodes.quantize import Quantize
from ....nodes.train import TrainLora
from ...core_nodes.load_save import WHAT_TO_DO
from ...core_nodes.registry import node_classes
from ...graph.api_graph import Graph, Node, to_api
from ...graph.input_values import GraphError
from ...graph.validation import validate
from ...node_types import Json, NodeClasses
from ...queue.worker import Places
from ...workflow.load import read_graph_file
from ...workflow.model_files import require_models
from ...workflow.run import graph_of
from .orders import in_request, without_folders
from .pictures import picture_bytes, save_picture
from .refusal import Refusal
from .settings import Limits

GRAPH = "graph.json"
REFUSED = (Quantize.ID, TrainLora.ID)
_MOST_PICTURES, _MOST_NODES = 16, 500
_SEND_IT = 'Send it: "pictures": {NAME: BASE64}'
_COUNTS = ("batch_size", "batch", "amount")


def offered() -> NodeClasses:
    """The nodes of graphs from clients."""
    return {name: node for name, node in node_classes().items() if name not in REFUSED}


def take_graph(
    data: Mapping[str, Json], name: str, folder: Path, places: Places, limits: Limits
) -> None:
    """Checks a graph and keeps it in the order's folder. Raises Refusal."""
    for key in data:
        if key not in ("graph", "set", "pictures"):
            raise Refusal(
                f"Unknown parameter: '{str(key)[:60]}'. Expected "
                '{"graph": GRAPH, "set": {"NODE.INPUT": VALUE}, "pictures": {NAME: BASE64}}.',
                param=str(key)[:60],
            )
    graph, settings, pictures = data.get("graph"), data.get("set") or {}, data.get("pictures") or {}
    for key, value in (("graph", graph), ("set", settings), ("pictures", pictures)):
        if not isinstance(value, dict):
            raise Refusal(f"{key}: expected an object.", param=key)
    if len(pictures) > _MOST_PICTURES:
        raise Refusal(
            f"{len(pictures)} pictures: expected at most {_MOST_PICTURES}.", param="pictures"
        )
    names = _keep_pictures(pictures, name, folder, places.input, limits)
    path = folder / GRAPH
    path.write_text(json.dumps(graph), encoding="utf-8", errors="backslashreplace")
    values = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items()]
    nodes = offered()
    try:
        with using(places.host(folder, threading.Event())):
            read = graph_of(read_graph_file(path), values, nodes)
            ready = validate(_renamed(read, names), nodes)
            require_models(ready, None)
        check_graph(ready, limits)
    except Refusal:
        raise
    except InkstoneError as error:
        message = without_folders(str(error), places.input)  # before the folder that it is in
        message = in_request(message, folder, places.models)
        message = message.replace(WHAT_TO_DO, _SEND_IT)
        raise Refusal(message, param=_place_of(error, dict(zip(values, settings)))) from None
    _check_named(pictures, json.dumps([graph, settings]))
    path.write_text(json.dumps(to_api(ready)), encoding="utf-8", errors="backslashreplace")


def _check_named(pictures: Mapping[str, Json], text: str) -> None:
    """Raises Refusal for a picture whose name is nowhere in the graph and its settings."""
    for name in pictures:
        if json.dumps(name) not in text:
            raise Refusal(
                f"pictures: no node of the graph names {name[:60]!r}. Name it in a Load Image "
                "node, or leave it out.",
                param="pictures",
            )


def _place_of(error: InkstoneError, settings: Mapping[str, str]) -> str:
    """NODE or NODE.INPUT of the first fault of a graph, as the client wrote it. settings:
    "NODE.INPUT=VALUE" -> NODE.INPUT.
    """
    if not isinstance(error, GraphError):
        named = (k for text, k in settings.items() if str(error).startswith(f"--set {text}: "))
        return next(named, "graph")
    first = error.problems[0]
    return first.node if first.input is None else f"{first.node}.{first.input}"


def _keep_pictures(
    pictures: Mapping[str, Json], name: str, folder: Path, places: Path, limits: Limits
) -> dict[str, str]:
    """The pictures in the input folder: the client's name -> the name there."""
    names = {}
    for k, (given, value) in enumerate(pictures.items()):
        stem = f"{name}_{k + 1}"
        data = picture_bytes(value, "pictures")
        names[given] = save_picture(data, folder, stem, limits, given)
        shutil.move(folder / names[given], places / names[given])
    return names


def forget_pictures(name: str, places: Path) -> None:
    """Removes the pictures of a graph that has run."""
    for path in places.glob(f"{name}_*"):
        path.unlink(missing_ok=True)


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The graph with the pictures' names of the input folder."""

    def value_of(value: Json) -> Json:
        return names.get(value, value) if isinstance(value, str) else value

    return {
        key: dataclasses.replace(node, inputs={k: value_of(v) for k, v in node.inputs.items()})
        for key, node in graph.items()
    }


def check_graph(graph: Graph, limits: Limits) -> None:
    """Raises Refusal for constants of a graph that are above the limits. What is computed while it
    runs is bounded by memory and the deadline only.
    """
    if len(graph) > _MOST_NODES:
        raise Refusal(f"{len(graph)} nodes: expected at most {_MOST_NODES}.", param="graph")
    for node in graph.values():
        for name, words, value, most in _stated(node, limits):
            if value > most:
                raise Refusal(
                    f"Node {node.id} ({node.title}): {words} is {value}; this server does at most "
                    f"{most}.",
                    param=f"{node.id}.{name}",
                )


def _stated(node: Node, limits: Limits) -> Iterator[tuple[str, str, float, float]]:
    """(its input, what it is, the value, the most that is allowed) of a node's constants that have
    a limit. Raises Refusal where a canvas has two sizes.
    """
    number = {k: v for k, v in node.inputs.items() if isinstance(v, (int, float))}
    widgets = node.inputs.get("width"), node.inputs.get("height")
    named = node.class_type == EmptyLatent.ID and node.inputs.get("size") != CUSTOM
    sides = (size_given(node.inputs) or ()) if named else widgets  # (): its model decides
    if named and sides and all(isinstance(side, int) for side in widgets):
        try:
            check_unused(str(node.inputs["size"]), widgets, sides)
        except InkstoneError as error:
            raise Refusal(
                f"Node {node.id} ({node.title}): {error}", param=f"{node.id}.width"
            ) from None
    pixels = math.prod(side for side in sides if isinstance(side, (int, float)))
    yield "size" if named else "width", "width x height", pixels, limits.pixels
    yield "megapixels", "megapixels", number.get("megapixels", 0), limits.pixels / 1024**2
    yield "steps", "steps", number.get("steps", 1), limits.steps
    for name in _COUNTS:
        yield name, name, number.get(name, 1), limits.pictures
