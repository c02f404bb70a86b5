"""Checks whether a graph will run here: unknown nodes, missing or wrong model files, wrong values.

Nothing is computed, and only the headers of weight files are read, except to compare a hash that
the workflow names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import InkstoneError
from ...host import model_folders
from ...loaders.arch.identify import identify, require
from ...loaders.formats.hf_folder import part_of
from ...nodes import NODES
from ..core_nodes.registry import node_classes
from ..graph.api_graph import Graph, Node, parse_graph
from ..graph.input_values import GraphError, is_widget, schema_of
from ..graph.validation import validate
from ..node_types import Json
from .load import GraphFile, interfaces
from .model_files import ModelRef, difference, local_path, model_refs, sources
from .to_api import UnknownClasses

# role of a file -> the folder that holds it inside a model folder
_PARTS = {"diffusion_model": "transformer", "text_encoder": "text_encoder", "vae": "vae"}


@dataclass
class Verdict:
    """The result of a check: faults and missing files prevent a run, notes do not."""

    faults: list[str] = field(default_factory=list)
    missing: list[dict[str, Json]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: list[dict[str, Json]] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def runs(self) -> bool:
        """True if the graph will run here."""
        return not self.faults and not self.missing


def check_file(file: GraphFile) -> tuple[Verdict, Graph | None]:
    """The verdict on a file, and its graph if it can be read."""
    nodes, verdict = node_classes(), Verdict()
    try:
        graph = parse_graph(file.as_api(interfaces(nodes), ran=False))
    except UnknownClasses as error:
        verdict.faults.append(f"{error} These do not run without ComfyUI.")
        _report_models(_refs_of_properties(file), verdict)
        return verdict, None
    refs = model_refs(graph, file.ui)
    _report_models(refs, verdict)
    missing = {(ref.node, ref.input) for ref in refs if ref.path is None}
    try:
        validate(graph, nodes)
    except GraphError as error:
        verdict.faults += [str(p) for p in error.problems if (p.node, p.input) not in missing]
    except InkstoneError as error:
        verdict.faults.append(str(error))
    return verdict, graph


def check_graph(graph: Graph, ui: dict[str, Json]) -> Verdict:
    """The verdict on a graph inside ComfyUI, which knows all its classes and checks their inputs
    itself: model files, and the sockets of our nodes. No file is hashed: the page waits.
    """
    verdict, ours = Verdict(), {node.ID: node for node in NODES}
    _report_models(model_refs(graph, ui), verdict, hashes=False)
    for node in graph.values():
        inputs = schema_of(ours[node.class_type]).inputs if node.class_type in ours else None
        verdict.faults += [
            f"{node.title} (node {node.id}): nothing is connected to {item.id}."
            for item in inputs or ()
            if not item.optional and not is_widget(item) and not _is_given(node, item.id)
        ]
    return verdict


def _is_given(node: Node, name: str) -> bool:
    """True if an input has a value; a growing one has values with its name before a dot."""
    return any(key == name or key.startswith(f"{name}.") for key in node.inputs)


def _report_models(refs: list[ModelRef], verdict: Verdict, hashes: bool = True) -> None:
    """Add each file once, as missing or as a model, with its faults."""
    first: dict[tuple[str, str], ModelRef] = {}
    for ref in refs:
        first.setdefault((ref.kind, ref.name), ref)
    for ref in first.values():
        _report_model(ref, verdict, hashes)


def _report_model(ref: ModelRef, verdict: Verdict, hashes: bool) -> None:
    entry = {"name": ref.name, "kind": ref.kind, "node": ref.node}
    if ref.path is None:
        source = ref.source
        verdict.missing.append(
            entry
            | {
                "url": source.url,
                "directory": source.directory or ref.kind,
                "size": source.size,
                "said": ref.absence(),
            }
        )
        return
    wrong, other = _wrong_kind(ref), difference(ref, hashes)
    if wrong:
        verdict.faults.append(f"{ref.name} (node {ref.node}): {wrong}")
    if other:
        verdict.faults.append(f"{ref.name} (node {ref.node}) is another file: {other}.")
    verdict.models.append(entry | {"path": str(ref.path)})


def _wrong_kind(ref: ModelRef) -> str | None:
    """The reason why the file cannot be used where the graph names it, or None."""
    if not ref.role or ref.path is None:
        return None
    try:
        path = part_of(ref.path, _PARTS[ref.role]) if ref.role in _PARTS else ref.path
        facts = identify(path, want=ref.role)
        if ref.role != "controlnet":
            require(facts, ref.role)
    except InkstoneError as error:
        return str(error)
    return None


def _refs_of_properties(file: GraphFile) -> list[ModelRef]:
    """The files that `properties.models` names, for a graph that cannot be read as a whole."""
    return [
        ModelRef(
            node="?",
            class_type="",
            input="",
            name=name,
            kind=source.directory,
            role="",
            source=source,
            path=local_path(source.directory, name),
        )
        for name, source in sources(file.ui).items()
        if source.directory in model_folders.KINDS
    ]
