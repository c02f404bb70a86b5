"""`inkstone check`: whether a graph will run here, what is missing, what memory it takes.

Nothing is computed and no weight is read beyond headers, except to compare hashes that the workflow
names. `--pin` writes a copy of the workflow that names each model file with hash and size.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CallError, InkstoneError
from ...host import model_folders
from ...host.headless import HeadlessHost, using
from ..arg_types import command, device
from ..graph.api_graph import Graph, parse_graph, validate
from ..graph.input_values import GraphError
from ..workflow.load import GraphFile, interfaces, read_graph_file
from ..workflow.memory_estimate import drawings
from ..workflow.model_files import WantedModel, all_nodes, differs, measured, wanted_models
from ..workflow.to_api import UnknownClasses


@dataclass
class Verdict:
    """What was found: faults stop a run, notes do not."""

    faults: list[str] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def runs(self) -> bool:
        return not self.faults and not self.missing


def add_check(commands) -> None:
    """`inkstone check`."""
    p = command(
        commands,
        "check",
        "say whether a graph will run here, and what is missing",
        "inkstone check shared.json --models models --memory\n"
        "  inkstone check mine.json --pin -o mine_pinned.json",
    )
    p.add_argument("graph", type=Path, metavar="GRAPH", help="UI or API JSON, or a PNG with one")
    for name, text in (
        ("models", "models folder laid out as ComfyUI's"),
        ("input", "folder of input pictures"),
    ):
        p.add_argument(
            f"--{name}",
            type=Path,
            default=Path(name),
            metavar="DIR",
            help=f"{text} (default {name})",
        )
    p.add_argument("--memory", action="store_true", help="the memory plan of each canvas")
    p.add_argument("--device", type=device, metavar="D", help="plan for cpu, cuda, cuda:1")
    p.add_argument(
        "--pin", action="store_true", help="write a copy that names each model by hash and size"
    )
    p.add_argument("-o", "--out", type=Path, metavar="OUT.json", help="where --pin writes")
    p.add_argument("--json", action="store_true", help="print facts as JSON")


def run_check(args: argparse.Namespace) -> int:
    """The handler: 0 the graph will run here, 1 it will not, 2 the call was wrong."""
    if not args.graph.is_file():
        raise CallError(f"{args.graph}: no such graph file. Check the path.")
    if args.pin != (args.out is not None):
        raise CallError("--pin and -o OUT.json go together: the copy is written there.")
    host = HeadlessHost(models=(args.models,), input=args.input, device=args.device)
    file = read_graph_file(args.graph)
    with using(host):
        verdict, graph = check_file(file)
        if args.memory and graph is not None and not verdict.missing:
            verdict.memory = _memory(graph, verdict)
        if args.pin:
            _pin(file, graph, args.out)
    if args.json:
        print(json.dumps({"runs": verdict.runs(), **vars(verdict)}, ensure_ascii=False, indent=1))
    else:
        sys.stdout.write(_words(args.graph, verdict))
    return 0 if verdict.runs() else 1


def check_file(file: GraphFile) -> tuple[Verdict, Graph | None]:
    """The verdict on a file, and its graph where it has one that can be read."""
    from ..core_nodes.registry import node_classes

    nodes, verdict = node_classes(), Verdict()
    try:
        graph = parse_graph(file.as_api(interfaces(nodes), ran=False))
    except UnknownClasses as error:
        verdict.faults.append(f"{error} These do not run without ComfyUI.")
        _report_models(_named_anyway(file), verdict)
        return verdict, None
    models = wanted_models(graph, file.ui)
    _report_models(models, verdict)
    absent = {(model.node, model.input) for model in models if model.path is None}
    try:
        validate(graph, nodes)
    except GraphError as error:
        verdict.faults += [str(p) for p in error.problems if (p.node, p.input) not in absent]
    except InkstoneError as error:
        verdict.faults.append(str(error))
    return verdict, graph


def _report_models(models: list[WantedModel], verdict: Verdict) -> None:
    seen = set()
    for model in models:
        if (model.kind, model.name) in seen:
            continue
        seen.add((model.kind, model.name))
        entry = {"name": model.name, "kind": model.kind, "node": model.node}
        if model.path is None:
            verdict.missing.append(
                entry
                | {
                    "url": model.told.url,
                    "directory": model.told.directory or model.kind,
                    "size": model.told.size,
                    "said": model.absent(),
                }
            )
            continue
        said = _wrong_kind(model)
        if said:
            verdict.faults.append(f"{model.name} (node {model.node}): {said}")
        other = differs(model)
        if other:
            verdict.faults.append(f"{model.name} (node {model.node}) is another file: {other}.")
        verdict.models.append(entry | {"path": str(model.path)})


def _wrong_kind(model: WantedModel) -> str | None:
    """Why the file cannot serve where the graph uses it, or None."""
    from ...loaders.arch.identify import identify, require
    from ...loaders.formats.hf_folder import part_of

    parts = {"diffusion_model": "transformer", "text_encoder": "text_encoder", "vae": "vae"}
    if not model.role or model.path is None:
        return None
    try:
        path = part_of(model.path, parts[model.role]) if model.role in parts else model.path
        facts = identify(path, want=model.role)
        if model.role != "controlnet":
            require(facts, model.role)
    except InkstoneError as error:
        return str(error)
    return None


def _named_anyway(file: GraphFile) -> list[WantedModel]:
    """The files that `properties.models` names, of a graph that cannot be read as a whole."""
    from ..workflow.model_files import sources

    kinds = set(model_folders.KINDS)
    found = []
    for name, told in sources(file.ui).items():
        if told.directory not in kinds:
            continue
        try:
            path = model_folders.model_path(told.directory, name)
        except InkstoneError:
            path = None
        found.append(WantedModel("?", "", "", name, told.directory, "", told, path))
    return found


# ---- memory --------------------------------------------------------------------------------------


def _memory(graph: Graph, verdict: Verdict) -> list[str]:
    """A plan of each drawing; what cannot be planned is said."""
    try:
        from ...pipeline.memory_plan import PlanRequest, plan

        bundle = _bundle(graph)
        if bundle is None:
            return ["no plan: the graph has no diffusion model of ours"]
        found = drawings(graph, bundle.model) or [("the model's own size", PlanRequest())]
        return [f"{said}: {plan(bundle, wanted).sentence()}" for said, wanted in found]
    except InkstoneError as error:
        verdict.faults.append(str(error))
        return []


def _bundle(graph: Graph) -> Any:
    """The models of the graph's first loaders, headers only."""
    from ...host.memory import torch_device
    from ...host.model_folders import model_path
    from ...loaders.models import load as bundle
    from ...loaders.models.bundle import Bundle
    from ...loaders.models.weight_file import LoadOptions
    from ...nodes.load import EMBEDDED, LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE

    want = LoadOptions(device=torch_device(), wait=True)
    by_class = {node.class_type: node for node in reversed(graph.values())}
    whole = by_class.get(LoadAll.ID)
    if whole is not None:
        folder = whole.inputs.get("folder")
        return bundle.load_all(
            None if folder == EMBEDDED else model_path("diffusers", folder), want
        )

    def path(loader: Any) -> Path | None:
        ((name, (folder, _)),) = loader.FILES.items()
        value = by_class[loader.ID].inputs.get(name) if loader.ID in by_class else None
        if value == EMBEDDED:
            return bundle.EMBEDDED_FOLDER
        return model_path(folder, value) if isinstance(value, str) else None

    model = path(LoadDiffusionModel)
    text = path(LoadTextEncoder)
    vae = path(LoadVAE)
    if model is None:
        return None
    return Bundle(
        bundle.load_diffusion_model(model, want),
        bundle.load_text_encoder(text, want) if text else None,
        bundle.load_vae(vae, want) if vae else None,
    )


# ---- --pin ---------------------------------------------------------------------------------------


def _pin(file: GraphFile, graph: Graph | None, out: Path) -> None:
    """Writes the UI graph with hash and size of every model file that is here."""
    from ...files.atomic import write_text

    if file.ui is None or graph is None:
        raise InkstoneError(
            f"{file.path}: only a workflow as the page saves it (UI JSON) that can be read here "
            "is pinned."
        )
    made = copy.deepcopy(file.ui)
    models = {m.name: m for m in wanted_models(graph, file.ui) if m.path is not None}
    pinned = {
        name: {"directory": m.told.directory or m.kind, **measured(m.path)}
        | ({"url": m.told.url} if m.told.url else {})
        for name, m in models.items()
    }
    extra = made.get("extra") if isinstance(made.get("extra"), dict) else {}
    made["extra"] = extra | {"inkstone": {"models": pinned}}
    for node in all_nodes(made):
        values = node.get("widgets_values")
        named = [v for v in values if v in pinned] if isinstance(values, list) else []
        if named and node.get("type") in {m.class_type for m in models.values()}:
            properties = node.setdefault("properties", {})
            old = {e.get("name"): e for e in properties.get("models") or () if isinstance(e, dict)}
            for name in named:
                old[name] = {"name": name} | (old.get(name) or {}) | pinned[name]
            properties["models"] = list(old.values())
    write_text(out, json.dumps(made, ensure_ascii=False, indent=2) + "\n")


def _words(path: Path, verdict: Verdict) -> str:
    lines = [f"{path}: {'will run here' if verdict.runs() else 'will not run here'}"]
    lines += [f"  fault: {text}" for text in verdict.faults]
    lines += [f"  missing: {entry['said']}" for entry in verdict.missing]
    lines += [f"  model: {entry['name']} -> {entry['path']}" for entry in verdict.models]
    lines += [f"  note: {text}" for text in verdict.notes]
    lines += [f"  memory at {text}" for text in verdict.memory]
    return "\n".join(lines) + "\n"
