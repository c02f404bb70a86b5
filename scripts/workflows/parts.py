"""The pieces that the example graphs share: nodes by stage, loaders, the records of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.nodes.canvas import SMALL
from inkstone.nodes.load import EMBEDDED
from inkstone.nodes.schedule import SCHEDULES

Link = list[str | int]  # [id of a node, slot]


class Node(TypedDict, total=False):
    """One entry of an API graph."""

    class_type: str
    inputs: dict[str, object]
    _meta: dict[str, str]


Graph = dict[str, Node]
Example = tuple[Graph, str]
"""An API graph and its note in Markdown."""

EXAMPLE = "example.png"  # lies in the input folder of every ComfyUI
OWN, _, LIGHTNING, *_ = SCHEDULES
SMALL_SIDE = 128  # pixels of the embedded model's canvas
SMALL_CANVAS = {"size": SMALL}  # width and height stay as the page hides them
MODEL, NEWER_MODEL = "qwen_image_fp8_e4m3fn.safetensors", "qwen_image_2512_fp8_e4m3fn.safetensors"
TEXT_ENCODER = "qwen_2.5_vl_7b_fp8_scaled.safetensors"
WRITER = "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf"  # a text encoder that has its output head
FILES, GGUF = "## Files", "Less memory: a GGUF file of the model in the same folder."
GGUF_ZH = "显存不够：同一模型的 GGUF 文件放进同一文件夹即可。"


@dataclass(frozen=True)
class Run:
    """Settings of a schedule and a denoiser."""

    steps: int
    cfg: float
    seed: int = 42
    schedule: str = OWN
    strength: float = 1.0


SMALL_RUN = Run(steps=20, cfg=2.0)


@dataclass(frozen=True)
class Wires:
    """The links that a run takes its inputs from."""

    model: Link
    vae: Link
    positive: Link
    latent: Link | None = None  # None: one picture of the model's own size


def node(kind: str, title: str = "", /, **inputs: object) -> Node:
    """One entry of an API graph, with a title where a class occurs twice in a graph."""
    entry: Node = {"class_type": kind, "inputs": inputs}
    if title:
        entry["_meta"] = {"title": title}
    return entry


def draw(start: int, wires: Wires, run: Run, title: str = "") -> Graph:
    """Sampler and decoder, as nodes `start` + 1 and `start` + 2."""
    denoise, decode = map(str, range(start + 1, start + 3))
    titles = [f"{title}: {stage}" if title else "" for stage in ("sampler", "decode")]
    graph = {
        denoise: node(
            "InkstoneDenoise",
            titles[0],
            model=wires.model,
            positive=wires.positive,
            seed=run.seed,
            cfg=run.cfg,
            steps=run.steps,
            schedule=run.schedule,
            strength=run.strength,
        ),
        decode: node("InkstoneDecode", titles[1], vae=wires.vae, latent=[denoise, 0]),
    }
    if wires.latent is not None:
        graph[denoise]["inputs"]["latent"] = wires.latent
    return graph


def prompt(text_encoder: Link, text: str, negative: str, title: str = "") -> Node:
    """Encodes a prompt and a negative prompt."""
    return node(
        "InkstoneEncodePrompt", title, text_encoder=text_encoder, prompt=text, negative=negative
    )


def save(key: str, image: Link, name: str) -> Graph:
    """Saves a picture."""
    return {key: node("SaveImage", images=image, filename_prefix=f"inkstone/{name}")}


def load_embedded() -> Node:
    """Loads the embedded model, which needs no file."""
    return node("InkstoneLoadAll", folder=EMBEDDED, dtype="auto")


def loaders(
    model: str,
    vae: str = "qwen_image_vae.safetensors",
    variant: str = "auto",
    text_encoder: str = TEXT_ENCODER,
) -> dict[str, Node]:
    """Loaders of ComfyUI's single files: nodes 1 to 3."""
    return {
        "1": node("InkstoneLoadDiffusionModel", model=model, dtype="auto", variant=variant),
        "2": node("InkstoneLoadTextEncoder", text_encoder=text_encoder, dtype="auto"),
        "3": node("InkstoneLoadVAE", vae=vae, dtype="auto"),
    }


def drawn_source(text: str) -> Graph:
    """Nodes 1 to 5 of the graphs that draw their own source picture; node 4 has the picture."""
    model, encoder, vae = ends()
    return {
        "1": load_embedded(),
        "2": prompt(encoder, text, "", "Source: prompt"),
        **draw(2, Wires(model, vae, ["2", 0]), replace(SMALL_RUN, seed=7), "Source"),
        "5": node("PreviewImage", "Before", images=["4", 0]),
    }


def note(english: str, chinese: str, files: bool = True) -> str:
    """The note of a graph, in both languages; build.py puts the files below its heading."""
    if not files:
        return f"## No download needed\n\n{english}\n\n{chinese}\n"
    return f"{FILES}\n\n{GGUF} {english}\n\n{GGUF_ZH}{chinese}\n"


def ends() -> tuple[Link, Link, Link]:
    """Links of model, text encoder and VAE of `load_embedded`, as node 1."""
    return ["1", 0], ["1", 1], ["1", 2]
