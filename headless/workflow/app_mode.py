"""What ComfyUI's app mode shows of a graph: its prompt, pictures, size and seed, and its results.
Of a source that the graph draws itself the prompt is shown only where the result shows it too: it
is enlarged.

The page keeps it as `extra.linearData`: [node, widget] for each input, node ids for the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph.api_graph import Graph, Link, Node
from ..node_types import Json, SchemaInput
from .stages import PICTURES, Schemas, stages

PROMPT, SIZE, SEED = ("prompt", "text"), ("size",), ("seed", "noise_seed")
ENLARGES = "InkstoneUpscalePicture"
WRITES = {"InkstoneCameraAngle"}  # nodes whose widgets, all of them, stand for a prompt


def app_data(graph: Graph, schemas: Schemas, depths: Mapping[str, int]) -> dict[str, Json]:
    """The inputs in the order prompt, pictures, size, seed, and the nodes whose pictures count."""
    stage = stages(graph, schemas, depths)
    results = {node.class_type for key, node in graph.items() if stage[key] != PICTURES}
    shown = {0, 1} if ENLARGES in results else {1}  # of the source
    chosen: list[list[list[int | str]]] = [[], [], [], []]
    for key in sorted(graph, key=lambda key: (stage[key] == PICTURES, int(key))):
        for item in schemas[graph[key].class_type].inputs or []:
            rank = 0 if graph[key].class_type in WRITES else _rank(item)
            taken = isinstance(graph[key].inputs.get(item.id), Link)
            if rank is not None and not taken and (rank in shown or stage[key] != PICTURES):
                chosen[rank].append([int(key), item.id])
    return {
        "inputs": [entry for entries in chosen for entry in entries],
        "outputs": [int(key) for key, node in graph.items() if _is_result(node, schemas)],
    }


def _rank(item: SchemaInput) -> int | None:
    if item.id in PROMPT and getattr(item, "multiline", False):
        return 0
    if getattr(item, "upload", None) is not None:
        return 1
    return 2 if item.id in SIZE else 3 if item.id in SEED else None


def _is_result(node: Node, schemas: Schemas) -> bool:
    """True for a node that saves."""
    return schemas[node.class_type].is_output_node and "filename_prefix" in node.inputs
