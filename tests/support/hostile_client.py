"""What a remote client sends to find its way out: values for widgets, and a graph for every node.

Values come in pairs that differ only in whether a file of that name exists: a server that answers
them differently says what is on its disk.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from inkstone.loaders.models.load import EMBEDDED_FOLDER

SECRET = "the-owner's-own-words"
Graph = dict[str, dict[str, Any]]

# socket type -> the node and slot that give one
SOURCES = {
    "INKSTONE_MODEL": ("InkstoneLoadAll", 0),
    "INKSTONE_TEXT_ENCODER": ("InkstoneLoadAll", 1),
    "INKSTONE_VAE": ("InkstoneLoadAll", 2),
    "INKSTONE_CONTROL": ("InkstoneLoadControlNet", 0),
    "INKSTONE_LORA": ("InkstoneLoadLora", 0),
    "INKSTONE_STITCH": ("InkstoneInpaint", 1),
    "CONDITIONING": ("InkstoneEncodePrompt", 0),
    "LATENT": ("InkstoneEmptyLatent", 0),
    "SIGMAS": ("InkstoneSchedule", 0),
    "IMAGE": ("EmptyImage", 0),
    "MASK": ("SolidMask", 0),
}
SMALL = {"width": 64, "height": 64, "batch_size": 1, "steps": 1, "resolution": 64}
FREE = {"prompt", "negative"}  # texts that name nothing, whatever they say


def prepare(base: Path, outside: Path) -> None:
    """Files that the lists offer, files beside them, and files far away."""
    models = base / "models"
    for kind in ("vae", "diffusion_models", "text_encoders", "loras", "controlnet", "annotators"):
        (models / kind).mkdir(parents=True, exist_ok=True)
    part = EMBEDDED_FOLDER / "vae" / "diffusion_pytorch_model.safetensors"
    for name in ("vae/there.safetensors", "text_encoders/other.safetensors"):
        shutil.copyfile(part, models / name)
    network = EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(network, models / "diffusion_models" / "there.safetensors")
    for kind in ("vae", "diffusion_models", "text_encoders", "loras", "controlnet", "annotators"):
        (models / kind / "broken.safetensors").write_text(SECRET, "utf-8")
        (models / kind / "notes.txt").write_text(SECRET, "utf-8")
    outside.mkdir()
    for name in ("here.safetensors", "here.json", "here.png", "here"):
        (outside / name).write_text(SECRET, "utf-8")
    (outside / "folder").mkdir()
    os.mkfifo(outside / "fifo")


def pairs(base: Path, outside: Path) -> list[tuple[Any, Any]]:
    """(a value whose file exists, one whose file does not, or None where there is no pair)."""
    far = os.path.relpath(outside, base / "models" / "vae")
    found = [
        (str(outside / "here.safetensors"), str(outside / "gone.safetensors")),
        (str(outside / "here.json"), str(outside / "gone.json")),
        (str(outside / "folder"), str(outside / "absent")),
        (str(outside / "fifo"), str(outside / "none")),
        (f"{far}/here.safetensors", f"{far}/gone.safetensors"),
        (f"{far}\\here.safetensors".replace("/", "\\"), f"{far}\\gone.safetensors"),
        ("../vae/there.safetensors", "../vae/thing.safetensors"),
        ("notes.txt", "nones.txt"),
        ("text_encoders/other.safetensors", "text_encoders/ether.safetensors"),
        ("/etc/passwd", "/etc/passwx"),
        ("/dev/zero", "/dev/zerx"),
        ("/proc/self/environ", "/proc/self/envirox"),
        ("//localhost/here", "//localhost/gone"),
        ("\\\\host\\share\\a", "\\\\host\\share\\b"),
        ("C:/Windows/win.ini", "C:/Windows/wix.ini"),
        ("file:///etc/passwd", "file:///etc/passwx"),
        ("~/.bashrc", "~/.bashrx"),
        ("here\0.safetensors", "gone\0.safetensors"),
        ("here\n.safetensors", "gone\n.safetensors"),
        ("CON", "AUX"),
        ({"path": str(outside / "here")}, {"path": str(outside / "gone")}),
        ([str(outside / "here")], [str(outside / "gone")]),
    ]
    alone = (".", "..", "", " ", "h" * 300, 5, -1, 1e308, True, None, [], {}, ["node", 0])
    return [*found, *((value, None) for value in alone)]


def choices(spec: list[Any]) -> list[Any] | None:
    """What a list offers; None for other inputs. Servers differ in how they say it."""
    kind, *rest = spec
    return kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options")


def widgets(info: dict[str, Any]) -> dict[str, Any]:
    """Name -> value of every widget of a node's /object_info: its default, small where it draws."""
    found: dict[str, Any] = {}
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            kind, options, offered = spec[0], (spec[1:] or [{}])[0], choices(spec)
            if offered is not None:
                usual = options.get("default", offered[0] if offered else "")
                found[name] = next((c for c in offered if str(c).startswith("there")), usual)
            elif kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
                found[name] = SMALL.get(name, options.get("default", ""))
    return found


def graph_of(node: str, known: dict[str, Any]) -> Graph:
    """The smallest graph around a node, whose id is "node"."""
    graph: Graph = {}

    def add(kind: str, key: str) -> str:
        if key not in graph:
            entry: dict[str, Any] = {"class_type": kind, "inputs": widgets(known[kind])}
            graph[key] = entry
            for name, (socket, *_) in known[kind]["input"].get("required", {}).items():
                if isinstance(socket, str) and socket in SOURCES and name not in entry["inputs"]:
                    source, slot = SOURCES[socket]
                    entry["inputs"][name] = [add(source, source), slot]
        return key

    add(node, "node")
    if not known[node]["output_node"]:
        graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}}
    return graph


def with_value(graph: Graph, name: str, value: Any) -> Graph:
    """A copy of the graph with one widget of the node changed."""
    changed = json.loads(json.dumps(graph))
    changed["node"]["inputs"][name] = value
    if name == "keypoints":
        changed["node"]["inputs"]["type"] = "pose"
    return changed
