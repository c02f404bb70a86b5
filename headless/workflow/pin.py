"""`inkstone check --pin`: a copy of a workflow that names each model file with hash and size."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

from ...errors import InkstoneError
from ...files.atomic import write_text
from ..graph.api_graph import Graph
from ..node_types import Json
from .load import GraphFile
from .model_files import ModelRef, all_nodes, hash_and_size, model_refs


def write_pinned(file: GraphFile, graph: Graph | None, out: Path) -> None:
    """Write the UI graph with hash and size of every model file that is here."""
    if file.ui is None or graph is None:
        raise InkstoneError(
            f"{file.path}: --pin needs a workflow as the page saves it (UI JSON), all of whose "
            "nodes are known here. Save it in ComfyUI, or leave --pin out."
        )
    ui = copy.deepcopy(file.ui)
    refs = {ref.name: ref for ref in model_refs(graph, file.ui) if ref.path is not None}
    pinned = {name: _entry(ref) for name, ref in refs.items()}
    classes = {ref.class_type for ref in refs.values()}
    extra = ui.get("extra")
    ui["extra"] = (extra if isinstance(extra, dict) else {}) | {"inkstone": {"models": pinned}}
    for node in all_nodes(ui):
        if node.get("type") in classes:
            _pin_node(node, pinned)
    write_text(out, json.dumps(ui, ensure_ascii=False, indent=2) + "\n")


def _entry(ref: ModelRef) -> dict[str, Json]:
    assert ref.path is not None
    entry = {"directory": ref.source.directory or ref.kind, **hash_and_size(ref.path)}
    return entry | ({"url": ref.source.url} if ref.source.url else {})


def _pin_node(node: dict[str, Json], pinned: Mapping[str, Json]) -> None:
    """Write the models that a node's widgets name into its properties, as the page does."""
    values = node.get("widgets_values")
    texts = [v for v in values if isinstance(v, str)] if isinstance(values, list) else []
    names = [text for text in texts if text in pinned]
    if not names:
        return
    properties = node.setdefault("properties", {})
    models = {e.get("name"): e for e in properties.get("models") or () if isinstance(e, dict)}
    for name in names:
        models[name] = {"name": name} | (models.get(name) or {}) | pinned[name]
    properties["models"] = list(models.values())
