"""Graphs with one node of ours bypassed or muted, for every node of every shipped graph.

Classes that no shipped graph has come in graphs of their own. The bridges need core samplers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.input_values import GraphError
from inkstone.headless.graph.validation import validate
from inkstone.headless.workflow.load import interfaces
from inkstone.headless.workflow.parse_ui import parse_workflow
from inkstone.headless.workflow.to_api import Flattener
from inkstone.headless.workflow.to_ui import ui_from_api

CLASSES = node_classes()
SHIPPED = Path(__file__).resolve().parents[2] / "workflows"
MODES = {"muted": 2, "bypassed": 4}
EMBEDDED = "text_to_image_embedded"


class Switched(NamedTuple):
    """A UI graph in which `node`, of class `kind`, is bypassed or muted."""

    graph: str
    node: str
    kind: str
    mode: str
    ui: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.graph}: node {self.node} ({self.kind}) {self.mode}"


def switched() -> Iterator[Switched]:
    """Every case."""
    for name, ui in graphs().items():
        for place, node in enumerate(ui["nodes"]):
            for mode, number in MODES.items() if node["type"].startswith("Inkstone") else ():
                changed = copy.deepcopy(ui)
                changed["nodes"][place]["mode"] = number
                yield Switched(name, str(node["id"]), node["type"], mode, changed)


def converted(ui: dict[str, Any]) -> dict[str, Any]:
    """Our API graph of a UI graph."""
    return Flattener(parse_workflow(ui), interfaces(CLASSES)).api()


def fault_of(case: Switched) -> GraphError | None:
    """What the checks before a run refuse, files apart."""
    try:
        validate(parse_graph(converted(case.ui)), CLASSES, choices=False)
    except GraphError as error:
        return error
    return None


def runnable(cases: list[Switched]) -> list[Switched]:
    """One case of each class, mode and kind of graph that the checks let pass."""
    chosen: dict[tuple[str, str, bool], Switched] = {}
    for case in cases:
        if case.kind != "InkstoneQuantise" and fault_of(case) is None:
            chosen.setdefault((case.kind, case.mode, "embedded" in case.graph), case)
    return list(chosen.values())


def says_what_to_do(error: Exception) -> bool:
    """True for a sentence of ours that names what to connect, or which size to choose."""
    asks = re.search(r"(?i)connect|make the map", str(error))
    return bool(asks) and not re.search(r"\w+Error: \w+Error|NoneType|Traceback", str(error))


def example(folder: Path) -> None:
    """example.png with a transparent part, as the mask editor saves a mask."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.effect_noise((64, 48), 90).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (16, 8, 48, 32))
    image.save(folder / "example.png")


def graphs() -> dict[str, dict[str, Any]]:
    """The UI graphs by name: the shipped ones first, which run as they are."""
    shipped = {}
    for path in SHIPPED.glob("*.json"):
        ui = json.loads(path.read_text("utf-8"))
        shipped[ui["extra"]["inkstone"]["name"]] = ui
    own = {name: ui_from_api(api, CLASSES) for name, api in own_graphs().items()}
    return dict(sorted(shipped.items())) | own


def own_graphs() -> dict[str, dict[str, Any]]:
    """API graphs of the classes that no shipped graph has and that run without ComfyUI."""
    plain = json.loads((SHIPPED / "api" / f"{EMBEDDED}.json").read_text("utf-8"))
    ids = {entry["class_type"]: key for key, entry in plain.items()}
    load, sample = ids["InkstoneLoadAll"], ids["InkstoneDenoise"]

    def with_nodes(changes: dict[str, Any], **nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        graph = json.loads(json.dumps(plain))
        graph |= {key: {"class_type": kind, "inputs": v} for key, (kind, v) in nodes.items()}
        graph[sample]["inputs"] |= changes
        return graph

    canvas = [ids["InkstoneEmptyLatent"], 0]
    schedule = {"model": [load, 0], "latent": canvas, "steps": 2, "schedule": "linear"}
    graph = with_nodes({"sigmas": ["90", 0]}, **{"90": ("InkstoneSchedule", schedule)})
    for name in ("steps", "schedule", "strength"):
        graph[sample]["inputs"].pop(name, None)
    stack = {"model": [load, 0], "loras.lora_0": ["93", 0]}
    file = {"lora": "tiny.safetensors"}
    asked = {"text_encoder": [load, 1], "images.picture_1": ["95", 0]}
    picture = {"image": "example.png"}
    facts = {"model": [load, 0], "latent": canvas, "steps": 2}
    wish = {"text_encoder": [load, 1], "prompt": "a star"}
    sought = {"text_encoder": [load, 1], "image": ["95", 0], "what": "the star"}
    return {
        "embedded with facts": with_nodes({}, **{"96": ("InkstoneModelInfo", facts)}),
        "embedded with a wish": with_nodes({}, **{"97": ("InkstoneEnhancePrompt", wish)}),
        "embedded with a search": with_nodes(
            {}, **{"98": ("InkstoneFindInPicture", sought), "95": ("LoadImage", picture)}
        ),
        "embedded with a schedule": graph,
        "embedded with a question": with_nodes(
            {}, **{"94": ("InkstoneAskPicture", asked), "95": ("LoadImage", picture)}
        ),
        "embedded with a stack": with_nodes(
            {"model": ["91", 0]},
            **{"91": ("InkstoneLoraStack", stack), "93": ("InkstoneLoadLora", file)},
        ),
        "embedded quantized": with_nodes(
            {}, **{"92": ("InkstoneQuantise", {"model": "m.gguf", "type": "Q8_0", "name": "n"})}
        ),
    }
