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
from typing import Any

from ...errors import InkstoneError
from ...files.hashes import file_hash, model_hash
from ...host import model_folders
from ...nodes import NODES
from ...nodes.load import EMBEDDED
from ...nodes.sockets import ModelInput
from ..graph.api_graph import Graph

# class -> its inputs that name files; ours say it themselves, the core's are listed here
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
class Told:
    """What a workflow says of a file. hash: "sha256:..." in hexadecimal."""

    url: str = ""
    directory: str = ""
    hash: str = ""
    size: int | None = None


@dataclass(frozen=True)
class WantedModel:
    """A file that an input of a node names. path: None where it is not here."""

    node: str
    class_type: str
    input: str
    name: str
    kind: str
    role: str
    told: Told = Told()
    path: Path | None = None

    def absent(self) -> str:
        """Where to put it and where to get it."""
        said = f"{self.name}: not in models/{self.told.directory or self.kind}"
        said += f" (node {self.node}, input {self.input})"
        size = f", {self.told.size / 1e9:.2f} GB" if self.told.size else ""
        return said + (f"; get it from {self.told.url}{size}" if self.told.url else "")


def wanted_models(graph: Graph, ui: Mapping[str, Any] | None) -> list[WantedModel]:
    """Every file that the loaders of a graph name; the embedded model is no file."""
    told, found = sources(ui), []
    for node in graph.values():
        for name, (kind, role) in LOADERS.get(node.class_type, {}).items():
            value = node.inputs.get(name)
            if not isinstance(value, str) or value in ("", EMBEDDED):
                continue
            try:
                path = model_folders.model_path(kind, value)
            except InkstoneError:
                path = None
            known = told.get(value) or told.get(_base(value)) or Told()
            found.append(
                WantedModel(node.id, node.class_type, name, value, kind, role, known, path)
            )
    return found


def require_models(graph: Graph, ui: Mapping[str, Any] | None) -> None:
    """Raises InkstoneError with all missing files at once, before anything runs."""
    absent = [model for model in wanted_models(graph, ui) if model.path is None]
    if absent:
        lines = "".join(f"\n  {model.absent()}" for model in absent)
        word = "1 model file is" if len(absent) == 1 else f"{len(absent)} model files are"
        raise InkstoneError(f"{word} not here:{lines}\nPut them there, or give --models DIR.")


def sources(ui: Mapping[str, Any] | None) -> dict[str, Told]:
    """File name -> what the workflow says of it; the most exact source wins."""
    made: dict[str, Told] = {}
    for node in all_nodes(ui or {}):
        for name, told in _from_properties(node):
            made[name] = _joined(made.get(name), told)
        for url in _urls(node):
            name = _base(url.split("?")[0])
            if "." in name:
                made[name] = _joined(made.get(name), Told(url=url))
    ours = _mapping(_mapping(_mapping((ui or {}).get("extra")).get("inkstone")).get("models"))
    for name, entry in ours.items():
        made[name] = _joined(_told(_mapping(entry)), made.get(name, Told()))
    return made


def all_nodes(ui: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of the root and of every subgraph definition, as in the file."""
    yield from (node for node in ui.get("nodes") or () if isinstance(node, dict))
    for entry in _mapping(ui.get("definitions")).get("subgraphs") or ():
        if isinstance(entry, dict):
            yield from all_nodes(entry)


def _from_properties(node: Mapping[str, Any]) -> Iterator[tuple[str, Told]]:
    models = _mapping(node.get("properties")).get("models")
    for entry in models if isinstance(models, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"], _told(entry)


def _told(entry: Mapping[str, Any]) -> Told:
    digest = str(entry.get("hash") or "").lower()
    kind = str(entry.get("hash_type") or "sha256").lower().replace("-", "")
    if digest and ":" not in digest:
        digest = f"sha256:{digest}" if kind == "sha256" else ""
    size = entry.get("size")
    return Told(
        str(entry.get("url") or ""),
        str(entry.get("directory") or ""),
        digest,
        size if isinstance(size, int) and not isinstance(size, bool) else None,
    )


def _joined(first: Told | None, second: Told) -> Told:
    if first is None:
        return second
    kept = {
        f.name: getattr(first, f.name) or getattr(second, f.name) for f in dataclasses.fields(Told)
    }
    return Told(**kept)


def _urls(node: Mapping[str, Any]) -> Iterator[str]:
    if node.get("type") in ("Note", "MarkdownNote"):
        values = node.get("widgets_values")
        for value in values if isinstance(values, list) else ():
            yield from _URL.findall(value) if isinstance(value, str) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def measured(path: Path) -> dict[str, Any]:
    """Hash and size of a model, as `extra.inkstone.models` keeps them."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = file_hash(path) if path.is_file() else model_hash(path)
    return {"hash": digest, "size": sum(file.stat().st_size for file in files)}


def differs(model: WantedModel) -> str | None:
    """Why a file that is here is not the one that the workflow means, or None."""
    told, path = model.told, model.path
    if path is None or not path.is_file():
        return None
    size = path.stat().st_size
    if told.size and told.size != size:
        return f"{size} bytes, the workflow means {told.size}"
    if not told.hash:
        return None
    is_head = told.hash.startswith("sha256-head:")
    found = (file_hash(path),) if not is_head else ()
    found += (model_hash(path),)
    if told.hash not in found:
        return f"hash {found[0][:23]}..., the workflow means {told.hash[:23]}..."
    return None
