"""One pipeline, four faces: `inkstone draw`, the graph in its PNG, a line of a queue and the Python
API give the same latents bit for bit, and the same pixels.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import inkstone
from inkstone.files.png import read_text_chunks
from inkstone.headless.cli import main
from inkstone.headless.core_nodes.registry import node_classes
from inkstone.headless.graph.api_graph import Link, parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost
from inkstone.loaders.formats.safetensors import SafetensorsFile

from ...support.draw_graphs import folders
from .test_draw_graph import lora_for_embedded

pytestmark = pytest.mark.slow

PROMPT = "a red star on a white background"
LORA = "models/loras/l.safetensors"


@pytest.fixture
def files(place) -> Path:
    folders(place)
    lora_for_embedded(Path(LORA), 1)
    return place


def latents(name: str) -> torch.Tensor:
    with SafetensorsFile(name) as file:
        return file.read("samples").clone()


def by_command(options: dict[str, object]) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Latents and pixels of `inkstone draw`."""
    words = ["draw", PROMPT, "-o", "drawn.png", "--save-latent", "drawn.safetensors", "--quiet"]
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(item)]
    assert main(words) == 0
    files = sorted(Path().glob("drawn*.png"))
    return latents("drawn.safetensors"), [np.asarray(Image.open(file)) for file in files]


def by_graph(executor: Executor) -> torch.Tensor:
    """Latents of the graph that the (first) picture carries."""
    name = min(Path().glob("drawn*.png"))
    graph = parse_graph(json.loads(read_text_chunks(name)["prompt"]))
    key = next(k for k, node in graph.items() if node.class_type == "InkstoneDenoise")
    (latent,) = executor.values(graph, [Link(key, 0)], HeadlessHost())
    return latent["samples"]


def by_queue(options: dict[str, object]) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Latents and pixels of a job."""
    job = {"id": "job", "prompt": PROMPT, "save_latent": True, **options}
    Path("jobs.jsonl").write_text(json.dumps(job))
    assert main(["batch", "jobs.jsonl", "--output", "out", "--quiet"]) == 0
    files = sorted(Path("out").glob("job*.png"))
    return latents("out/job.safetensors"), [np.asarray(Image.open(file)) for file in files]


def check(options: dict[str, object], graph: bool = True) -> None:
    """All four agree. graph: a batch's pictures carry the graphs of single ones instead."""
    want, pixels = by_command(options)
    if graph:
        error = (by_graph(Executor(node_classes())) - want).abs().max()
        assert error == 0, f"the graph's latents differ by {error}"
    queued, queued_pixels = by_queue(options)
    assert torch.equal(queued, want), f"the queue's differ by {(queued - want).abs().max()}"
    drawn = [np.asarray(picture) for picture in inkstone.draw(PROMPT, **options)]
    for name, others in (("queue", queued_pixels), ("API", drawn)):
        assert len(others) == len(pixels), name
        assert all(map(np.array_equal, others, pixels)), name


CASES = {
    "text to image": {},
    "no guidance": {"cfg": 1.0},
    "a canvas of its own": {"size": "160x96"},
    "image to image": {"image": "input/a.png", "strength": 0.7},
    "edit": {"image": "input/a.png"},
    "edit with alpha": {"image": "input/clear.png"},
    "edit on a canvas of its own": {"image": "input/clear.png", "size": "96x64"},
    "inpaint": {"image": "input/a.png", "mask": "input/mask.png", "strength": 0.9},
    "control": {"control": "canny:input/c.png", "size": "128x128"},
    "control on its own canvas": {"control": "map:input/a.png:0.8:0-0.5"},
    "lora": {"lora": f"{LORA}:0.7"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_latents(name, files):
    check({"steps": 2, "seed": 3, **CASES[name]})


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(ending, files):
    """A draw reads one frame, its graph takes one out of all."""
    frames = [Image.new("RGBA", (96, 64), (40 * n + 20, 90, 0, 255)) for n in range(3)]
    for frame in frames:
        frame.paste((0, 0, 0, 0), (0, 0, 20, 20))
    name = f"input/moves.{ending}"
    frames[0].save(name, save_all=True, append_images=frames[1:])
    check({"steps": 2, "seed": 3, "image": name})
    mask = Image.new("L", (96, 64))
    mask.paste(255, (40, 20, 80, 50))
    mask.save("input/part.png")
    options = {"image": name, "mask": "input/part.png", "strength": 0.8}
    check({"steps": 2, "seed": 3, **options, "control": f"canny:{name}"})


def test_a_batch_is_the_same_batch(files):
    check({"steps": 2, "seed": 3, "batch": 3}, graph=False)


def test_a_batch_from_a_picture_is_the_same_batch(files):
    options = {"image": "input/a.png", "mask": "input/mask.png", "batch": 3, "steps": 2}
    check(options, graph=False)


def test_layers(files, tiny_folder):
    model = tiny_folder("layered")
    Path("models/diffusers/layered").symlink_to(model)
    options = {"model": "models/diffusers/layered", "image": "input/c.png", "layers": 2}
    check({**options, "steps": 2, "cfg": 1.0, "dtype": "float32"})


def test_statistics_of_a_vae_of_its_own(files, tiny_folder):
    """A model file and a VAE from another place, whose statistics the model's file does not say:
    the graph that names them one by one draws the same latents.
    """
    folder = tiny_folder("qwen-image")
    for kind, part in (("diffusion_models", "transformer"), ("vae", "vae")):
        Path(f"models/{kind}/own").symlink_to(folder / part)
    Path("models/text_encoders/own").symlink_to(folder)
    options = {
        "model": "models/diffusion_models/own",
        "vae": "models/vae/own",
        "text_encoder": "models/text_encoders/own",
    }
    check({**options, "steps": 2, "cfg": 1.0, "dtype": "float32", "size": "64x64"})


@pytest.mark.slow
def test_inpaint_of_60_random_sizes(files):
    """Sizes where two ways to one picture would round differently: one canvas, by every face."""
    dice = random.Random(60)
    executor, sizes = Executor(node_classes()), set()
    with inkstone.load(dtype="float32") as models:
        for _ in range(60):
            width, height = dice.randint(40, 400), dice.randint(40, 400)
            left, top = dice.randint(0, width - 24), dice.randint(0, height - 24)
            right, bottom = dice.randint(left + 16, width), dice.randint(top + 16, height)
            noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
            mask = Image.new("L", (width, height))
            ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
            Image.fromarray(noise).save("input/p.png")
            mask.save("input/m.png")
            options = {"image": "input/p.png", "mask": "input/m.png", "strength": 0.5, "steps": 2}
            want, pixels = by_command(options | {"dtype": "float32"})
            case = f"{width}x{height}, mask {left},{top} to {right},{bottom}"
            assert torch.equal(by_graph(executor), want), case
            (picture,) = models.draw(PROMPT, **options)
            assert np.array_equal(np.asarray(picture), pixels[0]), case
            outside = np.asarray(mask) == 0
            assert np.array_equal(pixels[0][outside], noise[outside]), case
            sizes.add((width, height))
    assert len(sizes) > 50
