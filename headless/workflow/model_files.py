"""The model files that a graph names: where each should be, what it should be, where to get it.

A workflow says where a model comes from in three ways: `properties.models` of a node (name, url,
directory, hash), our own `extra.inkstone.models` (hash and size too), and links in its notes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import InkstoneError
from ...files.hashes import file_hash, model_hash
from ...host import model_folders
from ...nodes import NODES
from ...nodes.load import EMBEDDED
from ...nodes.sockets import NO_FILE, ModelInput
from ..graph.api_graph import NOTE_CLASSES, Graph
from ..node_types import Json


class LoaderNode(Protocol):
    """A node class of ours that loads model files."""

    ID: str
    FILES: dict[str, ModelInput]


# class -> its inputs that name files: our classes declare them, core's are listed here
OURS: dict[str, Mapping[str, ModelInput]] = {
    node.ID: node.FILES for node in NODES if hasattr(node, "FILES")
}
LOADERS: dict[str, Mapping[str, ModelInput]] = OURS | {
    "UNETLoader": {"unet_name": ModelInput("diffusion_models", "diffusion_model")},
    "CLIPLoader": {"clip_name": ModelInput("text_encoders", "text_encoder")},
    "VAELoader": {"vae_name": ModelInput("vae", "vae")},
    "LoraLoaderModelOnly": {"lora_name": ModelInput("loras", "lora")},
    "LoraLoader": {"lora_name": ModelInput("loras", "lora")},
    "ControlNetLoader": {"control_net_name": ModelInput("controlnet", "controlnet")},
}
_URL = re.compile(r"https?://[^\s)\]>\"'`]+")


@dataclass(frozen=True)
class ModelSource:
    """The workflow's own facts about a file. hash: "sha256:..." in hexadecimal."""

    url: str = ""
    directory: str = ""
    hash: str = ""
    size: int | None = None


@dataclass(frozen=True)
class ModelRef:
    """A file that an input of a node names. path: None if it is not on this machine."""

    node: str
    class_type: str
    input: str
    name: str
    kind: str
    role: str
    source: ModelSource = ModelSource()
    path: Path | None = None

    def absence(self) -> str:
        """One line for a missing file: where to put it and where to get it."""
        place = "checkpoints or models/diffusers" if self.kind == "checkpoints" else self.kind
        line = f"{self.name}: not in models/{self.source.directory or place}"
        line += f" (node {self.node}, input {self.input})"
        size = f", {self.source.size / 1e9:.2f} GB" if self.source.size else ""
        return line + (f"; get it from {self.source.url}{size}" if self.source.url else "")


def model_refs(graph: Graph, ui: Mapping[str, Json] | None) -> list[ModelRef]:
    """Every file that the loaders of a graph name, except the embedded model (not a file)."""
    by_name, refs = sources(ui), []
    for node in graph.values():
        for name, (kind, role) in LOADERS.get(node.class_type, {}).items():
            value = node.inputs.get(name)
            if not isinstance(value, str) or value in ("", EMBEDDED, NO_FILE):
                continue
            source = by_name.get(value) or by_name.get(_base(value)) or ModelSource()
            refs.append(
                ModelRef(
                    node=node.id,
                    class_type=node.class_type,
                    input=name,
                    name=value,
                    kind=kind,
                    role=role,
                    source=source,
                    path=local_path(kind, value),
                )
            )
    return refs


def local_path(kind: str, name: str) -> Path | None:
    """The model's path, or None if it is not in the folders of its kind."""
    try:
        return model_folders.model_path(kind, name)
    except InkstoneError:
        return None


def require_models(graph: Graph, ui: Mapping[str, Json] | None) -> None:
    """Raises InkstoneError with all missing files at once, before anything runs."""
    missing = [ref for ref in model_refs(graph, ui) if ref.path is None]
    if missing:
        lines = "".join(f"\n  {ref.absence()}" for ref in missing)
        count = "1 model file is" if len(missing) == 1 else f"{len(missing)} model files are"
        raise InkstoneError(
            f"{count} not here:{lines}\nPut them there, or give --models DIR. A file elsewhere has "
            "to come from you: --set NODE.INPUT=PATH."
        )


def sources(ui: Mapping[str, Json] | None) -> dict[str, ModelSource]:
    """File name -> the workflow's facts about it; the most exact source takes precedence."""
    by_name: dict[str, ModelSource] = {}
    for node in all_nodes(ui or {}):
        for name, source in _from_properties(node):
            by_name[name] = _merged(by_name.get(name), source)
        for url in _urls(node):
            name = _base(url.split("?")[0])
            if "." in name:
                by_name[name] = _merged(by_name.get(name), ModelSource(url=url))
    pinned = _mapping(_mapping(_mapping((ui or {}).get("extra")).get("inkstone")).get("models"))
    for name, entry in pinned.items():
        by_name[name] = _merged(_source(_mapping(entry)), by_name.get(name, ModelSource()))
    return by_name


def all_nodes(ui: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """The nodes of the root and of every subgraph definition, as in the file."""
    yield from (node for node in ui.get("nodes") or () if isinstance(node, dict))
    for entry in _mapping(ui.get("definitions")).get("subgraphs") or ():
        if isinstance(entry, dict):
            yield from all_nodes(entry)


def _from_properties(node: Mapping[str, Json]) -> Iterator[tuple[str, ModelSource]]:
    models = _mapping(node.get("properties")).get("models")
    for entry in models if isinstance(models, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"], _source(entry)


def _source(entry: Mapping[str, Json]) -> ModelSource:
    digest = str(entry.get("hash") or "").lower()
    kind = str(entry.get("hash_type") or "sha256").lower().replace("-", "")
    if digest and ":" not in digest:
        digest = f"sha256:{digest}" if kind == "sha256" else ""
    size = entry.get("size")
    return ModelSource(
        str(entry.get("url") or ""),
        str(entry.get("directory") or ""),
        digest,
        size if isinstance(size, int) and not isinstance(size, bool) else None,
    )


def _merged(first: ModelSource | None, second: ModelSource) -> ModelSource:
    """The facts of the first, filled up with those of the second."""
    if first is None:
        return second
    names = [field.name for field in dataclasses.fields(ModelSource)]
    return ModelSource(**{name: getattr(first, name) or getattr(second, name) for name in names})


def _urls(node: Mapping[str, Json]) -> Iterator[str]:
    if node.get("type") in NOTE_CLASSES:
        values = node.get("widgets_values")
        for value in values if isinstance(values, list) else ():
            yield from _URL.findall(value) if isinstance(value, str) else ()


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def hash_and_size(path: Path) -> dict[str, str | int]:
    """Hash and size of a model, as `extra.inkstone.models` keeps them."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = file_hash(path) if path.is_file() else model_hash(path)
    return {"hash": digest, "size": sum(file.stat().st_size for file in files)}


def difference(ref: ModelRef, hashes: bool = True) -> str | None:
    """The reason why the local file is not the one that the workflow means, or None. Without
    `hashes` only sizes are compared.
    """
    source, path = ref.source, ref.path
    if path is None or not path.is_file():
        return None
    size = path.stat().st_size
    if source.size and source.size != size:
        return f"{size} bytes, the workflow means {source.size}"
    if not source.hash or not hashes:
        return None
    found = [model_hash(path)]
    if not source.hash.startswith("sha256-head:"):  # the head's hash is much faster to compute
        found.insert(0, file_hash(path))
    if source.hash not in found:
        return f"hash {found[0][:23]}..., the workflow means {source.hash[:23]}..."
    return None
