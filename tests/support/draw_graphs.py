"""Draws, and the graphs that their PNGs carry run without the draw's options.

The pictures of a graph are taken before Save Image, which cuts values to 8 bits as the core does; a
draw rounds them, and rounded alike they are equal bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inkstone.files.png import read_text_chunks
from inkstone.headless.cli.main import main
from inkstone.headless.core_nodes.registry import CORE_NODES, node_classes
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.headless.graph.validation import validate
from inkstone.headless.workflow.load import interfaces, read_graph_file
from inkstone.host.api import io
from inkstone.host.headless import HeadlessHost

from ..headless.draw.test_edit_draw import mask_file, pixels, save
from .layouts import faults


class Kept(CORE_NODES["SaveImage"]):
    """Keeps what would be saved."""

    pictures: list[torch.Tensor] = []

    @classmethod
    def execute(cls, images: torch.Tensor, filename_prefix: str) -> io.NodeOutput:
        Kept.pictures.append(images)
        return io.NodeOutput(ui={})


def own_graph(name: str) -> list[np.ndarray]:
    """The pictures of a PNG's graph, rounded as a draw rounds them."""
    Kept.pictures.clear()
    graph = parse_graph(json.loads(read_text_chunks(name)["prompt"]))
    host = HeadlessHost(temp=Path("temp"), output=Path("out"))
    Executor(node_classes() | {"SaveImage": Kept}).run(graph, host)
    (pictures,) = Kept.pictures
    return list((pictures * 255).round().to(torch.uint8).numpy())


def drawn(*arguments: object, steps: int = 2) -> dict[str, np.ndarray]:
    """The pictures of a draw by file name."""
    call = ["draw", *map(str, arguments), "--steps", str(steps), "-o", "made.png", "--quiet"]
    assert main(call) == 0
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path().glob("made*.png"))}


def kinds(name: str) -> list[str]:
    """The classes of the nodes of a PNG's graph."""
    graph = json.loads(read_text_chunks(name)["prompt"])
    return [node["class_type"].removeprefix("Inkstone") for node in graph.values()]


def check(files: dict[str, np.ndarray], each: int = 1) -> None:
    """Every picture's own graph draws it, and the graph of the page is the same graph. each: the
    pictures of one graph. A batch is decoded side by side: its sums have another order, which
    rounds to 1/255 in few places.
    """
    most = int(len(files) > each)
    for k, (name, picture) in enumerate(files.items()):
        drawn_again = own_graph(name)
        assert len(drawn_again) == each
        same = drawn_again[k % each]
        assert same.shape == picture.shape, name
        error = np.abs(same.astype(int) - picture)
        assert error.max() <= most, f"{name}: the graph's picture differs by {error.max()}/255"
        assert (error > 0).mean() < 1e-3, f"{name}: {(error > 0).mean():.2%} of it differs"
        file, nodes = read_graph_file(Path(name)), node_classes()
        validate(parse_graph(file.api), nodes, choices=False)
        assert file.as_api(interfaces(nodes), ran=False) == file.api
        assert file.ui is None or faults(file.ui) == [], name


def folders(place: Path) -> Path:
    """input/ with pictures and masks, models/ as ComfyUI has it, in the folder of a draw."""
    (place / "input" / "sub").mkdir(parents=True)
    save("input/a.png", pixels())
    save("input/sub/b.png", pixels(47, 33, seed=1))
    save("input/c.png", pixels(40, 40, seed=2))
    save("input/clear.png", pixels(channels=4))
    mask = mask_file("input/mask.png")
    save("input/hole.png", np.dstack([pixels(seed=3), 255 - mask]))
    for kind in ("diffusers", "loras", "controlnet", "diffusion_models", "text_encoders", "vae"):
        (place / "models" / kind).mkdir(parents=True)
    return place
