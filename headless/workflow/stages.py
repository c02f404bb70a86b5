"""The stage of each node of a graph: models, pictures, prompt, draw, result.

A sampler is a node that takes a conditioning and gives a latent or a picture. What comes out of the
last one is the result; loaders are what gives models and takes nothing else. Pictures have a stage
of their own where an earlier sampler draws them, or where they are many; else they stand with the
prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..graph.api_graph import Graph, Node
from ..graph.input_values import socket_type
from ..node_types import NodeSchema

MODELS, PICTURES, PROMPT, DRAW, RESULT = range(5)
TITLES = ("Models", "Pictures", "Prompt and pictures", "Draw", "Result")
ALONE = "Prompt"  # the title of the third where the second is there
MANY = 3  # pictures that get a group of their own
COLORS = ("#6ea8d6", "#8fbcbb", "#8fbf7f", "#c58fd6", "#d6b25e")  # of frames and their titles
GREEN, RED = ("#232", "#353"), ("#322", "#533")  # the page's colours of positive and negative
CONDITIONING, LATENT, SIGMAS = "CONDITIONING", "LATENT", "SIGMAS"
SEEN = {"IMAGE", "MASK"}
DATA = SEEN | {CONDITIONING, LATENT, SIGMAS, "NOISE", "SAMPLER", "GUIDER", "*"}
DATA |= {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}  # that are no models

Schemas = Mapping[str, NodeSchema]  # by class
Edges = Mapping[str, set[str]]  # node -> nodes


def parents_of(graph: Graph) -> dict[str, set[str]]:
    """The nodes that each node has links from."""
    return {key: {link.node for link in node.links().values()} for key, node in graph.items()}


def children_of(parents: Edges) -> dict[str, set[str]]:
    """The nodes that each node has links to."""
    children: dict[str, set[str]] = {key: set() for key in parents}
    for key, above in parents.items():
        for parent in above & children.keys():
            children[parent].add(key)
    return children


def stages(graph: Graph, schemas: Schemas, depths: Mapping[str, int]) -> dict[str, int]:
    """The stage of each node."""
    parents = parents_of(graph)
    children = children_of(parents)
    samplers = {key for key in graph if _is_sampler(graph[key], graph, schemas)}
    before = _reached(samplers, parents)
    early = samplers & before
    result = _reached(samplers - early, children)
    source = early | _reached(early, parents)
    source |= {child for key in early for child in children[key]} - samplers
    loaded = [
        key for key in graph if not parents[key] and _first_output(graph[key], schemas) in SEEN
    ]
    if not early and len(loaded) >= MANY:
        source = set(loaded)
    models: set[str] = set()
    answer = {}
    for key in sorted(graph, key=lambda key: depths[key]):
        if parents[key] <= models and _gives_model(graph[key], schemas):
            models.add(key)
            answer[key] = MODELS
        elif key in samplers - early or _first_output(graph[key], schemas) == SIGMAS:
            answer[key] = DRAW
        elif key in result:
            answer[key] = RESULT
        else:
            shown = parents[key] <= source and (parents[key] or early)
            picture = not children[key] or _first_output(graph[key], schemas) in SEEN
            source |= {key} if source and shown and picture else set()
            answer[key] = PICTURES if key in source else PROMPT
    return answer


def prompt_colors(graph: Graph, schemas: Schemas) -> dict[str, tuple[str, str]]:
    """Colour and background of prompt nodes: green, and red for one that is only a negative."""
    names: dict[str, set[str]] = {}
    for node in graph.values():
        for name, link in node.links().items():
            origin = graph.get(link.node)
            outputs = schemas[origin.class_type].outputs if origin is not None else None
            if outputs and socket_type(outputs[link.slot]) == CONDITIONING:
                names.setdefault(link.node, set()).add(name)
    answer = {}
    for key, taken in names.items():
        inputs = schemas[graph[key].class_type].inputs or []
        if any(getattr(item, "multiline", False) for item in inputs):
            answer[key] = RED if taken == {"negative"} else GREEN
    return answer


def _is_sampler(node: Node, graph: Graph, schemas: Schemas) -> bool:
    outputs = [socket_type(item) for item in schemas[node.class_type].outputs or []]
    kinds = {socket_type(i) for i in schemas[node.class_type].inputs or [] if i.id in node.links()}
    return CONDITIONING in kinds and bool({LATENT, "IMAGE"} & {*outputs})


def _first_output(node: Node, schemas: Schemas) -> str:
    outputs = schemas[node.class_type].outputs or []
    return socket_type(outputs[0]) if outputs else ""


def _gives_model(node: Node, schemas: Schemas) -> bool:
    kind = _first_output(node, schemas)
    return bool(kind) and not DATA & set(kind.split(","))


def _reached(starts: Iterable[str], edges: Edges) -> set[str]:
    """All nodes that can be reached from these by at least one edge."""
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        new = (edges[waiting.pop()] & edges.keys()) - reached
        reached |= new
        waiting += new
    return reached
